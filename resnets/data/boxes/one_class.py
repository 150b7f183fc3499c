"""Images whose objects are all of one class, as ILSVRC's localization task has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data import random_streams
from resnets.data.augmentation import Crop, draw_crop
from resnets.data.boxes.annotations import AnnotatedImage, BoxSet
from resnets.data.boxes.batches import Target
from resnets.data.boxes.cleaning import SMALLEST_SIDE
from resnets.data.folders import ImageFolder
from resnets.data.photo_batches import Part, PhotoBatches
from resnets.support.errors import UserError
from resnets.support.names import listed


def with_objects(boxes: BoxSet) -> BoxSet:
    """The images that have an object; crowds and difficult objects are none."""
    kept = tuple(
        replace(image, objects=wanted)
        for image in boxes.images
        if (wanted := tuple(o for o in image.objects if not (o.crowd or o.difficult)))
    )
    return replace(boxes, images=kept)


def labelled(boxes: BoxSet) -> ImageFolder:
    """The images of a set, in its order, with the class of their objects as label.

    Raises:
        UserError: if there are none, or an image has objects of two classes or no object.
    """
    if not boxes.images:
        raise UserError(f"no image to {boxes.split} on has an object")
    labels = []
    for image in boxes.images:
        classes = sorted({one.category for one in image.objects})
        if len(classes) != 1:
            found = listed([boxes.categories[index] for index in classes])
            raise UserError(
                f"an image with boxes of {len(classes)} classes ({found}); localization needs one",
                str(image.path),
                "train a detector instead: resnets train detect-finetune",
            )
        labels += classes
    names = [image.name for image in boxes.images]
    return ImageFolder(boxes.folder, names, labels, boxes.categories)


@dataclass(kw_only=True, eq=False)
class LocalizationBatches(PhotoBatches):
    """The batches of `PhotoBatches` with the objects of each crop.

    Args:
        images: those of `samples`, in the same order.
        visible: objects of which a smaller share is in the crop are to be ignored.
    """

    images: Sequence[AnnotatedImage]
    visible: float

    def _finish(self, part: Part) -> tuple[Tensor, Any]:
        """As in `PhotoBatches`; the targets are labels, int64 (n,) on the device, and a `Target`
        for each image, on the CPU."""
        pixels, labels = super()._finish(part)
        rows = [row for row in range(len(part.indices)) if row not in part.bad]
        pixels, labels = pixels[: len(rows)], labels[: len(rows)]  # a single image comes twice
        return pixels, (labels, [self._target(part, row) for row in rows])

    def _target(self, part: Part, row: int) -> Target:
        image, size = self.images[int(part.indices[row])], part.augmentation.size
        crop = draw_crop(image.width, image.height, part.augmentation, self._generator(part, row))
        boxes, shares = boxes_in_crop([one.box for one in image.objects], crop, size)
        seen = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) >= SMALLEST_SIDE
        key = [self.seed, random_streams.REGIONS, int(part.epochs[row]), int(part.indices[row])]
        return Target(
            torch.from_numpy(boxes[seen]),
            torch.tensor([one.category for one in image.objects])[torch.from_numpy(seen)],
            torch.from_numpy(shares[seen] < self.visible),
            (size, size),
            int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)),
        )


def boxes_in_crop(
    boxes: Sequence[tuple[float, float, float, float]], crop: Crop, size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The parts of boxes within a crop, in its pixels.

    Args:
        boxes: in pixels of the upright image.
        crop: as it was drawn.
        size: side of the crop in pixels.

    Returns:
        The boxes (k, 4), mirrored as the crop is, and the share of each box's area within it (k,).
    """
    left, top, right, bottom = crop.box
    scale = np.array([size / (right - left), size / (bottom - top)] * 2)
    whole = (np.array(boxes, np.float64).reshape(-1, 4) - [left, top, left, top]) * scale
    if crop.flip:
        whole[:, [0, 2]] = size - whole[:, [2, 0]]
    parts = whole.clip(0, size)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (parts, whole)]
    shares = areas[0] / np.maximum(areas[1], 1e-9)
    return parts.astype(np.float32), shares.astype(np.float32)
