"""Decoding of image files, in threads and within memory limits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resnets.data.images import Header, decode, read_header
from resnets.data.preprocessing import Box
from resnets.serve.limits import Limits
from resnets.serve.problems import Problem
from resnets.support.devices import cores
from resnets.support.errors import UserError

_SMALL = 16_384
"""Images of at most this many bytes and pixels are decoded in the event loop: that is faster."""
_SLOW_CODECS = ("bmp_rle", "ppm_plain", "jpeg2k")
"""Decoded in Python, or with much memory: one file could block all requests for seconds."""


@dataclass(frozen=True)
class DecodedImage:
    """An image as the network's input.

    Args:
        pixels: uint8 (3, H, W).
        properties: width, height and format of the upright image.
        crop: the part of it that the network sees: left, top, width and height in its pixels.
        seconds: how long decoding took.
    """

    pixels: Tensor
    properties: dict[str, Any]
    crop: dict[str, float]
    seconds: float


class ModelInputs(Protocol):
    """How images become inputs of a model. `size` is width and height of the whole image; it may
    have been decoded at a smaller scale."""

    def shorter_side(self, size: tuple[int, int]) -> int:
        """Pixels that the shorter side of a decoded image needs."""

    def pixels(self, image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
        """The network's input, uint8 (3, H, W)."""

    def crop(self, size: tuple[int, int]) -> Box:
        """The part of the whole image that the network sees."""


class DecoderPool:
    """Threads that decode images for all models of a server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(cores(), "decode")
        self._large = ThreadPoolExecutor(1, "decode-large")
        self._abandoned: dict[Future[DecodedImage | None], int] = {}
        with contextlib.suppress(UserError):
            read_header(b"", "")  # Pillow loads its formats now, not in the first request

    async def decode(self, content: bytes, inputs: ModelInputs) -> DecodedImage:
        """Decode an image file to a model's input.

        Raises:
            Problem: 422 if it is not an image, damaged, or beyond the limits.
        """
        image = None
        if len(content) <= _SMALL:
            image = self._decode(content, inputs, _SMALL)
        if image is None:
            limit = self._limits.large_pixels
            image = await self._in_thread(self._threads, content, inputs, limit)
        if image is None:
            limit = self._limits.pixels
            image = await self._in_thread(self._large, content, inputs, limit)
        assert image is not None
        return image

    def abandoned_bytes(self) -> int:
        """Bytes of files that are still being decoded although their requests have ended."""
        running = {work: size for work, size in self._abandoned.items() if not work.done()}
        self._abandoned = running
        return sum(running.values())

    async def _in_thread(
        self, threads: ThreadPoolExecutor, content: bytes, inputs: ModelInputs, max_pixels: int
    ) -> DecodedImage | None:
        work = threads.submit(self._decode, content, inputs, max_pixels)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if not work.cancel():  # a thread that has begun cannot be stopped
                self._abandoned[work] = len(content)
            raise

    def _decode(self, content: bytes, inputs: ModelInputs, max_pixels: int) -> DecodedImage | None:
        """Decode an image; None if it has more than `max_pixels`."""
        start = time.perf_counter()
        try:
            header = read_header(content, "")
            self._check(header)
            if header.width * header.height > max_pixels:
                return None
            image = decode(content, "", inputs.shorter_side(header.upright_size))
            # JPEGs may have been decoded at a smaller scale.
            size = header.upright_size if header.codec == "jpeg" else image.size
            pixels = torch.from_numpy(inputs.pixels(image, size))
        except UserError as error:
            raise Problem(422, error.message, error.hint) from error
        properties = {"width": size[0], "height": size[1], "format": header.format}
        crop = _as_json(inputs.crop(size))
        return DecodedImage(pixels, properties, crop, time.perf_counter() - start)

    def _check(self, header: Header) -> None:
        if header.width * header.height > self._limits.pixels:
            size = f"{header.width} x {header.height} pixels"
            raise Problem(
                422,
                f"the image has {size}, more than {self._limits.pixels:,}",
                "scale it down first",
            )
        if header.codec in _SLOW_CODECS:
            detail = f"{header.format} files with this encoding ({header.codec}) are not supported"
            raise Problem(422, detail, "send a PNG")

    def close(self) -> None:
        """Stop the threads."""
        for threads in (self._threads, self._large):
            threads.shutdown(wait=False, cancel_futures=True)


def _as_json(box: Box) -> dict[str, float]:
    left, top, right, bottom = box
    sides = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    return {name: round(value, 2) for name, value in sides.items()}
