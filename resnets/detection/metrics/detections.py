"""What a detector found in an image: the input of every metric; and which of it stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet
from resnets.support.errors import UserError

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image.

    Args:
        boxes: float32 (k, 4), x1, y1, x2, y2 in pixels of the upright image.
        scores: float32 (k,), higher for what is more certain.
        categories: int64 (k,), indices into the categories of the `BoxSet`.
        masks: of a detector of masks: float32 (k, 14, 14), probabilities in the cells of each box
            (`detection.mask_pixels`). Read from a file: object (k,), COCO's run lengths of the
            whole image. Else None.
    """

    boxes: Floats
    scores: Floats
    categories: NDArray[np.int64]
    masks: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def best(self, count: int) -> Detections:
        """The `count` with the highest scores, in falling order; equal scores keep theirs."""
        order = np.argsort(-self.scores, kind="stable")[:count]
        return self.rows(order)

    def of(self, category: int) -> Detections:
        """Those of one category."""
        return self.where(self.categories == category)

    def where(self, mask: NDArray[np.bool_]) -> Detections:
        """Those that a mask (k,) chooses."""
        return self.rows(mask)

    def rows(self, index: NDArray[Any]) -> Detections:
        """Those that numbers, or a mask (k,), choose, in this order."""
        masks = None if self.masks is None else self.masks[index]
        return Detections(self.boxes[index], self.scores[index], self.categories[index], masks)


@dataclass(frozen=True)
class Thresholds:
    """Which detections of an image stay.

    Args:
        score: those with a lower score are left out.
        nms: of two of a category with a larger IoU only the better one stays.
        limit: the best, at most.

    Raises:
        UserError: if one is out of its range.
    """

    score: float
    nms: float
    limit: int

    def __post_init__(self) -> None:
        for name, value in (("score", self.score), ("nms", self.nms)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} must be from 0 to 1, not {value}")
        if self.limit < 1:
            raise UserError(f"limit must be at least 1, not {self.limit}")

    @staticmethod
    def of(settings: Mapping[str, Any]) -> Thresholds:
        """Those of a detector's own tests, by its card's settings."""
        return Thresholds(settings["score"], settings["nms"], settings["detections"])


@dataclass(frozen=True)
class Truth:
    """The objects of an image as arrays.

    Args:
        boxes: float64 (n, 4).
        categories: int64 (n,).
        crowd, difficult: bool (n,).
        areas: float64 (n,), of the segment if there is one, else of the box.
    """

    boxes: NDArray[np.float64]
    categories: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    areas: NDArray[np.float64]

    @staticmethod
    def of(image: AnnotatedImage) -> Truth:
        objects = image.objects
        boxes = np.array([one.box for one in objects], np.float64).reshape(-1, 4)
        own = areas(boxes)
        given = [one.area for one in objects]
        return Truth(
            boxes,
            np.array([one.category for one in objects], np.int64),
            np.array([one.crowd for one in objects], bool),
            np.array([one.difficult for one in objects], bool),
            np.array([own[i] if a is None else a for i, a in enumerate(given)], np.float64),
        )


def areas(boxes: Floats) -> NDArray[np.float64]:
    """Pixels of each box (n, 4)."""
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    return np.asarray(sides[:, 0] * sides[:, 1], np.float64)


def overlaps(boxes: Floats, truth: Floats, crowd: NDArray[np.bool_] | None = None) -> Floats:
    """Intersection over union of boxes (k, 4) with others (n, 4): float64 (k, n).

    For a crowd the intersection is divided by the area of the box alone, as COCO does: the region
    may hold many objects.
    """
    one, other = boxes.astype(np.float64)[:, None], truth.astype(np.float64)[None]
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = sides.clip(0, None).prod(-1)
    own, their = areas(boxes)[:, None], areas(truth)[None]
    union = own + their - shared
    if crowd is not None:
        union = np.where(crowd[None], own, union)
    found: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return found


def checked(boxes: BoxSet, detections: Sequence[Detections]) -> None:
    """Raise `ValueError` unless there are finite detections of known categories for each image."""
    if len(detections) != len(boxes):
        raise ValueError(f"{len(detections)} detections for {len(boxes)} images")
    for image, one in zip(boxes.images, detections, strict=True):
        count = len(one.scores)
        if one.boxes.shape != (count, 4) or one.categories.shape != (count,):
            raise ValueError(f"{image.name}: boxes, scores and categories differ in number")
        if not (np.isfinite(one.boxes).all() and np.isfinite(one.scores).all()):
            raise ValueError(f"{image.name}: a box or score is not a finite number")
        if one.masks is not None and len(one.masks) != count:
            raise ValueError(f"{image.name}: masks and scores differ in number")
        known = range(len(boxes.categories))
        if count and not (one.categories.min() in known and one.categories.max() in known):
            raise ValueError(f"{image.name}: a category is not among the {len(boxes.categories)}")
