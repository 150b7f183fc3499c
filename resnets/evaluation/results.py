"""Classification errors of a test: counts, 95 % intervals, and the confusion matrix."""

from __future__ import annotations

import io
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


def confusion_png(result: Result, classes: Sequence[str], title: str) -> bytes:
    """The confusion matrix as a PNG file: rows are true classes, columns answers.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    side = 2.2 + 0.46 * len(classes)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    mistakes = result.confusion.astype(float)
    np.fill_diagonal(mistakes, np.nan)  # the right answers would hide the colours of the mistakes
    image = axes.imshow(mistakes, cmap="Oranges", vmin=0)
    axes.set_facecolor("#e8f0e8")
    limit = np.nanmax(mistakes) if result.wrong else 1.0
    for row, counts in enumerate(result.confusion):
        for column, count in enumerate(counts):
            dark = row != column and count > 0.6 * limit
            axes.text(
                column, row, str(count), ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    axes.set_title(f"{title}\nerror {result.error:.2f} % of {result.images} images", fontsize=11)
    figure.colorbar(image, label="mistakes", shrink=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
