"""The training of a localizer: images with boxes of one class to losses and errors (appendix C)."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from resnets.data.boxes.annotations import fingerprint
from resnets.data.boxes.batches import Target
from resnets.data.boxes.cleaning import Dropped, clean, summary
from resnets.data.boxes.datasets import random_subset
from resnets.data.boxes.one_class import (
    LocalizationBatches,
    labelled,
    with_objects,
)
from resnets.data.datasets import BoxSplits
from resnets.data.samples import PhotoSet
from resnets.detection import localizer_evaluation, localizer_model
from resnets.detection.localizer import LOSSES, Localizer
from resnets.evaluation.evaluator import Progress
from resnets.models.residual import ResidualNetwork
from resnets.support import devices
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.support.names import composed, counted, listed
from resnets.training.objective import (
    BatchLoss,
    Forward,
    MicroBatches,
    PhotoClassification,
    TestMetrics,
)
from resnets.training.recipe import Recipe
from resnets.weights import model_file
from resnets.weights.card import LOCALIZATION
from resnets.weights.model_file import Model
from resnets.weights.pretrained import copy_weights


class LocalizationObjective(PhotoClassification):
    """Per-class regression: the losses of an image's scores and boxes for its true class add up.

    Crops, mean and tests are those of photographs; the classifier is the recipe's `init`.

    Args:
        plan: the recipe.
        data: training and test images; those without a box are left out.

    Raises:
        UserError: if there are no images, or an image has objects of two classes.
    """

    capturable = False
    heads: ClassVar[tuple[str, ...]] = ("objectness.", "codes.")
    part_names = LOSSES

    def __init__(self, plan: Recipe, data: BoxSplits) -> None:
        used, self._dropped = with_boxes(data)
        self._empty = len(data.train) + len(data.test) - len(used.train) - len(used.test)
        self._boxes, self._tested = (
            random_subset(one, plan.limit) for one in (used.train, used.test)
        )
        super().__init__(plan, PhotoSet(labelled(self._boxes), labelled(self._tested)))

    @cached_property
    def fingerprint(self) -> str:
        return "/".join(fingerprint(one) for one in (self._boxes, self._tested))

    def describe(self) -> str:
        notes = [summary(self._dropped)]
        if self._empty:
            notes.append(f"{counted(self._empty, 'image')} without a box left out")
        return "; ".join([super().describe(), *filter(None, notes)])

    def build_network(self) -> nn.Module:  # type: ignore[override]
        init, classes = self.initial_model, len(self.classes)
        torch.manual_seed(self.recipe.seed)
        localizer = localizer_model.build(self.recipe.network, classes, self.recipe.localization)
        localizer.reset_parameters()
        if init is not None:
            rows = _rows(init, self.classes, self.recipe.init or "")
            for network in (localizer.network, localizer.classifier):
                copy_weights(network, init, classifier=False)
            assert isinstance(init.network, ResidualNetwork)
            with torch.no_grad():
                localizer.classifier.fc.weight.copy_(init.network.fc.weight[rows])
                localizer.classifier.fc.bias.copy_(init.network.fc.bias[rows])
            _ = self.preprocessing  # which comes from the model, too
            self.__dict__.pop("initial_model")  # frees its weights; a later use loads it again
        return localizer

    def batches(
        self, micro_batches: MicroBatches, device: torch.device, processes: int = 1
    ) -> LocalizationBatches:
        recipe, crop = self.recipe, self._crop_preprocessing
        augmentation = recipe.photos.augmentation(recipe.photos.size, crop.interpolation)
        return LocalizationBatches(
            samples=self._train,
            images=self._boxes.images,
            visible=recipe.localization.visible,
            batch=recipe.batch,
            seed=recipe.seed,
            device=device,
            augmentation=lambda step: augmentation,
            normalize=crop.normalize(device),
            parts=micro_batches,
            threads=max(1, devices.cores() // processes),
        )

    def loss(
        self, forward: Forward, images: Tensor, targets: tuple[Tensor, list[Target]] | Any
    ) -> BatchLoss:
        labels, objects = targets
        counted = float(len(images))
        if not counted:  # no image could be read; the forward pass must happen all the same
            images, labels, objects = _blank(images)
        losses = forward(images, labels, objects)
        parts = torch.stack([losses[name] for name in LOSSES]) * min(counted, 1.0)
        wrong = losses["wrong"] * min(counted, 1.0)
        return BatchLoss(parts.sum(), wrong, wrong.new_tensor(counted), parts.detach())

    def test(
        self, network: nn.Module, device: torch.device, world: World, progress: Progress
    ) -> TestMetrics:
        assert isinstance(network, Localizer)
        found = localizer_evaluation.evaluate(
            network, self._tested, self.classes, self.preprocessing,
            views="center", device=device, world=world, progress=progress,
        )  # fmt: skip
        result = world.broadcast_object(found)
        assert result is not None
        measured = {"dataset": self.recipe.dataset, **result.as_dict(self.classes)}
        metrics = {"test_error": round(result.error, 3)}
        headline = f"localization error {result.error:.2f} % given the class"
        if "top5_localization_error" in measured:
            metrics["test_top5_error"] = round(measured["top5_localization_error"], 3)
            headline += f", top-5 {measured['top5_localization_error']:.2f} %"
        return TestMetrics(metrics, measured, headline)

    def card(self, provenance: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
        made = model_file.make_card(self.recipe.network, list(self.classes), provenance, [measured])
        return {**made, LOCALIZATION: self.recipe.localization.model_dump(mode="json")}


def with_boxes(data: BoxSplits) -> tuple[BoxSplits, list[Dropped]]:
    """The images that a localizer is trained and tested on: those with a box.

    Returns:
        The images, and the boxes that no training can use.
    """
    cleaned, dropped = clean(data.train)
    return BoxSplits(with_objects(cleaned), with_objects(data.test)), dropped


def _rows(init: Model, classes: tuple[str, ...], name: str) -> list[int]:
    """The classifier's output for each class, by identifier or name.

    Raises:
        UserError: if it lacks one.
    """
    known = {composed(one): row for row, one in enumerate(init.classes)}
    known |= {one: row for row, one in enumerate(init.class_ids or ())}
    missing = [one for one in classes if composed(one) not in known]
    if missing:
        raise UserError(
            f"the classifier does not know {listed(missing)}",
            f"init {name}",
            "train one on the same classes first: resnets train finetune",
        )
    return [known[composed(one)] for one in classes]


def _blank(images: Tensor) -> tuple[Tensor, Tensor, list[Target]]:
    """An image without objects, in place of those that could not be read."""
    size = images.shape[-1]
    nothing = Target(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool),
        (size, size), 0,
    )  # fmt: skip
    label = torch.zeros(1, dtype=torch.int64, device=images.device)
    return images.new_zeros((1, *images.shape[1:])), label, [nothing]
