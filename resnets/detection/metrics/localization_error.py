"""Errors of localization: the rule of ILSVRC, and what it counts in a test.

An image is right if one of the answers, five at most, is its class with a box whose IoU with one
of its objects is at least 0.5. "Given the class", the answer is a box for the true class alone
(Table 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.detection.metrics.detections import overlaps
from resnets.evaluation.results import Result, distinct, measure, wilson

ANSWERS = 5
CORRECT_IOU = 0.5
"""A box is right if its IoU with an object of its class is at least this."""


@dataclass(frozen=True)
class Located:
    """What a localizer says of some images.

    Args:
        probabilities: of the classes, float32 (n, classes).
        answers: the most probable classes, the first one first, int64 (n, k).
        boxes: of the answers, float32 (n, k, 4), in pixels of the image.
        own: of the true class, float32 (n, 4).
    """

    probabilities: NDArray[np.float32]
    answers: NDArray[np.int64]
    boxes: NDArray[np.float32]
    own: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.own)


@dataclass(frozen=True)
class LocalizationResult:
    """The errors of a localizer.

    Args:
        classification: of its classifier.
        given: images whose box for the true class is wrong, bool (n,).
        first: images that are wrong by their first answer, bool (n,).
        five: by their first five; None with five or fewer classes.
        labels: the class of each image, int64 (n,).
    """

    classification: Result
    given: NDArray[np.bool_]
    first: NDArray[np.bool_]
    five: NDArray[np.bool_] | None
    labels: NDArray[np.int64]

    @property
    def protocol(self) -> str:
        """How images were shown to both networks."""
        return self.classification.protocol

    @property
    def images(self) -> int:
        """Images tested."""
        return len(self.labels)

    @property
    def counts(self) -> dict[str, int]:
        """Images with a localization error, by the name of the error."""
        named = {"localization_error": self.given, "top1_localization_error": self.first}
        if self.five is not None:
            named["top5_localization_error"] = self.five
        return {name: int(wrong.sum()) for name, wrong in named.items()}

    @property
    def error(self) -> float:
        """Localization error given the class, in percent."""
        return 100 * int(self.given.sum()) / self.images

    def class_errors(self) -> NDArray[np.float64]:
        """Localization error of each class, given the class, in percent; NaN without images."""
        classes = len(self.classification.confusion)
        wrong = np.bincount(self.labels, self.given, classes)
        with np.errstate(invalid="ignore"):
            found: NDArray[np.float64] = 100 * wrong / np.bincount(self.labels, minlength=classes)
        return found

    def as_dict(self, classes: Sequence[str]) -> dict[str, Any]:
        """As JSON: the errors of the classifier as of any other, and those of localization."""
        facts = self.classification.as_dict(classes)
        own: dict[str, Any] = {}
        for name, wrong in self.counts.items():
            own[name] = round(100 * wrong / self.images, 4)
            own[f"{name}_interval"] = [round(end, 4) for end in wilson(wrong, self.images)]
        named = zip(distinct(classes), self.class_errors().tolist(), strict=True)
        own["class_localization_errors"] = {n: round(e, 4) for n, e in named if e == e}
        return {**facts, **own}


def measure_localization(
    located: Located,
    labels: NDArray[np.int64],
    objects: Sequence[Sequence[tuple[float, float, float, float]]],
    protocol: str,
) -> LocalizationResult:
    """The errors of a localizer.

    Args:
        located: what it says of the images.
        labels: their classes, int64 (n,).
        objects: the boxes of each image, all of its class.
        protocol: how images were shown.
    """
    right = np.zeros(located.answers.shape, bool)
    given = np.zeros(len(labels), bool)
    for row, boxes in enumerate(objects):
        both = np.concatenate((located.boxes[row], located.own[None, row]))
        truth = np.array(boxes, np.float64).reshape(-1, 4)
        hits: NDArray[np.bool_] = np.any(overlaps(both, truth) >= CORRECT_IOU, axis=1)
        right[row] = hits[:-1] & (located.answers[row] == labels[row])
        given[row] = not hits[-1]
    classification = measure(located.probabilities, labels, protocol)
    five: NDArray[np.bool_] | None = None
    if classification.wrong5 is not None:
        five = np.logical_not(right[:, :ANSWERS].any(axis=1))
    return LocalizationResult(classification, given, ~right[:, 0], five, labels)
