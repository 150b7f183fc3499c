"""Top-1 of an export against its source, on the same images and by the same test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resnets.data.cifar import ImageArrays
from resnets.data.cifar_classes import with_classes
from resnets.data.preprocessing import Preprocessing
from resnets.data.samples import Samples
from resnets.evaluation import evaluator
from resnets.evaluation.evaluator import Classifier
from resnets.evaluation.protocols import Center
from resnets.evaluation.results import Z95
from resnets.evaluation.scores import Scores
from resnets.export.calibration import ExportImages
from resnets.inference.predictor import Predictor
from resnets.support.errors import UserError
from resnets.weights.model_file import Model

BATCH = 16
CPU = torch.device("cpu")
MAX_LOSS = 0.5
"""Points of top-1 that int8 may lose by default."""


def _test(
    classifier: Classifier, preprocessing: Preprocessing, images: Samples | ImageArrays
) -> Scores:
    """The scores of a classifier for the centre of each image, or for CIFAR-10's whole images.

    Raises:
        UserError: if the classifier does not know the images' classes, or an image cannot be
            read.
    """
    if isinstance(images, ImageArrays):
        return evaluator.score_cifar(classifier, images, batch=10 * BATCH)
    scores = evaluator.score_photos(classifier, images, Center(preprocessing), batch=BATCH)
    assert scores is not None  # there is no other process
    return scores


@dataclass(frozen=True)
class Loss:
    """Top-1 of a source and of its export, on the same images.

    Args:
        images: number of images.
        before: images that the source classifies correctly.
        after: images that the export classifies correctly.
        lost: images that only the source classifies correctly.
        gained: images that only the export classifies correctly.
    """

    images: int
    before: int
    after: int
    lost: int
    gained: int

    @property
    def points(self) -> float:
        """Points of top-1 lost; negative if the export is better."""
        return 100 * (self.before - self.after) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the points lost, a difference of paired proportions (Agresti and Min
        2005)."""
        n = self.images + 2
        middle = (self.lost - self.gained) / n
        spread = (self.lost + self.gained + 1) / n - middle**2
        margin = Z95 * math.sqrt(spread / n)
        return 100 * (middle - margin), 100 * (middle + margin)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "images": self.images,
            "top1_before": round(100 * self.before / self.images, 4),
            "top1_after": round(100 * self.after / self.images, 4),
            "points_lost": round(self.points, 4),
            "points_lost_interval": [round(end, 4) for end in self.interval],
            "images_lost": self.lost,
            "images_gained": self.gained,
        }


def loss(before: Scores, after: Scores) -> Loss:
    """The loss of an export, from two tests on the same images in the same order."""
    correct, kept = (s.probabilities.argmax(1) == s.labels for s in (before, after))
    return Loss(
        images=len(before),
        before=int(np.count_nonzero(correct)),
        after=int(np.count_nonzero(kept)),
        lost=int(np.count_nonzero(correct & ~kept)),
        gained=int(np.count_nonzero(kept & ~correct)),
    )


def compare(
    model: Model,
    predictor: Predictor,
    data: ExportImages,
    allowed: float,
    hint: str,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Top-1 of a model and of its export, if there are images to test on.

    Args:
        model: the source.
        predictor: the export in its engine.
        data: its test images.
        allowed: points of top-1 that may be lost.
        hint: what to do about a greater loss.
        report: called with a line of progress.

    Raises:
        UserError: if more than `allowed` points are lost.
    """
    if data.test is None:
        return {"accuracy": None, "not_tested": data.tested_on}
    report(f"testing source and export on {data.tested_on}")
    model.network.to(memory_format=torch.channels_last)
    assert isinstance(predictor.preprocessing, Preprocessing)  # an export's
    before = _test(evaluator.pytorch_classifier(model, CPU), model.preprocessing, data.test)
    after = _test(predictor.classifier(), predictor.preprocessing, data.test)
    change = loss(before, after)
    if change.points > allowed + 1e-9:
        low, high = change.interval
        raise UserError(
            f"{predictor.runtime.name.split()[-1]} loses {change.points:.2f} points of top-1 on "
            f"{data.tested_on} ({change.lost} images lost, {change.gained} gained; 95 % interval "
            f"{low:.2f} to {high:.2f}), more than {allowed:g}",
            hint=hint,
        )
    return {
        "accuracy": {
            **change.as_dict(),
            **_probability_changes(before, after),
            "tested_on": data.tested_on,
            "protocol": after.protocol,
            "dataset": with_classes(data.test.classes)
            if isinstance(data.test, ImageArrays)
            else data.tested_on,
            "allowed": allowed,
        }
    }


def _probability_changes(before: Scores, after: Scores) -> dict[str, Any]:
    """The largest change of a class probability, and the share of images with one over 0.1."""
    most = np.abs(after.probabilities - before.probabilities).max(1)
    return {
        "largest_probability_moved": round(float(most.max()), 4),
        "moved_by_over_0.1": round(float((most > 0.1).mean()), 4),
    }
