"""What kind of mistakes a detector makes: TIDE's six types.

Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, 2020.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resnets.data.boxes.annotations import BoxSet
from resnets.detection.metrics.detections import (
    Detections,
    Floats,
    Truth,
    areas,
    checked,
    overlaps,
)
from resnets.detection.metrics.matching import MOST_DETECTIONS, interpolated

FOREGROUND, BACKGROUND = 0.5, 0.1
"""Section 2.2: from which IoU a detection finds an object, and up to which it is on background."""
ErrorType = Literal["classification", "localization", "both", "duplicate", "background", "missed"]
TYPES: tuple[ErrorType, ...] = (
    "classification", "localization", "both", "duplicate", "background", "missed",
)  # fmt: skip
SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": np.inf}
"""COCO's sizes and the area in pixels below which an object has them."""


@dataclass
class ErrorReport:
    """The errors of a detector.

    Args:
        counts: number of errors of each type.
        by_size: the same by size: of the missed object, or of the false detection.
        by_category: the same by category, of the missed object or of the false detection.
        gains: how much AP50 (0 to 1) would rise if all errors of one type were corrected and
            nothing else changed (section 2.3).
        ap50: the AP50 from which the gains are counted.
    """

    counts: Counter[ErrorType] = field(default_factory=Counter)
    by_size: dict[str, Counter[ErrorType]] = field(default_factory=dict)
    by_category: dict[str, Counter[ErrorType]] = field(default_factory=dict)
    gains: dict[ErrorType, float] = field(default_factory=dict)
    ap50: float | None = None


@dataclass
class _Point:
    """A detection, or an object that was missed.

    Args:
        category: its category.
        score: of a detection.
        error: None if it is right.
        area: its pixels.
        target: for errors that a correction makes right: the image, and the object that is found.
        corrected: the category after the correction.
    """

    category: int
    score: float
    error: ErrorType | None
    area: float
    target: tuple[int, int] | None = None
    corrected: int = -1


def evaluate(boxes: BoxSet, detections: Sequence[Detections]) -> ErrorReport:
    """Sort every false detection and every missed object into TIDE's types.

    Where a detection fits several types, the first of localization, classification, duplicate,
    background and both counts, as in the authors' program. Crowds and difficult objects, and
    detections of them, count neither way.

    Args:
        boxes: the test images.
        detections: what was found in each, in the order of `boxes`; the best 100 count.

    Raises:
        ValueError: if the detections do not fit the images.
    """
    checked(boxes, detections)
    points: list[_Point] = []
    positives = np.zeros(len(boxes.categories), np.int64)
    for number, (image, found) in enumerate(zip(boxes.images, detections, strict=True)):
        truth = Truth.of(image)
        counted = ~(truth.crowd | truth.difficult)
        np.add.at(positives, truth.categories[counted], 1)
        points += _of_image(truth, found.best(MOST_DETECTIONS), number)
    report = ErrorReport(by_size={size: Counter() for size in SIZES})
    report.by_category = {name: Counter() for name in boxes.categories}
    for point in points:
        if point.error:
            report.counts[point.error] += 1
            report.by_size[size_of(point.area)][point.error] += 1
            report.by_category[boxes.categories[point.category]][point.error] += 1
    if positives.any():
        report.ap50 = _ap50(points, positives, None)
        for kind in TYPES:
            # Where a resolution of 101 recalls makes it fall, it is no gain.
            report.gains[kind] = max(0.0, _ap50(points, positives, kind) - report.ap50)
    return report


def size_of(area: float) -> str:
    """COCO's size of an object of so many pixels: `small`, `medium` or `large`."""
    return next(size for size, limit in SIZES.items() if area < limit)


