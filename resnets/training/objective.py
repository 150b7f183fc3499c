"""Objectives: what a network is trained for, from data to loss and from network to test result.

An `Objective` is all that the trainer and the run know of the task. Classification, of CIFAR
or of photographs, is the first one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F

from resnets.data.cifar import Cifar, ImageArrays
from resnets.data.cifar_batches import CifarBatches
from resnets.data.dali_batches import DaliBatches
from resnets.data.datasets import Data
from resnets.data.photo_batches import (
    IGNORE_INDEX,
    PhotoBatches,
    training_mean,
    unreadable,
)
from resnets.data.preprocessing import Preprocessing, imagenet
from resnets.data.quarantine import EXCLUDE
from resnets.data.samples import (
    PhotoSet,
    Samples,
    fingerprint,
    random_indices,
    random_subset,
    select_classes,
)
from resnets.evaluation.evaluator import (
    SINGLE_VIEW,
    Classifier,
    Progress,
    score_array,
    score_photos,
)
from resnets.evaluation.protocols import Center, network_scorer
from resnets.evaluation.results import Result, measure
from resnets.models import zoo
from resnets.models.residual import ResidualNetwork
from resnets.support import devices
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.support.files import expand_user
from resnets.support.names import printable
from resnets.training.class_weights import class_weights
from resnets.training.optimizers import HEADS
from resnets.training.recipe import Recipe
from resnets.weights import hub, model_file
from resnets.weights.card import read_card
from resnets.weights.model_file import Model
from resnets.weights.pretrained import copy_weights, starting_model

CHECK_SECONDS = 5.0
"""Time for which test images are read before the first step, to find those that cannot be."""
TEST_BATCH = 64
"""Photographs that a test scores at a time."""

Forward = Callable[..., Any]
"""The network's forward pass in the precision of the training."""
MicroBatches = Sequence[tuple[int, int]]
"""This process's images of each batch, (first, last + 1) for each forward pass."""


class Batches(Protocol):
    """Training batches, each a pure function of (seed, step)."""

    @property
    def bad(self) -> dict[str, str]:
        """Images that could not be read, by name, and why."""

    def epoch_of(self, step: int) -> float:
        """Epochs completed after `step` steps."""

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, Any]:
        """A micro-batch: images, float32 (n, 3, H, W), and the objective's targets."""

    def close(self) -> None:
        """Stop reading ahead."""


class BatchLoss(NamedTuple):
    """Sums over the images of a micro-batch.

    Args:
        loss: with gradient.
        error: of each image's training error, from 0 to 1.
        images: how many images count.
        parts: of the losses that `Objective.part_names` names, (parts,); None if it names none.
    """

    loss: Tensor
    error: Tensor
    images: Tensor
    parts: Tensor | None = None


@dataclass(frozen=True)
class TestMetrics:
    """The result of a test.

    Args:
        metrics: what `metrics.jsonl` records, such as `test_error` in percent.
        measured: what card and summary record, as JSON.
        headline: the result in a few words, such as `test error 8.75 %`.
        pictures: by name, to be kept in the run folder.
    """

    __test__ = False  # not a test class of pytest's
    metrics: dict[str, float]
    measured: dict[str, Any]
    headline: str
    pictures: dict[str, Image] = field(default_factory=dict)


