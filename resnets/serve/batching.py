"""Dynamic batching: images of concurrent requests are computed together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resnets.serve.limits import Limits
from resnets.serve.problems import Problem, busy

_LOGGER = logging.getLogger("resnets.server")


@dataclass(frozen=True)
class ImageResult:
    """The network's result for one image.

    Args:
        output: logits, float32 (classes,), or `Detections`.
        batch: number of images in its batch.
        queue_seconds: how long the image waited for the network.
        network_seconds: how long the whole batch took.
    """

    output: Any
    batch: int
    queue_seconds: float
    network_seconds: float


@dataclass
class _QueuedImage:
    pixels: Tensor
    since: float
    result: asyncio.Future[ImageResult]


class Batcher:
    """Collects images while the network computes the previous batch.

    An idle network starts at once. It waits only for accepted images that are still being
    decoded, and for these `Limits.batch_wait` seconds at most.

    Args:
        network: images, uint8 (3, H, W) each, to a sequence with one output for each; called in one
            thread.
        on_batch: called with the size and the seconds of each batch.
    """

    def __init__(
        self,
        network: Callable[[list[Tensor]], Any],
        limits: Limits,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._network, self._limits, self._on_batch = network, limits, on_batch
        self._queue: deque[_QueuedImage] = deque()
        self._changed = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "network")
        self._worker: asyncio.Task[None] | None = None
        self.accepted = 0
        """Accepted images that have no result yet."""
        self.decoding = 0
        """How many of them are still being decoded."""

    def check_room(self, images: int) -> None:
        """Raise `Problem` (503) if the queue has no room for this many images."""
        if self.accepted + images > self._limits.queue:
            raise busy(f"the queue is full: {self.accepted} images wait")

    @contextlib.contextmanager
    def accept(self, images: int) -> Iterator[AcceptedImages]:
        """Reserve room for the images of a request until it has its response.

        Raises:
            Problem: 503 if there is no room.
        """
        self.check_room(images)
        self.accepted += images
        self.decoding += images
        accepted = AcceptedImages(self, images)
        try:
            yield accepted
        finally:
            self.accepted -= images
            for _ in range(accepted.decoding):
                accepted.discard()

    async def compute(self, pixels: Tensor) -> ImageResult:
        """Compute an image, uint8 (3, H, W), as part of a batch; raises `Problem`."""
        loop = asyncio.get_running_loop()
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        image = _QueuedImage(pixels, time.perf_counter(), loop.create_future())
        self._queue.append(image)
        self.notify()
        return await image.result

    def notify(self) -> None:
        """Wake the worker: the queue or `decoding` has changed."""
        self._changed.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            start = time.perf_counter()
            try:
                pixels = [image.pixels for image in batch]
                outputs = await loop.run_in_executor(self._thread, self._compute, pixels)
            except Exception as error:  # these images fail; the server continues
                _LOGGER.exception("a batch of %d images failed", len(batch))
                for image in batch:
                    if not image.result.done():
                        failure = Problem(500, f"the network failed ({type(error).__name__})")
                        image.result.set_exception(failure)
                continue
            seconds = time.perf_counter() - start
            self._on_batch(len(batch), seconds)
            for image, output in zip(batch, outputs, strict=True):
                if not image.result.done():
                    waited = start - image.since
                    image.result.set_result(ImageResult(output, len(batch), waited, seconds))

    def _compute(self, pixels: list[Tensor]) -> Any:
        outputs = self._network(pixels)
        if len(outputs) != len(pixels):
            raise RuntimeError(f"{len(outputs)} results for {len(pixels)} images")
        return outputs

    async def _next_batch(self) -> list[_QueuedImage]:
        """Wait for images, then briefly for those that are being decoded."""
        limits = self._limits
        until: float | None = None
        while True:
            while self._queue and self._queue[0].result.done():  # its client has disconnected
                self._queue.popleft()
            now = time.perf_counter()
            if not self._queue:
                until = None
            else:
                until = until or now + limits.batch_wait
                if len(self._queue) >= limits.batch or not self.decoding or now >= until:
                    count = min(len(self._queue), limits.batch)
                    batch = [self._queue.popleft() for _ in range(count)]
                    return [image for image in batch if not image.result.done()]
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), None if until is None else until - now)

    def close(self) -> None:
        """Stop the worker and its thread."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)


class AcceptedImages:
    """The images of one request, for which a `Batcher` has reserved room."""

    def __init__(self, batcher: Batcher, images: int) -> None:
        self._batcher, self.decoding = batcher, images

    def discard(self) -> None:
        """Report that an image could not be decoded, so that the network need not wait for it."""
        self.decoding -= 1
        self._batcher.decoding -= 1
        self._batcher.notify()

    @contextlib.contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Discard the image if it cannot be decoded, or its client has disconnected."""
        try:
            yield
        except BaseException:
            self.discard()
            raise

    async def compute(self, pixels: Tensor) -> ImageResult:
        """Compute one of the images, uint8 (3, H, W); raises `Problem`."""
        self.decoding -= 1
        self._batcher.decoding -= 1
        return await self._batcher.compute(pixels)
