"""Training batches of photographs as a pure function of (seed, step), read ahead by threads.

Pillow decodes and scales without holding Python's lock, so threads use all cores; they share
the index and write straight into the batch, where processes would copy both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data import random_streams
from resnets.data.augmentation import Augmentation, Crop, load_augmented
from resnets.data.images import decode
from resnets.data.preprocessing import Normalize
from resnets.data.samples import Samples
from resnets.support.devices import cores
from resnets.support.errors import UserError
from resnets.support.parallel import in_threads

IGNORE_INDEX = -100
"""The label of an image that adds nothing to loss and gradients, as in PyTorch's cross-entropy."""
READ_AHEAD = 3
"""Parts of batches that are being read while the current one is used."""
CHECKED_SIDE = 64
"""Pixels to which JPEGs are decoded at least, to see whether they can be decoded."""
MEAN_IMAGES = 2000
"""Number of images of which the mean image is made, at most."""


class Encoded(NamedTuple):
    """An image that waits for a decoder of whole batches."""

    content: bytes
    size: tuple[int, int]
    crop: Crop


@dataclass
class Part:
    """Some images of a batch while they are read.

    Args:
        augmentation: how they are cropped, mirrored and recoloured.
        indices: which images of the data set, int64 (n,).
        epochs: the epoch of each image, int64 (n,).
        pixels: uint8 (n, size, size, 3).
        shifts: of red, green and blue, to be added to the pixels on the scale 0..1, float32 (n, 3).
        encoded: by row, the images that wait for a decoder of whole batches.
        decoded: the pixels on the device, where a decoder of whole batches is used.
        tasks: the reading of each image, and the decoding.
        bad: by row, why an image could not be read.
    """

    augmentation: Augmentation
    indices: NDArray[np.int64]
    epochs: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    shifts: NDArray[np.float32]
    encoded: dict[int, Encoded] = field(default_factory=dict)
    decoded: Tensor | None = None
    tasks: list[Future[None]] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class PhotoBatches:
    """Endless training batches of photographs: each epoch has every image once.

    Batches continue from one epoch into the next without a gap, as in `CifarBatches`. An image
    that cannot be read is left out of its batch and recorded in `bad`, by name with the reason.

    Args:
        samples: the training images.
        batch: images in a batch, over all processes.
        seed: together with the step, determines the content of a batch.
        device: where the network is.
        augmentation: from the step to its augmentation, so that sizes may change.
        normalize: from uint8 pixels to the network's input, on `device`.
        parts: ranges of every batch that are read one after the other; the whole by default.
        threads: number of reading threads; one for each core by default.
    """

    samples: Samples
    batch: int
    seed: int
    device: torch.device
    augmentation: Callable[[int], Augmentation]
    normalize: Normalize
    parts: Sequence[tuple[int, int]] = ()
    threads: int | None = None

    def __post_init__(self) -> None:
        self.length = len(self.samples)
        self.parts = list(self.parts) or [(0, self.batch)]
        self.threads = self.threads or cores()
        self.bad: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(self.threads, "photos")
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._reading: dict[int, Part] = {}

    def epoch_of(self, step: int) -> float:
        """Epochs completed after `step` steps."""
        return step * self.batch / self.length

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, Any]:
        """Part number `part` of batch number `step`.

        Returns:
            Images float32 (n, 3, size, size) in channels_last memory on the device, and labels
            int64 (n,); n is smaller than the part by the images that could not be read. If only
            one of several is left, it comes twice, the second time with the label `IGNORE_INDEX`.
        """
        number = step * len(self.parts) + part
        reading = {n: self._reading.get(n) for n in range(number, number + READ_AHEAD + 1)}
        self._reading = {n: begun or self._begin(n) for n, begun in reading.items()}
        current = self._reading.pop(number)
        for task in current.tasks:
            task.result()
        return self._finish(current)

    def close(self) -> None:
        """Drop what was read ahead and end the threads."""
        self._reading.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self, number: int) -> Part:
        step, part_number = divmod(number, len(self.parts))
        start, end = self.parts[part_number]
        augmentation = self.augmentation(step)
        count, side = end - start, augmentation.size
        part = Part(
            augmentation,
            indices=np.empty(count, np.int64),
            epochs=np.empty(count, np.int64),
            pixels=np.empty((count, side, side, 3), np.uint8),
            shifts=np.zeros((count, 3), np.float32),
        )
        for row in range(count):
            epoch, position = divmod(step * self.batch + start + row, self.length)
            part.indices[row], part.epochs[row] = self._order(epoch)[position], epoch
            part.tasks.append(self._pool.submit(self._read, part, row))
        return part

    def _generator(self, part: Part, row: int) -> np.random.Generator:
        """A new generator for one image in one epoch, always in the same state."""
        epoch, index = int(part.epochs[row]), int(part.indices[row])
        return np.random.default_rng([self.seed, random_streams.CROP, epoch, index])

    def _read(self, part: Part, row: int) -> None:
        index = int(part.indices[row])
        try:
            content = self.samples.read(index)
        except UserError as error:
            part.bad[row] = f"{self.samples.name(index)}: {error.message}"
        else:
            self._decode(part, row, content)

    def _decode(self, part: Part, row: int, content: bytes) -> None:
        """Decode one image into its row, or record why it cannot be decoded."""
        name = self.samples.name(int(part.indices[row]))
        try:
            random = self._generator(part, row)
            part.shifts[row] = load_augmented(
                content, name, part.augmentation, random=random, out=part.pixels[row]
            )
        except UserError as error:
            part.bad[row] = f"{name}: {error.message}"

    def _pixels(self, part: Part) -> Tensor:
        """The pixels of a part whose tasks are done, uint8 (n, size, size, 3), on any device."""
        return torch.from_numpy(part.pixels)

    def _finish(self, part: Part) -> tuple[Tensor, Any]:
        pixels, shifts = self._pixels(part), torch.from_numpy(part.shifts)
        labels = torch.from_numpy(self.samples.labels[part.indices])
        if part.bad:
            for row, reason in part.bad.items():
                self.bad[self.samples.name(int(part.indices[row]))] = reason
            good = [row for row in range(len(labels)) if row not in part.bad]
            rows = torch.tensor(good * 2 if len(good) == 1 else good, dtype=torch.int64)
            pixels, shifts, labels = pixels[rows.to(pixels.device)], shifts[rows], labels[rows]
            if len(good) == 1:  # twice: BN needs two values, and has the statistics of one
                labels[1] = IGNORE_INDEX
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
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = order = self.samples.order(self.seed, epoch)
            self.samples.prefetch(order)
        return self._orders[epoch]


