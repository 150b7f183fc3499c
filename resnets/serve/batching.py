"""Images of many requests, given to the network together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from resnets.data.preprocessing import stack
from resnets.inference.deployable import Outputs
from resnets.inference.predictions import softmax
from resnets.serve.limits import Limits
from resnets.serve.problems import Problem, busy

_LOGGER = logging.getLogger("resnets.server")


@dataclass(frozen=True)
class Ranking:
    """Classes, the most probable first.

    Args:
        classes: their numbers, int64 (classes,).
        probabilities: float32 (classes,).
    """

    classes: np.ndarray
    probabilities: np.ndarray


def rank(logits: Tensor) -> list[Ranking]:
    """The ranking of each row of logits (N, classes)."""
    probabilities = softmax(logits.numpy())
    classes = np.argsort(-probabilities, axis=1, kind="stable")
    sorted_ = np.take_along_axis(probabilities, classes, 1)
    return [Ranking(*pair) for pair in zip(classes, sorted_, strict=True)]


@dataclass(frozen=True)
class Answered:
    """What the network said of one image.

    Args:
        logits: float32 (classes,).
        ranking: the most probable classes.
        batch: images that were given together.
        queued: seconds that the image waited.
        computed: seconds of the whole batch.
    """

    logits: Tensor
    ranking: Ranking
    batch: int
    queued: float
    computed: float


@dataclass
class _Waiting:
    pixels: Tensor
    since: float
    answer: asyncio.Future[Answered]


class Batcher:
    """Gathers images while the network is at work; an idle network starts at once.

    It waits, a few milliseconds at most, only for images that were taken and are still
    being decoded.

    Args:
        run: the network: uint8 (N, 3, H, W) to outputs; it is called in one thread.
        observe: is told each batch's size and seconds.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Outputs],
        limits: Limits,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self._run, self._limits, self._observe = run, limits, observe
        self._waiting: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "network")
        self._worker: asyncio.Task[None] | None = None
        self.taken = 0
        """Images that were taken and have no answer yet."""
        self.coming = 0
        """Those of them that are still being decoded."""

    def check(self, images: int) -> None:
        """Raise `Problem` if there is no room for so many images now."""
        if self.taken + images > self._limits.queue:
            raise busy(f"the queue is full: {self.taken} images wait")

    @contextlib.contextmanager
    def take(self, images: int) -> Iterator[Ticket]:
        """Room for the images of a request, until it has its answer.

        Raises:
            Problem: 503 if there is none.
        """
        self.check(images)
        self.taken += images
        self.coming += images
        ticket = Ticket(self, images)
        try:
            yield ticket
        finally:
            self.taken -= images
            for _ in range(ticket.coming):
                ticket.lost()

    async def answer(self, pixels: Tensor) -> Answered:
        """What the network says of an image, uint8 (3, H, W)."""
        loop = asyncio.get_running_loop()
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        place = _Waiting(pixels, time.perf_counter(), loop.create_future())
        self._waiting.append(place)
        self.announce()
        return await place.answer

    def announce(self) -> None:
        """Something changed that the network may be waiting for."""
        self._news.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            group = await self._gather()
            start = time.perf_counter()
            try:
                pixels = [place.pixels for place in group]
                found = await loop.run_in_executor(self._thread, self._compute, pixels)
            except Exception as error:  # of the engine: these images fail, the server lives
                _LOGGER.exception("a batch of %d images failed", len(group))
                for place in group:
                    if not place.answer.done():
                        failure = Problem(500, f"the network failed ({type(error).__name__})")
                        place.answer.set_exception(failure)
                continue
            seconds = time.perf_counter() - start
            self._observe(len(group), seconds)
            for place, (logits, ranking) in zip(group, found, strict=True):
                if not place.answer.done():
                    waited = start - place.since
                    answer = Answered(logits, ranking, len(group), waited, seconds)
                    place.answer.set_result(answer)

    def _compute(self, pixels: list[Tensor]) -> list[tuple[Tensor, Ranking]]:
        """The logits of each image, and their ranking."""
        logits = self._run(stack(pixels)).logits
        if len(logits) != len(pixels):
            raise RuntimeError(f"{len(logits)} answers to {len(pixels)} images")
        return list(zip(logits, rank(logits), strict=True))

    async def _gather(self) -> list[_Waiting]:
        """The next batch: those that wait, after a short while for those that are coming."""
        limits = self._limits
        until: float | None = None
        while True:
            while self._waiting and self._waiting[0].answer.done():  # its client has gone
                self._waiting.popleft()
            now = time.perf_counter()
            if not self._waiting:
                until = None
            else:
                until = until or now + limits.wait
                if len(self._waiting) >= limits.batch or not self.coming or now >= until:
                    count = min(len(self._waiting), limits.batch)
                    group = [self._waiting.popleft() for _ in range(count)]
                    group = [place for place in group if not place.answer.done()]
                    if group:
                        return group
                    continue
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), None if until is None else until - now)

    def close(self) -> None:
        """Nothing comes any more."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)


class Ticket:
    """The images of one request, from being taken to being answered."""

    def __init__(self, batcher: Batcher, images: int) -> None:
        self._batcher, self.coming = batcher, images

    def lost(self) -> None:
        """An image will not come: it could not be decoded."""
        self.coming -= 1
        self._batcher.coming -= 1
        self._batcher.announce()

    async def answer(self, pixels: Tensor) -> Answered:
        """What the network says of one of the images, uint8 (3, H, W)."""
        self.coming -= 1
        self._batcher.coming -= 1
        return await self._batcher.answer(pixels)
