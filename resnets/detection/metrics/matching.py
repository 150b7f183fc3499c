"""Which detection finds which object by COCO's rule, kept for each image.

From these matches follow precision-recall curves and, by weighing the images anew, how far AP may
be off (`intervals`). COCO's numbers themselves are faster-coco-eval's (`coco`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.boxes.annotations import BoxSet
from resnets.detection.metrics.detections import Detections, Floats, Truth, checked, overlaps

IOUS = np.linspace(0.5, 0.95, 10)
"""COCO's thresholds."""
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_DETECTIONS = 100
"""Of each image and category, as COCO counts them."""


@dataclass(frozen=True)
class Matches:
    """The detections of one category in all images, by falling score.

    Args:
        scores: float64 (n,).
        images: int64 (n,), the image of each.
        right: bool (thresholds, n): whether it finds an object.
        ignored: bool (thresholds, n): whether it counts neither way.
        positives: int64 (images,): number of objects to be found.
    """

    scores: NDArray[np.float64]
    images: NDArray[np.int64]
    right: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    positives: NDArray[np.int64]

    def curve(self, threshold: int = 0) -> tuple[Floats, Floats, Floats]:
        """Recall, precision and score after each detection that counts.

        Args:
            threshold: index into the thresholds; by default IoU 0.5.
        """
        counted = ~self.ignored[threshold]
        found = np.cumsum(self.right[threshold, counted])
        recall = found / max(1, self.positives.sum())
        return recall, found / np.arange(1, len(found) + 1), self.scores[counted]

    def average_precision(self, weights: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """COCO's average precision at each threshold; NaN without objects.

        Args:
            weights: how often each image counts (images,); once by default.
        """
        counts = np.ones(len(self.positives), np.int64) if weights is None else weights
        positives = int(counts @ self.positives)
        if not positives:
            return np.full(len(self.right), np.nan)
        times = counts[self.images]
        return np.array(
            [
                interpolated(np.cumsum(times * right), np.cumsum(times * ~ignored), positives)
                for right, ignored in zip(self.right, self.ignored, strict=True)
            ]
        )


def interpolated(found: NDArray[Any], counted: NDArray[Any], positives: int) -> float:
    """COCO's average precision: the mean at 101 recalls of the best at each or a higher one.

    Args:
        found: right detections so far, after each detection by falling score.
        counted: all detections so far.
        positives: number of objects to be found.
    """
    precision = found / np.maximum(counted, 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(found / positives, RECALLS, side="left")
    return float(np.append(best, 0.0)[at].mean())


def match(
    boxes: BoxSet, detections: Sequence[Detections], ious: NDArray[np.float64] = IOUS
) -> list[Matches]:
    """Match the detections of every image by COCO's rule.

    Args:
        boxes: the images.
        detections: what was found in each, in the order of `boxes`.
        ious: the thresholds.

    Returns:
        The matches of each category.

    Raises:
        ValueError: if the detections do not fit the images.
    """
    checked(boxes, detections)
    parts: list[list[Matches]] = [[] for _ in boxes.categories]
    positives = np.zeros((len(boxes.categories), len(boxes)), np.int64)
    for number, (image, found) in enumerate(zip(boxes.images, detections, strict=True)):
        truth = Truth.of(image)
        np.add.at(positives[:, number], truth.categories[~truth.crowd], 1)
        for category in np.unique(found.categories):
            own = found.of(int(category)).best(MOST_DETECTIONS)
            mine = truth.categories == category
            crowd = truth.crowd[mine]
            shared = overlaps(own.boxes, truth.boxes[mine], crowd)
            right, ignored = match_image(shared, crowd, ious)
            at = np.full(len(own), number)
            scores = own.scores.astype(np.float64)
            parts[category].append(Matches(scores, at, right, ignored, positives[0]))
    return [_joined(part, own, len(ious)) for part, own in zip(parts, positives, strict=True)]


def match_image(
    shared: Floats, crowd: NDArray[np.bool_], ious: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Match the detections of one category in one image.

    Each detection, the best first, finds the free object that it overlaps most, if the threshold
    is reached; else it may lie in a crowd, which takes any number, and is ignored.

    Args:
        shared: overlaps (detections, objects), detections by falling score.
        crowd: which objects are crowds.
        ious: the thresholds.

    Returns:
        Two arrays (thresholds, detections): which are right, and which are ignored.
    """
    right = np.zeros((len(ious), len(shared)), bool)
    limits = np.minimum(ious, 1 - 1e-10)[:, None]
    single, crowded = shared[:, ~crowd], shared[:, crowd]
    free = np.ones((len(ious), single.shape[1]), bool)
    rows = np.arange(len(ious))
    for index in np.flatnonzero((single >= limits.min()).any(1)):
        candidates = np.where(free & (single[index] >= limits), single[index], -1.0)
        # Of equal ones the last, as COCO's own code.
        best = candidates.shape[1] - 1 - candidates[:, ::-1].argmax(1)
        hit = candidates[rows, best] >= 0
        right[hit, index] = True
        free[rows[hit], best[hit]] = False
    within = (crowded[None] >= limits[..., None]).any(2)
    return right, within & ~right


def _joined(parts: list[Matches], positives: NDArray[np.int64], thresholds: int) -> Matches:
    if not parts:
        none = np.zeros((thresholds, 0), bool)
        return Matches(np.zeros(0), np.zeros(0, np.int64), none, none, positives)
    scores = np.concatenate([part.scores for part in parts])
    order = np.argsort(-scores, kind="stable")
    right = np.concatenate([part.right for part in parts], 1)[:, order]
    ignored = np.concatenate([part.ignored for part in parts], 1)[:, order]
    images = np.concatenate([part.images for part in parts])[order]
    return Matches(scores[order], images, right, ignored, positives)