class Objective(ABC):
    """What a network is trained for.

    Args:
        plan: the recipe as the user gave it; its hash tells whose run a folder holds.
        train_images: number of training images.
        test_images: number of test images.

    Attributes:
        recipe: the plan, resolved: its length in iterations, and its network named.
    """

    capturable: ClassVar[bool] = False
    """Whether CUDA graphs can capture the loss: its targets are one tensor, of one shape for each
    shape of images, and it never reads from the device."""
    heads: ClassVar[tuple[str, ...]] = HEADS
    """How the names of the parameters begin that `schedule.head` is for."""
    part_names: tuple[str, ...] = ()
    """Names of the summands of the loss that `metrics.jsonl` records."""
    classes: tuple[str, ...] = ()
    """Names of the classes, if there are any."""

    def __init__(self, plan: Recipe, train_images: int, test_images: int) -> None:
        self.plan, self.train_images, self.test_images = plan, train_images, test_images
        self._checkpoint_preprocessing: Preprocessing | None = None
        network = plan.network or (self.initial_model.card["network"] if self.initial_model else "")
        self.recipe = plan.model_copy(update={"network": network}).in_iterations(train_images)

    @cached_property
    def initial_model(self) -> Model | None:
        """The recipe's `init`, whose weights the training starts from; None if it resumes."""
        if self.plan.init is None or self._checkpoint_preprocessing is not None:
            return None
        return starting_model(expand_user(self.plan.init), self.plan.network, self.load_model)

    def load_model(self, name: str) -> Model:
        """The model of this package that `init` names; raises `UserError` if it does not suit."""
        return hub.load(name)

    @cached_property
    def depth(self) -> int:
        """Weighted layers of the recipe's network, which decide about a gentle start."""
        return zoo.architecture(self.recipe.network).layers

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds of the objective: tensors, and facts as JSON."""
        facts = {"preprocessing": model_file.preprocessing_facts(self.preprocessing)}
        return {model_file.MEAN: self.preprocessing.mean}, facts

    def resume_with(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Use the preprocessing of a checkpoint, whose weights replace those of `init`."""
        self._checkpoint_preprocessing = model_file.read_preprocessing(
            facts["preprocessing"], tensors[model_file.MEAN]
        )

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """From an image to the network's input, in tests and in use."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Which images are trained and tested on."""

    @abstractmethod
    def describe(self) -> str:
        """The data in a few words."""

    def provenance(self) -> dict[str, Any]:
        """What card and summary record of the objective besides the recipe, as JSON."""
        return {}

    @abstractmethod
    def build_network(self) -> nn.Module:
        """The network before the first step: random weights by the recipe's seed, or `init`'s.

        Raises:
            UserError: if `init` is another network.
        """

    @abstractmethod
    def batches(
        self, micro_batches: MicroBatches, device: torch.device, processes: int = 1
    ) -> Batches:
        """The training batches.

        Args:
            micro_batches: which images of each batch this process takes.
            device: where the batches go.
            processes: processes of the training that share this machine's cores.
        """

    @abstractmethod
    def loss(self, forward: Forward, images: Tensor, targets: Any) -> BatchLoss:
        """Forward pass and loss of a micro-batch, which may be empty.

        Args:
            forward: to be called once, also for an empty micro-batch: other processes wait for it.
            images: as the batches give them.
            targets: as the batches give them.
        """

    @abstractmethod
    def test(
        self, network: nn.Module, device: torch.device, world: World, progress: Progress
    ) -> TestMetrics:
        """Test a network; every process of the world calls this and gets the result."""

    def begin_stage(self, network: nn.Module, stage: int) -> None:  # noqa: B027
        """Change the weights for a stage after the first, which begins; see `Recipe.stages`."""

    def enter_stage(self, network: nn.Module, stage: int) -> None:  # noqa: B027
        """Be in a stage, from 0, at its start or later."""

    def unmeasured(self) -> frozenset[str]:
        """Training metrics, such as `train_error`, that the present stage does not measure."""
        return frozenset()

    def stage_parameters(self, network: nn.Module, stage: int) -> Iterable[nn.Parameter]:
        """The parameters that a stage trains, as far as the recipe does not freeze them."""
        return network.parameters()

    def check_data(self) -> None:  # noqa: B027
        """Raise `UserError` for faults of the data that would end the training at its first test.

        Takes seconds at most.
        """

    @abstractmethod
    def card(self, provenance: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
        """The card of the trained model."""


class Classification(Objective):
    """Cross-entropy over classes, weighted if the recipe says so; tests count wrong first answers.

    Args:
        classes: class names, in the order of the labels.
        labels: the class of each training image.

    Raises:
        UserError: if the recipe weights a class that there is not.
    """

    capturable = True

    def __init__(
        self, plan: Recipe, classes: tuple[str, ...], labels: NDArray[Any], test_images: int
    ) -> None:
        super().__init__(plan, len(labels), test_images)
        self.classes = classes
        self.class_weights = class_weights(plan.class_weights, classes, labels)

    def provenance(self) -> dict[str, Any]:
        if self.class_weights is None:
            return {}
        weights = [round(weight, 6) for weight in self.class_weights.tolist()]
        return {"class_weights": dict(zip(self.classes, weights, strict=True))}

    def describe(self) -> str:
        return (
            f"{self.train_images:,} to train, {self.test_images:,} to test, "
            f"{len(self.classes)} classes"
        )

    def build_network(self) -> ResidualNetwork:
        init = self.initial_model
        torch.manual_seed(self.recipe.seed)
        network = zoo.build(self.recipe.network, len(self.classes))
        assert isinstance(network, ResidualNetwork)
        if init is not None:
            known = list(self.classes) in (init.classes, init.class_ids)
            copy_weights(network, init, classifier=known)
            _ = self.preprocessing  # which may come from the model, too
            self.__dict__.pop("initial_model")  # frees its weights; a later use loads it again
        return network

    def loss(self, forward: Forward, images: Tensor, targets: Tensor) -> BatchLoss:
        if not len(images):  # no image could be read
            images = images.new_zeros((2, *images.shape[1:]))
            targets = targets.new_full((2,), IGNORE_INDEX)
        logits = forward(images)
        if self.class_weights is not None:  # moves once: a capture cannot copy from the host
            self.class_weights = self.class_weights.to(logits.device)
        loss = F.cross_entropy(
            logits.float(),
            targets,
            self.class_weights,
            label_smoothing=self.recipe.label_smoothing,
            reduction="sum",
        )
        with torch.no_grad():
            counted = targets != IGNORE_INDEX
            wrong = (logits.argmax(1) != targets) & counted
        return BatchLoss(loss, wrong.sum(), counted.sum())

    def card(self, provenance: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
        return model_file.make_card(self.recipe.network, list(self.classes), provenance, [measured])

    def _metrics(self, result: Result, **dataset: str) -> TestMetrics:
        measured = {**dataset, **result.as_dict(self.classes)}
        held_out = "held-out" if dataset.get("split") == "45k/5k" else "test"
        headline = f"{held_out} error {measured['error']:.2f} %"
        return TestMetrics({"test_error": round(result.error, 3)}, measured, headline)


class CifarClassification(Classification):
    """CIFAR-10 as in section 4.2, or CIFAR-100."""

    def __init__(self, plan: Recipe, data: Cifar) -> None:
        halves = data.split(plan.split, plan.split_seed)
        self._train, self._test = (_limited(images, plan) for images in halves)
        classes = data.train.classes[: plan.classes]
        super().__init__(plan, classes, self._train.labels, len(self._test))

    @cached_property
    def preprocessing(self) -> Preprocessing:
        side = self._train.images.shape[-1]
        return Preprocessing(side, side, mean=torch.from_numpy(self._train.pixel_mean()))

    @property
    def fingerprint(self) -> str:
        return self.recipe.split

    def batches(
        self, micro_batches: MicroBatches, device: torch.device, processes: int = 1
    ) -> CifarBatches:
        recipe = self.recipe
        return CifarBatches(
            self._train,
            batch=recipe.batch,
            seed=recipe.seed,
            device=device,
            pad=recipe.augment.pad,
            flip=recipe.augment.flip,
            parts=micro_batches,
            side=size_at(recipe, self.preprocessing.size),
        )

    def test(
        self, network: nn.Module, device: torch.device, world: World, progress: Progress
    ) -> TestMetrics:
        score = network_scorer(network, self.preprocessing.normalize(device), device)
        probabilities = score_array(score, self._test, progress=progress)
        result = measure(probabilities, self._test.labels, SINGLE_VIEW)
        return self._metrics(result, dataset=self.recipe.dataset, split=self.recipe.split)


class PhotoClassification(Classification):
    """Photographs as in section 3.4."""

    def __init__(self, plan: Recipe, data: PhotoSet) -> None:
        self._train, self._test = photo_sets(plan, data)
        super().__init__(plan, self._train.classes or (), self._train.labels, len(self._test))

    @cached_property
    def fingerprint(self) -> str:
        return _fingerprint(self._train, self._test)

    @cached_property
    def _crop_preprocessing(self) -> Preprocessing:
        """Preprocessing of the training crops, which a mean image fits."""
        preprocessing = self._checkpoint_preprocessing
        if preprocessing is None:
            init = self.initial_model
            preprocessing = init.preprocessing if init else self._measured()
        return preprocessing.resized_to(self.recipe.photos.size)

    def _measured(self) -> Preprocessing:
        """Preprocessing by the mean of the training images, for a network without `init`."""
        photos = self.recipe.photos
        resize = round(photos.size * photos.resize)
        if photos.mean == "imagenet":
            ready = imagenet()
            return Preprocessing(photos.size, resize, mean=ready.mean, std=ready.std)
        crops = photos.augmentation(photos.size, "bilinear")
        mean = training_mean(self._train, crops, self.recipe.seed)
        if photos.mean == "channel":
            mean = mean.mean((1, 2), keepdim=True)
        return Preprocessing(photos.size, resize, mean=mean)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        photos, crop = self.recipe.photos, self._crop_preprocessing
        size = photos.test_size or photos.size
        mean = crop.mean if size == photos.size else crop.mean.mean((1, 2), keepdim=True)
        resize = round(size * photos.resize)
        return Preprocessing(size, resize, crop.interpolation, mean=mean, std=crop.std)

    def batches(
        self, micro_batches: MicroBatches, device: torch.device, processes: int = 1
    ) -> PhotoBatches | DaliBatches:
        recipe, crop = self.recipe, self._crop_preprocessing
        side = size_at(recipe, recipe.photos.size)
        return (DaliBatches if recipe.photos.decoder == "dali" else PhotoBatches)(
            samples=self._train,
            batch=recipe.batch,
            seed=recipe.seed,
            device=device,
            augmentation=lambda step: recipe.photos.augmentation(side(step), crop.interpolation),
            normalize=crop.normalize(device),
            parts=micro_batches,
            threads=max(1, devices.cores() // processes),
        )

    def check_data(self) -> None:
        refuse_unreadable(self._test)

    def test(
        self, network: nn.Module, device: torch.device, world: World, progress: Progress
    ) -> TestMetrics:
        score = network_scorer(network, self.preprocessing.normalize(device), device)
        classifier = Classifier(self.recipe.network, score, self.classes, device=device)
        views = Center(self.preprocessing)
        scores = score_photos(
            classifier, self._test, views, batch=TEST_BATCH, world=world, progress=progress
        )
        result = world.broadcast_object(None if scores is None else scores.result())
        assert result is not None
        return self._metrics(result, dataset=self.recipe.dataset)


def refuse_unreadable(samples: Samples) -> None:
    """Raise `UserError` if test images cannot be read; tries them for `CHECK_SECONDS`."""
    bad = unreadable(samples, CHECK_SECONDS)
    if bad:
        name, reason = next(iter(bad.items()))
        raise UserError(
            f"{len(bad):,} of the {len(samples):,} test images cannot be read, the first: "
            f"{printable(name)} ({reason})",
            samples.location,
            EXCLUDE,
        )


def refuse_unfit_init(plan: Recipe) -> None:
    """Raise `UserError` if a recipe's `init` is missing or another network, before any download.

    What a file holds, perhaps of another program, is checked when it is read.
    """
    name = expand_user(plan.init or "")
    if not name or Path(name).exists():
        return
    row = hub.sources().get(name)
    network = row["network"] if row else read_card(hub.resolve(name))[0]["network"]
    if plan.network and network != plan.network and not _same_architecture(network, plan.network):
        raise UserError(
            f"the weights are of a {network}, not of a {plan.network}",
            f"init {plan.init}",
            f"use --network {network}, or the weights of another model: --init MODEL",
        )


def _same_architecture(one: str, other: str) -> bool:
    try:
        return zoo.architecture(one).with_classes(1) == zoo.architecture(other).with_classes(1)
    except UserError:  # a VGG
        return False


def make_objective(plan: Recipe, data: Data) -> Classification:
    """The classification that a recipe asks for; its `dataset` chose the kind of data.

    Raises:
        UserError: if the recipe's limits leave no images, or `init` is missing.
    """
    if isinstance(data, Cifar):
        return CifarClassification(plan, data)
    assert isinstance(data, PhotoSet)
    return PhotoClassification(plan, data)


def data_fingerprint(plan: Recipe, data: Data) -> str:
    """Which images a training uses; CIFAR is verified when it is read."""
    if isinstance(data, Cifar):
        return plan.split
    assert isinstance(data, PhotoSet)
    return _fingerprint(*photo_sets(plan, data))


def _fingerprint(train: Samples, test: Samples) -> str:
    return f"{fingerprint(train)}/{fingerprint(test)}"


def size_at(recipe: Recipe, full: int) -> Callable[[int], int]:
    """Side of the training images in pixels, as a function of the step."""
    progressive = recipe.progressive
    if progressive is None:
        return lambda step: full
    return lambda step: progressive.size if step < progressive.until else full


def _limited(images: ImageArrays, recipe: Recipe) -> ImageArrays:
    """CIFAR's images within the recipe's limits."""
    index = np.arange(len(images))
    if recipe.classes is not None:
        index = np.flatnonzero(images.labels < recipe.classes)
    if recipe.limit is not None:
        index = index[random_indices(len(index), recipe.limit)]
    return images if len(index) == len(images) else images.subset(index)


def photo_sets(recipe: Recipe, data: PhotoSet) -> tuple[Samples, Samples]:
    """The photographs to train and to test on, within the recipe's limits.

    Raises:
        UserError: if none are left.
    """
    train, test = data.train, data.val
    if recipe.classes is not None and recipe.classes < len(data.classes):
        train, test = (select_classes(s, data.classes[: recipe.classes]) for s in (train, test))
    for samples, purpose in ((train, "train"), (test, "test")):
        if not len(samples):
            raise UserError(
                f"no images to {purpose} on are left", samples.location, "use more classes"
            )
    return random_subset(train, recipe.limit), random_subset(test, recipe.limit)
