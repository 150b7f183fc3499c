"""The training of a detector: images with boxes to losses, a detector to its average precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from resnets.data.boxes import voc as voc_files
from resnets.data.boxes.annotations import fingerprint
from resnets.data.boxes.batches import DetectionBatches, Target, Views
from resnets.data.boxes.cleaning import clean, summary
from resnets.data.boxes.datasets import random_subset
from resnets.data.boxes.rescaling import load_scaled
from resnets.data.boxes.segments import require_segments
from resnets.data.datasets import BoxSplits
from resnets.data.folders import ImageFolder
from resnets.data.images import read_image
from resnets.data.preprocessing import Preprocessing, imagenet
from resnets.data.samples import random_indices
from resnets.detection import model
from resnets.detection.alternating import Alternation, step_parameters
from resnets.detection.detector import LOSSES, MASKS, Detector
from resnets.detection.metrics import coco, voc
from resnets.detection.metrics.detections import Detections
from resnets.detection.pictures import contact_sheet, draw
from resnets.detection.regions import Siblings
from resnets.evaluation.evaluator import Progress
from resnets.support import devices
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.support.names import composed, counted
from resnets.support.parallel import in_threads
from resnets.training.objective import (
    BatchLoss,
    Forward,
    MicroBatches,
    Objective,
    TestMetrics,
    refuse_unreadable,
)
from resnets.training.recipe import Recipe
from resnets.weights import hub, model_file
from resnets.weights.card import DETECTION, precisions_of
from resnets.weights.model_file import Model
from resnets.weights.pretrained import copy_weights

PICTURES = 8
"""Test images whose detections are drawn at every test."""


class DetectionObjective(Objective):
    """Faster R-CNN. Trained jointly, the losses of proposals and of regions add up.

    Args:
        plan: the recipe.
        data: training and test images; boxes that cannot be trained on are left out.

    Raises:
        UserError: if there are no images, or objects without a segment if masks are trained.
    """

    heads: ClassVar[tuple[str, ...]] = ("rpn.", "siblings.", "masks.")

    def __init__(self, plan: Recipe, data: BoxSplits) -> None:
        train, self._test = (random_subset(one, plan.limit) for one in (data.train, data.test))
        self._train, self._dropped = clean(train)
        self._masks = plan.detection.masks
        self.part_names = (*LOSSES, MASKS) if self._masks else LOSSES
        if self._masks:
            require_segments(self._train, ignored=False)
            require_segments(self._test, ignored=True)
        self.classes = data.train.categories
        self._alternation: Alternation | None = None
        super().__init__(plan, len(self._train), len(self._test))

    def load_model(self, name: str) -> Model:
        """A classifier, or a detector with the same network."""
        return model.load(name) if model.is_detector(name) else hub.load(name)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Only its mean and deviation are used; the settings say how images are scaled."""
        init = self.initial_model.preprocessing if self.initial_model else imagenet()
        made = self._checkpoint_preprocessing or init
        size = self.recipe.detection.size
        mean = made.mean.mean((1, 2), keepdim=True)
        return Preprocessing(size, size, "bilinear", mean=mean, std=made.std)

    @cached_property
    def fingerprint(self) -> str:
        return "/".join(fingerprint(one, self._masks) for one in (self._train, self._test))

    def describe(self) -> str:
        boxes = sum(len(image.objects) for image in self._train.images)
        left_out = summary(self._dropped)
        count = len(self.classes)
        masks = " and masks" if self._masks else ""
        return (
            f"{counted(self.train_images, 'image')} with {counted(boxes, 'box', 'boxes')}{masks} "
            f"to train, {self.test_images:,} to test, {counted(count, 'category', 'categories')}"
            f"{left_out and f'; {left_out}'}"
        )

    def build_network(self) -> nn.Module:
        init = self.initial_model
        torch.manual_seed(self.recipe.seed)
        detector = model.build(self.recipe.network, len(self.classes), self.recipe.detection)
        detector.rpn.reset_parameters()
        detector.siblings.reset_parameters()
        if detector.masks is not None:
            detector.masks.reset_parameters()
        if init is not None:
            _ = self.preprocessing  # which comes from the model, too
            if isinstance(init.network, Detector):
                copy_detector(detector, self.classes, init)
            else:
                copy_weights(detector.network, init, classifier=False)
            self.__dict__.pop("initial_model")  # frees its weights; a later use loads it again
        if self.recipe.stages > 1 and self._alternation is None:
            self._alternation = Alternation.from_start(detector)
        return detector

    def begin_stage(self, network: nn.Module, stage: int) -> None:
        assert isinstance(network, Detector)
        if self._alternation is not None:
            self._alternation.begin(network, stage)

    def enter_stage(self, network: nn.Module, stage: int) -> None:
        assert isinstance(network, Detector)
        if self._alternation is not None:
            self._alternation.enter(network, stage)

    def unmeasured(self) -> frozenset[str]:
        part = "both" if self._alternation is None else self._alternation.part
        of_proposals, of_regions = self.part_names[:2], self.part_names[2:]
        if part == "proposals":
            return frozenset({"train_error", *(f"loss_{name}" for name in of_regions)})
        return frozenset(f"loss_{name}" for name in of_proposals if part == "regions")

    def stage_parameters(self, network: nn.Module, stage: int) -> Iterable[nn.Parameter]:
        assert isinstance(network, Detector)
        alternating = self._alternation is not None
        return step_parameters(network, stage) if alternating else network.parameters()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, facts = super().state()
        if self._alternation is not None:
            tensors |= self._alternation.tensors()
        return tensors, facts

    def resume_with(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        super().resume_with(tensors, facts)
        if self.recipe.stages > 1:
            self._alternation = Alternation.from_checkpoint(tensors)

    def batches(
        self, micro_batches: MicroBatches, device: torch.device, processes: int = 1
    ) -> DetectionBatches:
        recipe, settings = self.recipe, self.recipe.detection
        return DetectionBatches(
            images=self._train.images,
            batch=recipe.batch,
            seed=recipe.seed,
            device=device,
            views=Views(model.rescaling(settings), settings.scales, settings.flip),
            normalize=self.preprocessing.normalize(device),
            parts=micro_batches,
            threads=max(1, devices.cores() // processes),
            masks=self._masks,
        )

    def loss(self, forward: Forward, images: Tensor, targets: list[Target]) -> BatchLoss:
        counted = float(len(images))
        if not counted:  # no image could be read; the forward pass must happen all the same
            images, targets = _blank(images.device)
        turn = self._alternation
        which = ("both", None) if turn is None else (turn.part, turn.proposer)
        losses = forward(images, targets, self.recipe.label_smoothing, *which)
        parts = torch.stack([losses[name] for name in self.part_names]) * min(counted, 1.0)
        wrong = losses["wrong"] * min(counted, 1.0)
        return BatchLoss(parts.sum(), wrong, wrong.new_tensor(counted), parts.detach())

    def check_data(self) -> None:
        names = [image.name for image in self._test.images]
        refuse_unreadable(ImageFolder(self._test.folder, names, [0] * len(names), None))

    def test(
        self, network: nn.Module, device: torch.device, world: World, progress: Progress
    ) -> TestMetrics:
        assert isinstance(network, Detector)
        own = range(world.rank, self.test_images, world.size)
        parts = world.each(lambda: self._detect(network, device, own, progress))
        metrics = None
        if parts is not None:
            found = [parts[i % world.size][i // world.size] for i in range(self.test_images)]
            metrics = self._measure(found)
        result = world.broadcast_object(metrics)
        assert result is not None
        return result

    def _detect(
        self, detector: Detector, device: torch.device, indices: range, progress: Progress
    ) -> list[Detections]:
        """Detections in test images, which another thread reads ahead.

        Raises:
            UserError: if an image cannot be read.
        """
        scale, normalize = model.rescaling(detector.settings), self.preprocessing.normalize(device)
        images = [self._test.images[index] for index in indices]
        found = []
        for image, pixels in zip(
            images, in_threads(lambda one: load_scaled(one, scale), images, 1), strict=True
        ):
            size = image.width, image.height
            found.append(
                model.detect_scaled(
                    detector, pixels, size, normalize, device, self.recipe.precision
                )
            )
            progress(len(found))
        return found

    def _measure(self, found: list[Detections]) -> TestMetrics:
        """COCO's AP and AP50, of boxes and of masks; for VOC's format its AP of 2007, too. All in
        percent."""
        numbers = coco.evaluate(self._test, found).numbers
        result = {key: numbers[key] for key in ("AP", "AP50")}
        if self._masks:
            masks = coco.evaluate(self._test, found, "segm").numbers
            result |= {f"{coco.MASK}{key}": masks[key] for key in ("AP", "AP50")}
        if self._test.source == voc_files.NAME:
            result["VOC07"] = voc.evaluate(self._test, found).map
        percent = {key: round(100 * value, 3) for key, value in result.items() if value is not None}
        measured = {
            "dataset": self.recipe.dataset,
            "images": self.test_images,
            "protocol": f"shorter side {self.recipe.detection.size}",
            **percent,
        }
        metrics = {f"test_{key}": value for key, value in percent.items()}
        return TestMetrics(metrics, measured, headline(percent), self._pictures(found))

    def _pictures(self, found: list[Detections]) -> dict[str, Image.Image]:
        """Detections in the same test images at every test."""
        chosen = random_indices(self.test_images, PICTURES).tolist()
        drawn = [
            draw(read_image(self._test.images[i].path), found[i], self.classes) for i in chosen
        ]
        return {"detections": contact_sheet(drawn)}

    def card(self, provenance: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
        made = model_file.make_card(self.recipe.network, list(self.classes), provenance, [measured])
        return {**made, DETECTION: self.recipe.detection.model_dump(mode="json")}


def headline(percent: Mapping[str, float]) -> str:
    """A test result in a few words, such as `test AP50 84.6 %, AP 41.2 %`."""
    return f"test {precisions_of(percent) or 'without objects'}"


def copy_detector(detector: Detector, categories: Sequence[str], model: Model) -> None:
    """Copy the weights of a trained detector into another one with other categories.

    Layers of the same form are copied. A category of the same name keeps its outputs; the others
    start anew.

    Raises:
        UserError: if the networks differ.
    """
    other = model.network
    assert isinstance(other, Detector)
    if other.network.architecture.with_classes(1) != detector.network.architecture.with_classes(1):
        name = model.card["network"]
        raise UserError(
            f"the weights are of a detector on {name}, which is another network",
            hint=f"use the network {name}, or other weights",
        )
    own = detector.state_dict()
    for name, weights in other.state_dict().items():
        alike = name in own and own[name].shape == weights.shape
        if alike and not name.startswith(("siblings.", "masks.logits.")):
            own[name].copy_(weights)
    known = {composed(name): index for index, name in enumerate(model.classes)}
    for index, name in enumerate(map(composed, categories)):
        if name in known:
            _copy_category(detector.siblings, index, other.siblings, known[name])
            if detector.masks is not None and other.masks is not None:
                for kind in ("weight", "bias"):
                    logits = getattr(other.masks.logits, kind).data[known[name]]
                    getattr(detector.masks.logits, kind).data[index] = logits
    _copy_rows(detector.siblings.categories, 0, other.siblings.categories, 0)  # the background


def _copy_category(own: Siblings, index: int, other: Siblings, from_index: int) -> None:
    _copy_rows(own.categories, 1 + index, other.categories, 1 + from_index)
    for row in range(4):
        _copy_rows(own.boxes, 4 * index + row, other.boxes, 4 * from_index + row)


def _copy_rows(own: nn.Linear, row: int, other: nn.Linear, from_row: int) -> None:
    """Copy an output. Of detectors of which only one has `context`, the weights of the region."""
    inputs = min(own.in_features, other.in_features)
    own.weight.data[row, :inputs] = other.weight.data[from_row, :inputs]
    own.bias.data[row] = other.bias.data[from_row]


def boxes_fingerprint(splits: BoxSplits) -> str:
    """What tells training and test images with boxes from others."""
    return "/".join(fingerprint(one) for one in (splits.train, splits.test))


def _blank(device: torch.device) -> tuple[Tensor, list[Target]]:
    """An image without objects, in place of those that could not be read."""
    side = 64
    target = Target(
        torch.zeros(0, 4, device=device),
        torch.zeros(0, dtype=torch.int64, device=device),
        torch.zeros(0, dtype=torch.bool, device=device),
        (side, side),
        0,
    )
    return torch.zeros(1, 3, side, side, device=device), [target]
