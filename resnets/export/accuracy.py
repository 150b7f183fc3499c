"""Tests of models in any engine, by the same code as those of networks in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnets.data.cifar10 import Images
from resnets.data.preprocessing import Normalize, Preprocessing
from resnets.data.samples import Samples
from resnets.evaluation import photo_tests
from resnets.evaluation.protocols import Center
from resnets.evaluation.scores import Scores
from resnets.export import calibration
from resnets.export.calibration import ExportImages
from resnets.inference.predictor import Predictor
from resnets.support.errors import UserError
from resnets.weights.model_file import Model

BATCH = 16
CPU = torch.device("cpu")
MAX_LOSS = 0.5
"""Points of top-1 that int8 may cost."""
Report = Callable[[str], None]


class _Unchanged(Normalize):
    """Pixels as they are: the engine scales them."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(3, 1, 1))

    def __call__(self, images: Tensor, shift: Tensor | None = None) -> Tensor:
        return images


@dataclass(frozen=True)
class _Pixels(Preprocessing):
    """An image's way to uint8 pixels, where it ends."""

    def normalize(self, device: torch.device) -> Normalize:
        return _Unchanged()


class _Network(nn.Module):
    """An engine in a network's place: uint8 (N, 3, H, W) to logits."""

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self._runtime = predictor.runtime

    def forward(self, images: Tensor) -> Tensor:
        return self._runtime(images).logits


def as_model(predictor: Predictor) -> Model:
    """An export in its engine, for tests on crops of the size that it was trained on."""
    look = predictor.preprocessing
    assert isinstance(look, Preprocessing)  # an export's
    pixels = _Pixels(look.size, look.resize, look.interpolation, mean=look.mean, std=look.std)
    card = {**predictor.card, "runtime": predictor.runtime.name}
    return Model(_Network(predictor).eval(), card, pixels)


def run(
    model: Model, data: Samples | Images, progress: Callable[[int], None] = lambda images: None
) -> Scores:
    """The scores of a model on the CPU, shown the centre of each image, or CIFAR-10 as it is.

    Raises:
        UserError: if the images' classes are not the model's, or an image cannot be read.
    """
    if isinstance(data, Images):
        return photo_tests.run_cifar10(model, data, CPU, batch=10 * BATCH, progress=progress)
    views = Center(model.preprocessing)
    found = photo_tests.run_test(model, data, views, CPU, BATCH, progress=progress)
    assert found is not None  # there is no other process
    return found


@dataclass(frozen=True)
class Loss:
    """Top-1 before and after, on the same images.

    Args:
        images: how many.
        before: images that the source names rightly.
        after: images that the export names rightly.
        lost: named rightly before and wrongly after.
        gained: the other way round.
    """

    images: int
    before: int
    after: int
    lost: int
    gained: int

    @property
    def points(self) -> float:
        """Points of top-1 lost; negative if it became better."""
        return 100 * (self.before - self.after) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the points lost, of paired shares: Agresti and Min 2005."""
        n = self.images + 2
        middle = (self.lost - self.gained) / n
        spread = (self.lost + self.gained + 1) / n - middle**2
        margin = 1.959963984540054 * math.sqrt(spread / n)
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
    """What an export lost, from two tests on the same images in the same order."""
    right = [scores.probabilities.argmax(1) == scores.labels for scores in (before, after)]
    first, second = (int(np.count_nonzero(one)) for one in right)
    lost = int(np.count_nonzero(right[0] & ~right[1]))
    gained = int(np.count_nonzero(~right[0] & right[1]))
    return Loss(len(before), first, second, lost, gained)


def compare(
    model: Model,
    predictor: Predictor,
    data: ExportImages,
    allowed: float,
    hint: str,
    report: Report,
) -> dict[str, Any]:
    """Top-1 of a model and of what was made of it, on the test if there is one.

    Args:
        hint: what a user may do if that is too much.

    Raises:
        UserError: if more than `allowed` points were lost.
    """
    if data.test is None:
        return {"accuracy": None, "not_tested": data.tested_on}
    report(f"testing source and export on {data.tested_on}")
    model.network.to(memory_format=torch.channels_last)
    before, after = run(model, data.test), run(as_model(predictor), data.test)
    found = loss(before, after)
    if found.points > allowed + 1e-9:
        low, high = found.interval
        raise UserError(
            f"{predictor.runtime.name.split()[-1]} loses {found.points:.2f} points of top-1 on "
            f"{data.tested_on} ({found.lost} images lost, {found.gained} gained; 95 % interval "
            f"{low:.2f} to {high:.2f}), more than {allowed:g}",
            hint=hint,
        )
    facts = {
        **found.as_dict(),
        **_moved(before, after),
        "tested_on": data.tested_on,
        "protocol": after.protocol,
    }
    dataset = calibration.CIFAR10 if isinstance(data.test, Images) else data.tested_on
    return {"accuracy": {**facts, "dataset": dataset, "allowed": allowed}}


def _moved(before: Scores, after: Scores) -> dict[str, Any]:
    """How far probabilities moved: the largest of each image's, and how many by over 0.1."""
    most = np.abs(after.probabilities - before.probabilities).max(1)
    return {
        "largest_probability_moved": round(float(most.max()), 4),
        "moved_by_over_0.1": round(float((most > 0.1).mean()), 4),
    }