def _of_image(truth: Truth, found: Detections, number: int) -> list[_Point]:
    """The detections of one image that count, by falling score, and its missed objects."""
    counted = np.flatnonzero(~(truth.crowd | truth.difficult))
    categories = truth.categories[counted]
    shared = overlaps(found.boxes, truth.boxes[counted])
    same = found.categories[:, None] == categories[None]
    finder = _finders(shared * same)
    right = set(finder.tolist())
    ignored, sizes = ignored_by(truth, found), areas(found.boxes)
    points, correctable = [], np.zeros(len(counted), bool)
    for index in range(len(found)):
        if index not in right and ignored[index]:
            continue
        category, score = int(found.categories[index]), float(found.scores[index])
        point = _Point(category, score, None, float(sizes[index]))
        points.append(point)
        if index not in right:
            point.error, target = _type(shared[index], same[index], finder >= 0)
            if target is not None and finder[target] < 0:
                correctable[target] = True
                point.target = number, int(counted[target])
                point.corrected = int(categories[target])
    for at in np.flatnonzero((finder < 0) & ~correctable).tolist():
        area = float(truth.areas[counted[at]])
        points.append(_Point(int(categories[at]), 0.0, "missed", area))
    return points


def _finders(shared: Floats) -> NDArray[np.int64]:
    """The detection that finds each object, -1 for none.

    Args:
        shared: overlaps (detections, objects), 0 where categories differ; detections by falling
            score.
    """
    free = shared.copy()
    finder = np.full(shared.shape[1], -1)
    for index in np.flatnonzero((shared >= FOREGROUND).any(1)).tolist():
        at = int(free[index].argmax())
        if free[index, at] >= FOREGROUND:
            finder[at] = index
            free[:, at] = 0
    return finder


def _type(
    shared: Floats, same: NDArray[np.bool_], found: NDArray[np.bool_]
) -> tuple[ErrorType, int | None]:
    """The error of a false detection, and the object that it would find if it were corrected.

    Args:
        shared: its overlaps with the objects (n,).
        same: which of them are of its category.
        found: which of them other detections find.
    """
    if not len(shared):
        return "background", None
    own, other = shared * same, shared * ~same
    if BACKGROUND <= own.max() <= FOREGROUND:
        return "localization", int(own.argmax())
    if other.max() >= FOREGROUND:
        return "classification", int(other.argmax())
    if (own * found).max() >= FOREGROUND:
        return "duplicate", None
    return ("background" if shared.max() <= BACKGROUND else "both"), None


def ignored_by(truth: Truth, found: Detections) -> NDArray[np.bool_]:
    """Which detections are of a crowd or a difficult object of their category."""
    mine = truth.crowd | truth.difficult
    shared = overlaps(found.boxes, truth.boxes[mine], truth.crowd[mine])
    same = found.categories[:, None] == truth.categories[mine][None]
    return np.asarray(((shared > FOREGROUND) & same).any(1))


def _ap50(points: list[_Point], positives: NDArray[np.int64], kind: ErrorType | None) -> float:
    """The AP50 after all errors of one type are corrected."""
    best: dict[tuple[int, int], _Point] = {}
    for point in points:  # of several detections of one object the one of highest score corrects it
        if point.target and (point.target not in best or best[point.target].score < point.score):
            best[point.target] = point
    left = positives.copy()
    detections: list[list[tuple[float, bool]]] = [[] for _ in positives]
    for point in points:
        if point.error == "missed":
            left[point.category] -= kind == "missed"
        elif point.error is None or point.error != kind:
            detections[point.category].append((point.score, point.error is None))
        elif point.target and best[point.target] is point:
            detections[point.corrected].append((point.score, True))
    values = []
    for category in np.flatnonzero(positives):
        pairs = sorted(detections[category], key=lambda pair: -pair[0])
        right = np.array([one for _, one in pairs], bool)
        if left[category]:
            count = np.arange(1, len(right) + 1)
            values.append(interpolated(np.cumsum(right), count, int(left[category])))
        elif len(right):  # all its objects are taken away, its false detections are not
            values.append(0.0)
    return float(np.mean(values)) if values else 0.0
