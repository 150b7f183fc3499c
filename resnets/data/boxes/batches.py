"""Training batches of images with boxes: a pure function of (seed, step), read ahead."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data import random_streams
from resnets.data.boxes.annotations import AnnotatedImage
from resnets.data.boxes.rescaling import Rescaling, load_scaled, scale_boxes
from resnets.data.boxes.segments import masks_of
from resnets.data.preprocessing import Normalize
from resnets.data.samples import epoch_permutation
from resnets.support.devices import cores
from resnets.support.errors import UserError

READ_AHEAD = 8
"""Images that are being read while the current ones are used."""


class Target(NamedTuple):
    """The objects of an image, in pixels of the scaled image.

    Args:
        boxes: x1, y1, x2, y2, float32 (k, 4); may be empty.
        labels: categories from 0, int64 (k,).
        ignore: bool (k,): crowds and difficult objects, on which nothing is trained.
        size: height and width of the image without padding.
        key: seed of the choice of anchors and regions.
        masks: of the objects that are not ignored, where masks are trained: 0 and 1, uint8
            (n, height, width) of the image without padding.
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    size: tuple[int, int]
    key: int
    masks: Tensor | None = None


@dataclass(frozen=True)
class Views:
    """How training images are shown.

    Args:
        rescaling: at scale 1.
        scales: range of a random factor of both sizes.
        flip: whether half of the images are mirrored.
    """

    rescaling: Rescaling
    scales: tuple[float, float] = (1.0, 1.0)
    flip: bool = True


@dataclass(kw_only=True, eq=False)
class DetectionBatches:
    """Endless training batches of images with boxes: each epoch has every image once.

    An image that cannot be read is left out of its batch and recorded in `bad`, by name with the
    reason.

    Args:
        images: the training images.
        batch: images in a batch, over all processes.
        seed: together with the step, determines the content of a batch.
        device: where the network is.
        views: scale and flip.
        normalize: from uint8 pixels to the network's input, on `device`.
        multiple: the batch's height and width are multiples of it; the rest is padded by zeros.
        parts: ranges of every batch that are read one after the other; the whole by default.
        threads: number of reading threads; one for each core by default.
        masks: whether targets have masks; all objects that are not ignored have a segment then.
    """

    images: Sequence[AnnotatedImage]
    batch: int
    seed: int
    device: torch.device
    views: Views
    normalize: Normalize
    multiple: int = 16
    parts: Sequence[tuple[int, int]] = ()
    threads: int | None = None
    masks: bool = False

    def __post_init__(self) -> None:
        self.parts = list(self.parts) or [(0, self.batch)]
        self.bad: dict[str, str] = {}
        self._pool = ThreadPoolExecutor(self.threads or cores(), "boxes")
        self._reading: dict[tuple[int, int], Future[tuple[NDArray[np.uint8], Target]]] = {}
        self._orders: dict[int, NDArray[np.int64]] = {}

    def epoch_of(self, step: int) -> float:
        """Epochs completed after `step` steps."""
        return step * self.batch / len(self.images)

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, list[Target]]:
        """Part number `part` of batch number `step`.

        Returns:
            Images float32 (n, 3, H, W) in channels_last memory on the device, each in the upper
            left corner, and their targets on the device; n is smaller than the part by the images
            that could not be read.
        """
        rows = self._rows(step, part)
        wanted = list(rows)
        while len(wanted) < len(rows) + READ_AHEAD:
            step, part = (step, part + 1) if part + 1 < len(self.parts) else (step + 1, 0)
            wanted += self._rows(step, part)
        begun = self._reading
        self._reading = {
            row: begun.get(row) or self._pool.submit(self._read, *row, *self._index(*row))
            for row in wanted
        }
        images = []
        for row in rows:
            try:
                images.append(self._reading.pop(row).result())
            except UserError as error:
                name = self.images[self._index(*row)[1]].name
                self.bad[name] = f"{name}: {error.message}"
        batch = stack_padded([p for p, _ in images], self.normalize, self.device, self.multiple)
        return batch, [
            target._replace(
                boxes=target.boxes.to(self.device),
                labels=target.labels.to(self.device),
                ignore=target.ignore.to(self.device),
                masks=None if target.masks is None else target.masks.to(self.device),
            )
            for _, target in images
        ]

    def close(self) -> None:
        """Drop what was read ahead and end the threads."""
        self._reading.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _rows(self, step: int, part: int) -> list[tuple[int, int]]:
        """(step, position in its batch) of the images of a part."""
        return [(step, position) for position in range(*self.parts[part])]

    def _index(self, step: int, position: int) -> tuple[int, int]:
        """Epoch and number of an image."""
        epoch, place = divmod(step * self.batch + position, len(self.images))
        if epoch not in self._orders:
            order = epoch_permutation(len(self.images), self.seed, epoch)
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = order
        return epoch, int(self._orders[epoch][place])

    def _read(
        self, step: int, position: int, epoch: int, index: int
    ) -> tuple[NDArray[np.uint8], Target]:
        """Pixels (H, W, 3) and target of an image; raises `UserError` if it cannot be read."""
        image, views = self.images[index], self.views
        random = np.random.default_rng([self.seed, random_streams.BOX_VIEW, epoch, index])
        rescaling = views.rescaling.times(random.uniform(*views.scales))
        mirrored = bool(random.random() < 0.5) and views.flip
        pixels = load_scaled(image, rescaling)
        height, width = pixels.shape[:2]
        boxes = scale_boxes(
            [one.box for one in image.objects], (image.width, image.height), (width, height)
        )
        trained = [one for one in image.objects if not (one.crowd or one.difficult)]
        masks = masks_of(image, trained, (width, height)) if self.masks else None
        if mirrored:
            pixels = pixels[:, ::-1]
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
            masks = None if masks is None else masks[:, :, ::-1].copy()
        key = [self.seed, random_streams.REGIONS, step, position]
        return np.ascontiguousarray(pixels), Target(
            torch.from_numpy(boxes),
            torch.tensor([one.category for one in image.objects], dtype=torch.int64),
            torch.tensor([one.crowd or one.difficult for one in image.objects], dtype=torch.bool),
            (height, width),
            int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)),
            None if masks is None else torch.from_numpy(masks),
        )


def stack_padded(
    images: Sequence[NDArray[np.uint8]], normalize: Normalize, device: torch.device, multiple: int
) -> Tensor:
    """Images of any sizes as one batch.

    Args:
        images: uint8 (H, W, 3) each.
        normalize: from pixels to the network's input.
        device: where to.
        multiple: height and width of the batch are multiples of it.

    Returns:
        float32 (n, 3, H, W) in channels_last memory, filled up with zeros on the right and below:
        after normalisation that is the mean colour.
    """
    height, width = (
        multiple * -(-max((image.shape[i] for image in images), default=1) // multiple)
        for i in (0, 1)
    )
    batch = torch.zeros(len(images), height, width, 3, device=device).permute(0, 3, 1, 2)
    for row, pixels in enumerate(images):
        one = torch.tensor(pixels, device=device)[None].permute(0, 3, 1, 2)
        batch[row, :, : pixels.shape[0], : pixels.shape[1]] = normalize(one)[0]
    return batch
