"""Reading of request bodies: raw images, multipart forms and JSON, within limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from resnets.serve.keys import check_keys
from resnets.serve.limits import Limits
from resnets.serve.problems import CLIENT_CLOSED_REQUEST, Problem, busy

_RAW = ("application/octet-stream", "image/")
_KINDS = "multipart/form-data or application/json"
_DATA_URL = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]{1,20}:/", re.IGNORECASE)
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_FORM_FILES = "send images as files of the form; curl: -F image=@cat.png"
Reserve = Callable[[int], None]
"""Reserves memory for this many more bytes; raises `Problem` (503) if there is none."""


class BodyMemory:
    """The memory for request bodies of a server.

    Args:
        limits: `memory` is the bytes of all bodies.
        abandoned_bytes: returns bytes that are still in use although their requests have ended.
    """

    def __init__(self, limits: Limits, abandoned_bytes: Callable[[], int] = lambda: 0) -> None:
        self._limit, self._abandoned_bytes = limits.memory, abandoned_bytes
        self.held = 0
        """Bytes that are reserved."""

    @contextlib.contextmanager
    def for_request(self) -> Iterator[Reserve]:
        """A function that reserves memory until the request has its response."""
        reserved = 0

        def reserve(size: int) -> None:
            nonlocal reserved
            if self.held + self._abandoned_bytes() + size > self._limit:
                problem = busy("the memory for request bodies is full")
                problem.headers["Connection"] = "close"
                raise problem
            reserved += size
            self.held += size

        try:
            yield reserve
        finally:
            self.held -= reserved


class _FormParser(MultiPartParser):
    spool_max_size = 1 << 40  # in memory, which has a limit; nothing is written to disk


async def read_image(request: Request, limits: Limits, reserve: Reserve) -> bytes:
    """Read a body that holds exactly one image file; raises `Problem`."""
    if _content_type(request).startswith(_RAW):
        content = b"".join([part async for part in _stream(request, limits, reserve)])
        if not content:
            raise Problem(400, "the body is empty", "send an image file")
        if content[:5].lower() == b"data:":
            raise Problem(400, "a data URL is not an image file", 'send {"image": "data:..."}')
        return content
    images = await _read(request, limits, "image", reserve)
    if len(images) != 1:
        hint = "use /v1/predict/batch for several"
        raise Problem(400, f"{len(images)} images instead of one", hint)
    return images[0]


async def read_images(request: Request, limits: Limits, reserve: Reserve) -> list[bytes]:
    """Read a body that holds one or more image files; raises `Problem`."""
    images = await _read(request, limits, "images", reserve)
    if not images:
        raise Problem(400, "no images", "send form files named image, or JSON with images")
    return images


def _content_type(request: Request) -> str:
    """The media type without parameters, in lower case; raises `Problem` if there are several."""
    sent = request.headers.getlist("content-type")
    if len(sent) > 1:
        raise Problem(400, f"{len(sent)} Content-Type headers", "send one")
    return "".join(sent).partition(";")[0].strip().lower()


async def _read(request: Request, limits: Limits, key: str, reserve: Reserve) -> list[bytes]:
    content_type = _content_type(request)
    if content_type == "multipart/form-data":
        return await _read_form(request, limits, reserve)
    if content_type == "application/json":
        return await _read_json(request, limits, key, reserve)
    shown = content_type[:80] or "none"
    hint = f"send {_KINDS}" if key == "images" else f"send image/..., {_RAW[0]}, {_KINDS}"
    if content_type == "application/x-www-form-urlencoded":  # curl's default
        hint = _FORM_FILES
    raise Problem(415, f"content type {shown!r} is not supported", hint)


def _check_encoding(request: Request) -> None:
    """Raise `Problem` (415) if the body is compressed."""
    sent = ",".join(request.headers.getlist("content-encoding"))
    if any(coding.strip().lower() not in ("", "identity") for coding in sent.split(",")):
        detail = f"content encoding {sent[:80]!r} is not supported"
        headers = {"Accept-Encoding": "identity"}
        raise Problem(415, detail, "send the body without compression", headers)


async def _stream(
    request: Request, limits: Limits, reserve: Reserve
) -> AsyncGenerator[bytes, None]:
    """The parts of a body; raises `Problem` at the limit of bytes, memory or time."""
    _check_encoding(request)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limits.bytes:
        raise _too_large(limits)
    size, until = 0, asyncio.get_running_loop().time() + limits.client_timeout
    parts = request.stream()
    try:
        while True:
            async with asyncio.timeout_at(until):
                part = await anext(parts, None)
            if part is None:
                return
            size += len(part)
            if size > limits.bytes:
                raise _too_large(limits)
            reserve(len(part))
            yield part
    except TimeoutError as error:
        hint = f"send the body within {limits.client_timeout:g} seconds"
        raise Problem(408, "the body came too slowly", hint, {"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise Problem(CLIENT_CLOSED_REQUEST, "the client has disconnected") from error


def _too_large(limits: Limits) -> Problem:
    hint = "send fewer or smaller images"
    return Problem(413, f"more than {limits.bytes:,} bytes", hint, {"Connection": "close"})


def _too_many(limits: Limits) -> Problem:
    return Problem(413, f"more than {limits.images} images", "send them in several requests")


async def _read_form(request: Request, limits: Limits, reserve: Reserve) -> list[bytes]:
    parser = _FormParser(
        request.headers,
        _stream(request, limits, reserve),
        max_files=limits.images + 1,
        max_fields=8,
        max_part_size=1 << 16,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise _too_many(limits) from error
        if "Part exceeded" in error.message:
            raise Problem(
                400, "a field of the form is long, but not a file", _FORM_FILES
            ) from error
        raise Problem(400, f"not a multipart form ({error.message[:200]})") from error
    except (KeyError, ValueError, LookupError) as error:
        hint = "give its boundary in Content-Type"
        raise Problem(400, "not a multipart form", hint) from error
    try:
        check_keys((key for key, _ in form.multi_items()), ("image", "images"), "form", repeat=True)
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) < len(form.multi_items()):
            raise Problem(400, "the image is a value of the form, not a file", _FORM_FILES)
        if len(files) > limits.images:
            raise _too_many(limits)
        for file in files:
            _check_part(file)
        return [await file.read() for file in files]
    finally:
        await form.close()


def _check_part(file: UploadFile) -> None:
    """Raise `Problem` (415) if a file of a form is encoded, which RFC 7578 deprecates."""
    coding = file.headers.get("content-transfer-encoding", "binary")
    if coding.strip().lower() not in ("", "binary", "8bit", "7bit"):
        detail = f"content transfer encoding {coding[:80]!r} is not supported"
        raise Problem(415, detail, "send the file as it is")


async def _read_json(request: Request, limits: Limits, key: str, reserve: Reserve) -> list[bytes]:
    text = b"".join([part async for part in _stream(request, limits, reserve)])
    # Base64 has none of these characters. Many small values would take far more memory than text.
    if sum(text.count(mark) for mark in (b"{", b"[", b",", b":")) > 4 * limits.images + 64:
        raise Problem(400, "the JSON has too many values", f"send {limits.images} images at most")

    def checked(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        check_keys((name for name, _ in pairs), (key,), "JSON")
        return dict(pairs)

    try:
        # Not strict: base64 in lines is wrapped by line breaks, which JSON would have escaped.
        document: Any = json.loads(text, strict=False, object_pairs_hook=checked)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"not JSON ({str(error)[:100]})") from error
    value = document.get(key) if isinstance(document, dict) else None
    images = [value] if key == "image" else value
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        form = '{"image": "<base64>"}' if key == "image" else '{"images": ["<base64>", ...]}'
        raise Problem(400, f"the JSON has no {key} in base64", f"send {form}")
    if len(images) > limits.images:
        raise _too_many(limits)
    return [
        _decoded(image, key if key == "image" else f"images[{number}]")
        for number, image in enumerate(images)
    ]


def _decoded(text: str, name: str) -> bytes:
    """The bytes of base64: usual or URL-safe, padded or not, in lines, or within a data URL.

    Raises:
        Problem: 400.
    """
    text = text.strip()
    if url := _DATA_URL.match(text):
        if not url[1].lower().endswith(";base64"):
            raise Problem(400, f"{name} is a data URL without base64", "send data:;base64,...")
        text = text[url.end() :]
    try:
        sent = text.encode("ascii").translate(_URL_SAFE, b" \t\r\n\v\f").rstrip(b"=")
        return base64.b64decode(sent + b"=" * (-len(sent) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        hint = "send the image itself: the server opens no URLs" if _ADDRESS.match(text) else ""
        raise Problem(400, f"{name} is not base64 ({str(error)[:100]})", hint) from error
