"""PASCAL VOC's average precision, of 2007 and of 2012, by the formulas of its devkit.

Everingham et al., The PASCAL Visual Object Classes (VOC) Challenge, 2010, section 4.2. The devkit
counts pixels, xmax - xmin + 1; in our continuous coordinates this is x2 - x1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resnets.data.boxes.annotations import BoxSet
from resnets.detection.metrics.detections import Detections, Truth, checked, overlaps

Year = Literal[2007, 2012]


@dataclass(frozen=True)
class VocResult:
    """VOC's numbers, from 0 to 1.

    Args:
        map: the mean of the categories that have objects; None if none has.
        categories: the average precision of each category, by name; None without objects.
        curves: recall and precision after each detection, by falling score, by category.
    """

    map: float | None
    categories: dict[str, float | None]
    curves: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


def evaluate(
    boxes: BoxSet, detections: Sequence[Detections], year: Year = 2007, iou: float = 0.5
) -> VocResult:
    """VOC's average precision for detections.

    A detection is right if the object of its category that it overlaps most has an IoU of `iou` or
    more and was not found before; if it was, it is a duplicate and false. Difficult objects count
    neither way. VOC has no crowds; detections in COCO's that hit no object count neither way.

    Args:
        boxes: the test images.
        detections: what was found in each, in the order of `boxes`.
        year: 2007 averages the precision at eleven recalls, 2012 takes the area under the curve.
        iou: the least overlap.

    Raises:
        ValueError: if the detections do not fit the images.
    """
    checked(boxes, detections)
    truths = [Truth.of(image) for image in boxes.images]
    values: dict[str, float | None] = {}
    curves = {}
    for category, name in enumerate(boxes.categories):
        one = outcomes(truths, detections, category, iou)
        positives = int(one.positives.sum())
        if not positives:
            values[name] = None
            continue
        values[name] = average_precision(one.right, positives, year)
        found = np.cumsum(one.right)
        curves[name] = found / positives, found / np.arange(1, len(found) + 1)
    measured = [value for value in values.values() if value is not None]
    return VocResult(float(np.mean(measured)) if measured else None, values, curves)


@dataclass(frozen=True)
class Outcomes:
    """The detections of one category that count, by falling score.

    Args:
        right: bool (n,): whether each finds an object that was not found before.
        images: int64 (n,), the image of each.
        positives: int64 (images,): objects to be found.
    """

    right: NDArray[np.bool_]
    images: NDArray[np.int64]
    positives: NDArray[np.int64]


def average_precision(
    right: NDArray[np.bool_],
    positives: int,
    year: Year,
    times: NDArray[np.int64] | None = None,
) -> float:
    """The average precision of one category.

    Args:
        right: whether each detection is right, by falling score.
        positives: number of objects to be found.
        year: 2007: the mean of the best precisions at a recall of at least 0, 0.1, ... 1;
            2012: the area under the curve of the best precision at each recall or a higher one.
        times: how often each detection counts; once by default.
    """
    counts = np.ones(len(right), np.int64) if times is None else times
    found = np.cumsum(counts * right)
    precision = found / np.maximum(np.cumsum(counts), 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    if year == 2007:
        # In whole numbers, so that a recall of 3 in 10 is 0.3.
        points = [np.searchsorted(10 * found, k * positives) for k in range(11)]
        return float(sum(best[p] for p in points if p < len(best)) / 11)
    return float((counts * best)[right].sum() / positives)


def outcomes(
    truths: Sequence[Truth], detections: Sequence[Detections], category: int, iou: float = 0.5
) -> Outcomes:
    """Which detections of a category are right.

    Args:
        truths: the objects of each image.
        detections: what was found in each.
        category: its index.
        iou: the least overlap.
    """
    scores, right, images = [], [], []
    positives = np.zeros(len(truths), np.int64)
    for number, (truth, found) in enumerate(zip(truths, detections, strict=True)):
        mine = (truth.categories == category) & ~truth.crowd
        crowd = (truth.categories == category) & truth.crowd
        difficult = truth.difficult[mine]
        positives[number] = (~difficult).sum()
        own = found.of(category)
        if not len(own):
            continue
        own = own.best(len(own))
        crowded = overlaps(own.boxes, truth.boxes[crowd], truth.crowd[crowd])
        shared = overlaps(own.boxes, truth.boxes[mine])
        taken = np.zeros(len(difficult), bool)
        for score, row, in_crowd in zip(own.scores, shared, crowded, strict=True):
            at = int(row.argmax()) if len(row) else -1
            hit = at >= 0 and row[at] >= iou
            if (hit and difficult[at]) or (not hit and (in_crowd >= iou).any()):
                continue
            scores.append(score)
            images.append(number)
            right.append(bool(hit and not taken[at]))
            if hit:
                taken[at] = True
    order = np.argsort(-np.array(scores, np.float64), kind="stable")
    return Outcomes(np.array(right, bool)[order], np.array(images, np.int64)[order], positives)
