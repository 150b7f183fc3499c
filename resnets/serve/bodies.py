"""Reading of request bodies: raw images, multipart forms and JSON, within limits."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from resnets.serve.limits import Limits
from resnets.serve.problems import CLIENT_CLOSED_REQUEST, Problem, busy

_RAW = ("application/octet-stream", "image/")
_TYPES = "image/..., application/octet-stream, multipart/form-data or application/json"
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
    """The media type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(request: Request, limits: Limits, key: str, reserve: Reserve) -> list[bytes]:
    content_type = _content_type(request)
    if content_type == "multipart/form-data":
        return await _read_form(request, limits, reserve)
    if content_type == "application/json":
        return await _read_json(request, limits, key, reserve)
    shown = content_type[:80] or "none"
    raise Problem(415, f"content type {shown!r} is not supported", f"send {_TYPES}")


async def _stream(
    request: Request, limits: Limits, reserve: Reserve
) -> AsyncGenerator[bytes, None]:
    """The parts of a body; raises `Problem` at the limit of bytes, memory or time."""
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
        raise Problem(400, f"not a multipart form ({error.message[:200]})") from error
    except (KeyError, ValueError, LookupError) as error:
        hint = "give its boundary in Content-Type"
        raise Problem(400, "not a multipart form", hint) from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) > limits.images:
            raise _too_many(limits)
        return [await file.read() for file in files]
    finally:
        await form.close()


async def _read_json(request: Request, limits: Limits, key: str, reserve: Reserve) -> list[bytes]:
    text = b"".join([part async for part in _stream(request, limits, reserve)])
    # Base64 has none of these characters. Many small values would take far more memory than text.
    if sum(text.count(mark) for mark in (b"{", b"[", b",", b":")) > 4 * limits.images + 64:
        raise Problem(400, "the JSON has too many values", f"send {limits.images} images at most")
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"not JSON ({str(error)[:100]})") from error
    value = document.get(key) if isinstance(document, dict) else None
    images = [value] if key == "image" else value
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        form = '{"image": "<base64>"}' if key == "image" else '{"images": ["<base64>", ...]}'
        raise Problem(400, f"the JSON has no {key} in base64", f"send {form}")
    if len(images) > limits.images:
        raise _too_many(limits)
    try:
        return [base64.b64decode(image, validate=True) for image in images]
    except (binascii.Error, ValueError) as error:
        raise Problem(400, f"{key} is not base64 ({error})") from error
