"""Classification errors of a test: counts, 95 % intervals, and the confusion matrix."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""Standard deviations to either side of the mean that hold 95 % of a normal distribution."""
MAX_MATRIX_CLASSES = 100
"""Number of classes up to which a result's JSON holds the confusion matrix."""


@dataclass(frozen=True)
class Pair:
    """Images of class `true` that were classified as `answer`: `images` of `of`."""

    true: int
    answer: int
    images: int
    of: int


@dataclass(frozen=True)
class Result:
    """The errors of a classifier on a test set.

    Args:
        confusion: int64 (classes, classes): rows are the true classes, columns the answers.
        protocol: how each image was shown to the network.
        wrong5: images whose true class was not among the first five answers; None with five
            or fewer classes.
    """

    confusion: NDArray[np.int64]
    protocol: str
    wrong5: int | None = None

    @property
    def images(self) -> int:
        """Images tested."""
        return int(self.confusion.sum())

    @property
    def wrong(self) -> int:
        """Images whose first answer was wrong."""
        return self.images - int(np.trace(self.confusion))

    @property
    def error(self) -> float:
        """Top-1 error in percent."""
        return 100 * self.wrong / self.images

    @property
    def error5(self) -> float | None:
        """Top-5 error in percent."""
        return None if self.wrong5 is None else 100 * self.wrong5 / self.images

    def class_errors(self) -> list[float]:
        """Error of each class in percent; NaN for a class without images."""
        shown = self.confusion.sum(1)
        right = np.diagonal(self.confusion)
        with np.errstate(invalid="ignore"):
            return [float(e) for e in 100 * (shown - right) / shown]

    def worst_pairs(self, count: int = 10) -> list[Pair]:
        """The most frequent confusions of one class with another, the most frequent first."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        order = np.argsort(-mistakes, axis=None, kind="stable")[:count]
        shown = self.confusion.sum(1)
        rows, columns = np.unravel_index(order, mistakes.shape)
        return [
            Pair(int(true), int(answer), int(mistakes[true, answer]), int(shown[true]))
            for true, answer in zip(rows, columns, strict=True)
            if mistakes[true, answer]
        ]

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """As JSON, by class name; classes without images are left out."""
        names = distinct(classes)
        errors = zip(names, self.class_errors(), strict=True)
        facts: dict[str, Any] = {
            "protocol": self.protocol,
            "images": self.images,
            "wrong": self.wrong,
            "error": round(self.error, 4),
            "error_interval": _rounded(wilson(self.wrong, self.images)),
        }
        if self.wrong5 is not None and self.error5 is not None:
            facts["top5_wrong"] = self.wrong5
            facts["top5_error"] = round(self.error5, 4)
            facts["top5_interval"] = _rounded(wilson(self.wrong5, self.images))
        facts["class_errors"] = {n: round(e, 4) for n, e in errors if not math.isnan(e)}
        facts["worst_pairs"] = [
            {"true": names[p.true], "answer": names[p.answer], "images": p.images, "of": p.of}
            for p in self.worst_pairs()
        ]
        if len(classes) <= MAX_MATRIX_CLASSES:
            facts["confusion"] = self.confusion.tolist()
        return facts


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(end, 4) for end in interval]


def distinct(classes: Sequence[str]) -> list[str]:
    """Class names, made unique: repeated ones (ImageNet has two cranes) get their class number."""
    times = Counter(classes)
    return [n if times[n] == 1 else f"{n} ({number})" for number, n in enumerate(classes)]


def wilson(wrong: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an error rate, in percent."""
    z = Z95
    rate = wrong / images
    scale = 1 + z * z / images
    middle = rate + z * z / (2 * images)
    margin = z * math.sqrt(rate * (1 - rate) / images + z * z / (4 * images * images))
    # Rounding errors would give something like 1e-15 instead of 0 or 100 at the ends.
    low = 0.0 if wrong == 0 else 100 * (middle - margin) / scale
    high = 100.0 if wrong == images else 100 * (middle + margin) / scale
    return low, high


def measure(scores: NDArray[np.float32], labels: NDArray[Any], protocol: str) -> Result:
    """The errors of scores (N, classes) against labels (N,); ties go to the lower class number."""
    images, classes = scores.shape
    labels = labels.astype(np.int64)
    answers = scores.argmax(1)
    counts = np.bincount(labels * classes + answers, minlength=classes * classes)
    wrong5 = None
    if classes > 5:
        own = scores[np.arange(images), labels][:, None]
        earlier = np.arange(classes) < labels[:, None]
        before = ((scores > own) | ((scores == own) & earlier)).sum(1)
        wrong5 = int(((before >= 5) | ~np.isfinite(own[:, 0])).sum())
    return Result(counts.reshape(classes, classes), protocol, wrong5)
