"""Which detection is of which object, whatever its category: confusions, and the worst images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet
from resnets.detection.metrics.detections import Detections, Floats, Truth, checked, overlaps
from resnets.detection.metrics.errors import FOREGROUND, ignored_by

SCORE = 0.5
"""Detections with a lower score are left out."""


@dataclass(frozen=True)
class Paired:
    """The detections and the objects of one image, paired.

    Args:
        found: detections of sufficient score.
        truth: the objects.
        pairs: index of a detection, index of its object.
        false: the other detections, but for those of crowds and difficult objects.
        missed: the other objects, but for crowds and difficult ones.
    """

    found: Detections
    truth: Truth
    pairs: list[tuple[int, int]]
    false: list[int]
    missed: list[int]

    @property
    def confused(self) -> list[tuple[int, int]]:
        """The pairs of two categories."""
        own, true = self.found.categories, self.truth.categories
        return [(at, of) for at, of in self.pairs if own[at] != true[of]]

    @property
    def errors(self) -> int:
        """False detections, missed objects and confused pairs."""
        return len(self.false) + len(self.missed) + len(self.confused)


def pair(
    image: AnnotatedImage, found: Detections, score: float = SCORE, iou: float = FOREGROUND
) -> Paired:
    """Pair detections and objects of any category, those that overlap most first.

    Args:
        image: with its objects.
        found: its detections.
        score: detections below are left out.
        iou: pairs overlap by this at least.
    """
    truth, found = Truth.of(image), found.where(found.scores >= score)
    counted = np.flatnonzero(~(truth.crowd | truth.difficult))
    shared = overlaps(found.boxes, truth.boxes[counted])
    pairs = [(at, int(counted[of])) for at, of in _pairs(shared, iou)]
    ignored = ignored_by(truth, found)
    used, met = {at for at, _ in pairs}, {of for _, of in pairs}
    false = [at for at in range(len(found)) if at not in used and not ignored[at]]
    return Paired(found, truth, pairs, false, [of for of in counted.tolist() if of not in met])


def confusion(
    boxes: BoxSet, detections: Sequence[Detections], score: float = SCORE, iou: float = FOREGROUND
) -> NDArray[np.int64]:
    """How often objects of one category are detected as another.

    Args:
        boxes: the test images.
        detections: what was found in each, in the order of `boxes`.
        score, iou: as for `pair`.

    Returns:
        (categories + 1, categories + 1): rows are true categories, columns detected ones. The last
        row counts detections of background, the last column objects that were not detected.

    Raises:
        ValueError: if the detections do not fit the images.
    """
    checked(boxes, detections)
    none = len(boxes.categories)
    matrix = np.zeros((none + 1, none + 1), np.int64)
    for image, found in zip(boxes.images, detections, strict=True):
        one = pair(image, found, score, iou)
        for at, of in one.pairs:
            matrix[one.truth.categories[of], one.found.categories[at]] += 1
        matrix[:none, none] += np.bincount(one.truth.categories[one.missed], minlength=none)
        matrix[none, :none] += np.bincount(one.found.categories[one.false], minlength=none)
    return matrix


def worst(
    boxes: BoxSet, detections: Sequence[Detections], count: int
) -> list[tuple[AnnotatedImage, Paired]]:
    """The images with the most errors, at most `count`; none without errors.

    Args:
        boxes: the test images.
        detections: what was found in each, in the order of `boxes`.
        count: of images.
    """
    paired = [pair(*one) for one in zip(boxes.images, detections, strict=True)]
    order = sorted(range(len(paired)), key=lambda at: -paired[at].errors)
    return [(boxes.images[at], paired[at]) for at in order[:count] if paired[at].errors]


def _pairs(shared: Floats, iou: float) -> list[tuple[int, int]]:
    """Detections and objects, each once, that overlap most."""
    pairs: list[tuple[int, int]] = []
    rows, columns = np.nonzero(shared >= iou)
    order = np.argsort(-shared[rows, columns], kind="stable")
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used_rows and column not in used_columns:
            pairs.append((row, column))
            used_rows.add(row)
            used_columns.add(column)
    return pairs
