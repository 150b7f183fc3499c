"""Image files of requests, decoded in threads within bounds of memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resnets.data.images import Header, decode, read_header
from resnets.data.preprocessing import CentralCrop
from resnets.inference.predictor import Predictor
from resnets.serve.limits import Limits
from resnets.serve.problems import Problem
from resnets.support.devices import cores
from resnets.support.errors import UserError

SMALL = 16_384
"""Bytes, and pixels, up to which images are decoded without a thread."""
SLOW_CODECS = ("bmp_rle", "ppm_plain")
"""Pillow decodes these in Python: a file within the limits would stop everybody for seconds."""


@dataclass(frozen=True)
class Picture:
    """A decoded image.

    Args:
        pixels: uint8 (3, size, size), what the network looks at.
        facts: width, height and format of the upright image.
        crop: what of it the network looks at, in its pixels.
        seconds: of decoding.
    """

    pixels: Tensor
    facts: dict[str, Any]
    crop: dict[str, float]
    seconds: float


class Decoders:
    """Threads that decode images for all models of a server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(cores(), "decode")
        self._large = ThreadPoolExecutor(1, "decode-large")
        self._left: dict[Future[Picture | None], int] = {}
        with contextlib.suppress(UserError):
            read_header(b"", "")  # Pillow loads its formats now, not in the first request

    async def picture(self, content: bytes, predictor: Predictor) -> Picture:
        """What a model looks at of an image file; raises `Problem` if it cannot be read."""
        found = None
        if len(content) <= SMALL:  # decoded sooner than handed to a thread
            found = self._decode(content, predictor, SMALL)
        if found is None:
            found = await self._in(self._threads, content, predictor, self._limits.large)
        if found is None:
            found = await self._in(self._large, content, predictor, self._limits.pixels)
        assert found is not None
        return found

    def left(self) -> int:
        """Bytes of images that are still being decoded, though nobody waits for them any more."""
        self._left = {work: size for work, size in self._left.items() if not work.done()}
        return sum(self._left.values())

    async def _in(
        self, threads: ThreadPoolExecutor, content: bytes, predictor: Predictor, most: int
    ) -> Picture | None:
        work = threads.submit(self._decode, content, predictor, most)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if not work.cancel():  # a thread that has begun cannot be stopped
                self._left[work] = len(content)
            raise

    def _decode(self, content: bytes, predictor: Predictor, most: int) -> Picture | None:
        """None if the image has more than `most` pixels."""
        start = time.perf_counter()
        try:
            header = read_header(content, "")
            self._check(header)
            if header.width * header.height > most:
                return None
            image = decode(content, "", predictor.shorter_side)
            pixels = predictor.input_tensor(image)
        except UserError as error:
            raise Problem(422, error.message, error.hint) from error
        # JPEGs may have been decoded at a smaller scale.
        width, height = header.upright_size if header.codec == "jpeg" else image.size
        facts = {"width": width, "height": height, "format": header.format}
        crop = crop_of(width, height, predictor.preprocessing)
        return Picture(pixels, facts, crop, time.perf_counter() - start)

    def _check(self, header: Header) -> None:
        if header.width * header.height > self._limits.pixels:
            raise Problem(
                422,
                f"the image has {header.width} x {header.height} pixels, more than "
                f"{self._limits.pixels:,}",
                "scale it down first",
            )
        if header.codec in SLOW_CODECS:
            raise Problem(422, f"{header.format} files packed so are not taken", "send a PNG")

    def close(self) -> None:
        """Nothing comes any more."""
        for threads in (self._threads, self._large):
            threads.shutdown(wait=False, cancel_futures=True)


def crop_of(width: int, height: int, crop: CentralCrop) -> dict[str, float]:
    """The part of an upright image that a model looks at, in the image's pixels."""
    box = crop.box(width, height)
    names = ("left", "top", "width", "height")
    places = (box[0], box[1], box[2] - box[0], box[3] - box[1])
    return {name: round(place, 2) for name, place in zip(names, places, strict=True)}
