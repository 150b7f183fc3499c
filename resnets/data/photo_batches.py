"""Training batches of photographs as a pure function of (seed, step), read by threads ahead.

Pillow decodes and scales without Python's lock, so threads use every core; they share
the index and write straight into the batch, where processes would copy both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data.augmentation import Augmentation, Crop, show
from resnets.data.preprocessing import Normalize
from resnets.data.samples import Samples
from resnets.support.errors import UserError

AHEAD = 3
"""Parts of batches that are read before they are asked for."""


def default_threads(processes: int = 1) -> int:
    """Threads for reading: this process's share of the cores that it may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // processes)


Chance = Callable[[], np.random.Generator]
"""What decides about one image of one epoch: the same generator at each call, at its start."""


class Encoded(NamedTuple):
    """An image that waits for a decoder of whole batches."""

    content: bytes
    size: tuple[int, int]
    crop: Crop
    chance: Chance


@dataclass
class Part:
    """Some images of a batch on their way: pixels, colour shifts, and who works on them."""

    look: Augmentation
    pixels: NDArray[np.uint8]
    shifts: NDArray[np.float32]
    index: NDArray[np.int64]
    encoded: dict[int, Encoded] = field(default_factory=dict)
    """By row; empty where images are decoded one by one."""
    decoded: Tensor | None = None
    """All pixels, on the device, where batches are decoded as a whole."""
    work: list[Future[None]] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    """Rows that could not be read, and why."""


class PhotoBatches:
    """Endless training batches of photographs: each epoch shows every image once.

    Steps go on through the epochs without a gap, as in `TrainBatches`. An image that cannot
    be read is left out of its batch and remembered in `bad`.

    Args:
        samples: the training images.
        batch: images in a batch, over all processes.
        seed: with the step, decides everything about a batch.
        device: where the network is.
        look: gives the augmentation of a step, so that sizes may change.
        normalize: from uint8 pixels to the network's input, on `device`.
        parts: ranges of every batch that are asked for one after the other; the whole by default.
        threads: how many read and decode.
    """

    def __init__(
        self,
        samples: Samples,
        batch: int,
        seed: int,
        device: torch.device,
        look: Callable[[int], Augmentation],
        normalize: Normalize,
        parts: Sequence[tuple[int, int]] | None = None,
        threads: int | None = None,
    ) -> None:
        self.samples, self.size, self.batch, self.seed = samples, len(samples), batch, seed
        self.device, self.look, self.normalize = device, look, normalize
        self.parts = list(parts or [(0, batch)])
        self.bad: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(threads or default_threads(), "photos")
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._coming: dict[int, Part] = {}

    def epoch_of(self, step: int) -> float:
        """Epochs completed after `step` steps."""
        return step * self.batch / self.size

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, Tensor]:
        """Part number `part` of batch number `step`.

        Returns:
            Images float32 (n, 3, size, size) in channels_last memory on the device, labels
            int64 (n,); n is smaller than the part by the images that could not be read.
        """
        number = step * len(self.parts) + part
        coming = {n: self._coming.get(n) for n in range(number, number + AHEAD + 1)}
        self._coming = {n: found or self._begin(n) for n, found in coming.items()}
        wanted = self._coming.pop(number)
        for work in wanted.work:
            work.result()
        return self._finished(wanted)

    def close(self) -> None:
        """Drop what is read ahead and end the threads."""
        self._coming.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, number: int) -> Part:
        step, part_number = divmod(number, len(self.parts))
        start, end = self.parts[part_number]
        look = self.look(step)
        positions = np.arange(step * self.batch + start, step * self.batch + end)
        index = np.empty(len(positions), np.int64)
        part = Part(
            look,
            np.empty((len(positions), look.size, look.size, 3), np.uint8),
            np.zeros((len(positions), 3), np.float32),
            index,
        )
        for row, position in enumerate(positions.tolist()):
            epoch, place = divmod(position, self.size)
            index[row] = self._order(epoch)[place]
            part.work.append(self._pool.submit(self._read, part, row, epoch))
        return part

    def _read(self, part: Part, row: int, epoch: int) -> None:
        number = int(part.index[row])
        chance = partial(np.random.default_rng, [self.seed, 4, epoch, number])
        try:
            content = self.samples.read(number)
        except UserError as error:
            part.bad[row] = f"{self.samples.name(number)}: {error.message}"
        else:
            self._take(part, row, content, chance)

    def _take(self, part: Part, row: int, content: bytes, chance: Chance) -> None:
        """Decode one image into its row, or say why it cannot be."""
        name = self.samples.name(int(part.index[row]))
        try:
            part.shifts[row] = show(content, name, part.look, chance(), part.pixels[row])
        except UserError as error:
            part.bad[row] = f"{name}: {error.message}"

    def _pixels(self, part: Part) -> Tensor:
        """The part's pixels, uint8 (n, size, size, 3), on any device."""
        return torch.from_numpy(part.pixels)

    def _finished(self, part: Part) -> tuple[Tensor, Tensor]:
        pixels, shifts = self._pixels(part), torch.from_numpy(part.shifts)
        labels = torch.from_numpy(self.samples.labels[part.index])
        if part.bad:
            for row, reason in part.bad.items():
                self.bad[self.samples.name(int(part.index[row]))] = reason
            good = torch.tensor([row not in part.bad for row in range(len(labels))])
            pixels, shifts, labels = pixels[good], shifts[good], labels[good]
        if self.device.type == "cuda":
            pixels, shifts, labels = (
                t if t.is_cuda else t.pin_memory() for t in (pixels, shifts, labels)
            )
        pixels, shifts, labels = (
            t.to(self.device, non_blocking=True) for t in (pixels, shifts, labels)
        )
        return self.normalize(pixels.permute(0, 3, 1, 2), shifts), labels

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = order = self.samples.order(self.seed, epoch)
            self.samples.prefetch(order)
        return self._orders[epoch]


def training_mean(samples: Samples, look: Augmentation, seed: int, images: int = 2000) -> Tensor:
    """Mean image of the training images' central crops, float32 (3, size, size), RGB in 0..1.

    The paper subtracts the mean of each pixel, after cropping (section 3.4). A random sample
    of `images` is enough: the standard error of a channel's mean is below one grey level.

    Raises:
        UserError: if none of them can be read.
    """
    look = replace(look, kind="centre", flip=False, colour=0.0)
    chosen = np.random.default_rng([seed, 5]).permutation(len(samples))[:images]
    total = np.zeros((look.size, look.size, 3), np.int64)
    count = 0

    def read(number: int) -> NDArray[np.uint8] | None:
        out = np.empty((look.size, look.size, 3), np.uint8)
        try:
            show(samples.read(number), "", look, np.random.default_rng(0), out)
        except UserError:
            return None
        return out

    with ThreadPoolExecutor(default_threads()) as pool:
        for start in range(0, len(chosen), 64):
            for pixels in pool.map(read, chosen[start : start + 64].tolist()):
                if pixels is not None:
                    total += pixels
                    count += 1
    if not count:
        raise UserError(
            "none of the images can be read", samples.location, "resnets doctor tells why"
        )
    return torch.from_numpy(total / (255 * count)).float().permute(2, 0, 1).contiguous()