def unreadable(samples: Samples, seconds: float) -> dict[str, str]:
    """Images that cannot be read, by name, and why; of those that can be tried within the time."""
    end, bad = time.monotonic() + seconds, {}

    def fault(index: int) -> str | None:
        try:
            if time.monotonic() < end:
                decode(samples.read(index), "", CHECKED_SIDE)
        except UserError as error:
            return error.message
        return None

    for index, reason in enumerate(in_threads(fault, range(len(samples)), cores())):
        if reason is not None:
            bad[samples.name(index)] = reason
        if time.monotonic() > end:
            break
    return bad


def training_mean(samples: Samples, augmentation: Augmentation, seed: int) -> Tensor:
    """Mean image of the training images' central crops, float32 (3, size, size), RGB in 0..1.

    The paper subtracts the mean of each pixel, after cropping (section 3.4). A random sample
    of `MEAN_IMAGES` is enough: the standard error of a channel's mean is below one grey level.

    Raises:
        UserError: if none of them can be read.
    """
    central = replace(augmentation, kind="centre", flip=False, colour=0.0)
    shape = central.size, central.size, 3
    random = np.random.default_rng([seed, random_streams.MEAN_SAMPLE])
    chosen = random.permutation(len(samples))[:MEAN_IMAGES]
    total = np.zeros(shape, np.int64)
    count = 0

    def read(index: int) -> NDArray[np.uint8] | None:
        out = np.empty(shape, np.uint8)
        try:
            unused = np.random.default_rng(0)
            load_augmented(samples.read(index), "", central, random=unused, out=out)
        except UserError:
            return None
        return out

    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(chosen), 64):
            for pixels in pool.map(read, chosen[start : start + 64].tolist()):
                if pixels is not None:
                    total += pixels
                    count += 1
    if not count:
        hint = "resnets doctor says why"
        raise UserError("none of the images can be read", samples.location, hint)
    return torch.from_numpy(total / (255 * count)).float().permute(2, 0, 1).contiguous()
