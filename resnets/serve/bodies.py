"""The images in a request's body, read under limits."""

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
from resnets.serve.problems import GONE, Problem, busy

RAW = ("application/octet-stream", "image/")
More = Callable[[int], None]
KINDS = "image/..., application/octet-stream, multipart/form-data or application/json"


class Bodies:
    """The bodies that a server holds, and how many bytes they are.

    Args:
        left: gives the bytes that are held after their request is done.
    """

    def __init__(self, limits: Limits, left: Callable[[], int] = lambda: 0) -> None:
        self._most, self._left, self.held = limits.memory, left, 0

    @contextlib.contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Room for a body until its request is done: call what it gives with each part's bytes.

        Raises:
            Problem: 503 if there is none.
        """
        mine = 0

        def more(size: int) -> None:
            nonlocal mine
            if self.held + self._left() + size > self._most:
                problem = busy("too many bytes are being worked on")
                problem.headers["Connection"] = "close"
                raise problem
            mine += size
            self.held += size

        try:
            yield more
        finally:
            self.held -= mine


class _Form(MultiPartParser):
    spool_max_size = 1 << 40  # in memory, whose use is bounded; nothing is written to disk


async def read_one(request: Request, limits: Limits, more: More) -> bytes:
    """The one image of a request; raises `Problem`."""
    kind = content_type(request)
    if kind.startswith(RAW):
        content = b"".join([part async for part in _stream(request, limits, more)])
        if not content:
            raise Problem(400, "the body is empty", "send an image file")
        return content
    images = await _several(request, limits, "image", more)
    if len(images) != 1:
        raise Problem(400, f"{len(images)} images, not one", "use /v1/predict/batch for several")
    return images[0]


async def read_several(request: Request, limits: Limits, more: More) -> list[bytes]:
    """The images of a request, at least one; raises `Problem`."""
    images = await _several(request, limits, "images", more)
    if not images:
        raise Problem(400, "no images", "send form files named image, or JSON with images")
    return images


def content_type(request: Request) -> str:
    """The media type without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _several(request: Request, limits: Limits, key: str, more: More) -> list[bytes]:
    kind = content_type(request)
    if kind == "multipart/form-data":
        return await _form(request, limits, more)
    if kind == "application/json":
        return await _json(request, limits, key, more)
    shown = kind[:80] or "none"
    raise Problem(415, f"content type {shown!r} is not taken", f"send {KINDS}")


async def _stream(request: Request, limits: Limits, more: More) -> AsyncGenerator[bytes, None]:
    """The body piece by piece; ends with a `Problem` at a limit of bytes or time."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > limits.bytes:
        raise _too_large(limits)
    size, until = 0, asyncio.get_running_loop().time() + limits.sending
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
            more(len(part))
            yield part
    except TimeoutError as error:
        hint = f"send the body within {limits.sending:g} seconds"
        raise Problem(408, "the body came too slowly", hint, {"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise Problem(GONE, "the client has gone") from error


def _too_large(limits: Limits) -> Problem:
    hint = "send fewer or smaller images"
    return Problem(413, f"more than {limits.bytes:,} bytes", hint, {"Connection": "close"})


async def _form(request: Request, limits: Limits, more: More) -> list[bytes]:
    parser = _Form(
        request.headers,
        _stream(request, limits, more),
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
        raise Problem(400, "not a multipart form", "give its boundary") from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) > limits.images:
            raise _too_many(limits)
        return [await file.read() for file in files]
    finally:
        await form.close()


async def _json(request: Request, limits: Limits, key: str, more: More) -> list[bytes]:
    text = b"".join([part async for part in _stream(request, limits, more)])
    # Images in base64 have none of these marks; small marks can stand for large objects.
    if sum(text.count(mark) for mark in (b"{", b"[", b",", b":")) > 4 * limits.images + 64:
        raise Problem(400, "more values in the JSON than images may be")
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"not JSON ({str(error)[:100]})") from error
    found = document.get(key) if isinstance(document, dict) else None
    listed = [found] if key == "image" else found
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        shape = '{"image": "<base64>"}' if key == "image" else '{"images": ["<base64>", ...]}'
        raise Problem(400, f"JSON without {key} in base64", f"send {shape}")
    if len(listed) > limits.images:
        raise _too_many(limits)
    try:
        return [base64.b64decode(word, validate=True) for word in listed]
    except (binascii.Error, ValueError) as error:
        raise Problem(400, f"{key} is not base64 ({error})") from error


def _too_many(limits: Limits) -> Problem:
    return Problem(413, f"more than {limits.images} images", "send them in several requests")
