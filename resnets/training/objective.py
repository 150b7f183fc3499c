"""What a training needs of its data: batches, classes, preprocessing, and a test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from resnets.data.cifar10 import CLASSES, Cifar10, Images
from resnets.data.cifar_batches import TrainBatches
from resnets.data.dali_batches import DaliBatches
from resnets.data.photo_batches import PhotoBatches, default_threads, training_mean
from resnets.data.preprocessing import Preprocessing, imagenet
from resnets.data.samples import PhotoSet, Samples, drawn, fingerprint, limited, with_classes
from resnets.evaluation.evaluator import SINGLE_VIEW, Classifier, run_test, score_array
from resnets.evaluation.protocols import Center, network_scorer
from resnets.evaluation.results import Result, measure
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.training.recipe import Recipe

TEST_BATCH = 64
"""Images that the network is given at a time in a test."""

Progress = Callable[[int], None]
Parts = Sequence[tuple[int, int]]
Data = Cifar10 | PhotoSet


class Batches(Protocol):
    """Training batches, each a pure function of (seed, step)."""

    @property
    def bad(self) -> dict[str, str]:
        """Images that could not be read, by name, and why."""

    def epoch_of(self, step: int) -> float:
        """Epochs completed after `step` steps."""

    def __call__(self, step: int, part: int = 0) -> tuple[Tensor, Tensor]:
        """Images float32 (n, 3, H, W) and labels int64 (n,)."""

    def close(self) -> None:
        """End what reads ahead."""


@dataclass(frozen=True)
class Task:
    """The data of one training.

    Args:
        classes: names, in the order of the labels.
        preprocessing: from an image to the network's input in tests and in use.
        images: training images.
        test_images: images of a test.
        batches: makes the training batches, of which this process asks for some parts.
        test: network to result; every process of the world calls it together.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    images: int
    test_images: int
    batches: Callable[[Parts], Batches]
    test: Callable[[nn.Module, World, Progress], Result]


def size_at(recipe: Recipe, full: int) -> Callable[[int], int]:
    """Pixels a side of the training images, as a function of the step."""
    progressive = recipe.progressive
    if progressive is None:
        return lambda step: full
    return lambda step: progressive.size if step < progressive.until else full


def cifar_task(recipe: Recipe, data: Cifar10, device: torch.device) -> Task:
    """CIFAR-10 as section 4.2 shows it."""
    train, test = (shrunk(images, recipe) for images in data.split(recipe.split, recipe.split_seed))
    classes = CLASSES[: recipe.classes]
    side = train.images.shape[-1]
    preprocessing = Preprocessing(side, side, torch.from_numpy(train.pixel_mean()))
    return Task(
        classes=classes,
        preprocessing=preprocessing,
        images=len(train),
        test_images=len(test),
        batches=lambda parts: TrainBatches(
            train,
            recipe.batch,
            recipe.seed,
            device,
            recipe.augment.pad,
            recipe.augment.flip,
            parts,
            size_at(recipe, side),
        ),
        test=lambda network, world, progress: measure(
            score_array(
                network_scorer(network, preprocessing.normalize(device), device),
                test,
                progress=progress,
            ),
            test.labels,
            SINGLE_VIEW,
        ),
    )


def shrunk(images: Images, recipe: Recipe) -> Images:
    """CIFAR-10's images after the recipe's limits."""
    index = np.arange(len(images))
    if recipe.classes is not None:
        index = np.flatnonzero(images.labels < recipe.classes)
    if recipe.limit is not None:
        index = index[drawn(len(index), recipe.limit)]
    return images if len(index) == len(images) else images.subset(index)


def photo_sets(recipe: Recipe, data: PhotoSet) -> tuple[Samples, Samples]:
    """The images to train and to test on, after the recipe's limits."""
    train, test = data.train, data.val
    if recipe.classes is not None and recipe.classes < len(data.classes):
        train, test = (with_classes(s, data.classes[: recipe.classes]) for s in (train, test))
    for samples, doing in ((train, "train"), (test, "test")):
        if not len(samples):
            raise UserError(f"no images to {doing} on are left", samples.where, "take more classes")
    return limited(train, recipe.limit), limited(test, recipe.limit)


def photo_task(
    recipe: Recipe,
    data: PhotoSet,
    device: torch.device,
    preprocessing: Preprocessing | None,
    processes: int = 1,
) -> Task:
    """Photographs as section 3.4 shows them.

    Args:
        preprocessing: of the weights that the training starts from, or goes on from; taken
            from the training images if None.
        processes: trainings on this machine that share its cores.
    """
    train, test = photo_sets(recipe, data)
    photos = recipe.photos
    size = photos.test_size or photos.size
    if preprocessing is None:
        preprocessing = _measured(recipe, train)
    look = preprocessing.resized_to(photos.size)  # its mean image fits the training crops
    shown = Preprocessing(
        size,
        round(size * photos.resize),
        look.mean if size == photos.size else look.mean.mean((1, 2), keepdim=True),
        look.std,
        look.interpolation,
    )
    side = size_at(recipe, photos.size)
    return Task(
        classes=train.classes or (),
        preprocessing=shown,
        images=len(train),
        test_images=len(test),
        batches=lambda parts: (DaliBatches if photos.decoder == "dali" else PhotoBatches)(
            train,
            recipe.batch,
            recipe.seed,
            device,
            lambda step: photos.augmentation(side(step), shown.interpolation),
            look.normalize(device),
            parts,
            default_threads(processes),
        ),
        test=partial(
            _test_photos, name=recipe.network, samples=test, preprocessing=shown, device=device
        ),
    )


def _test_photos(
    network: nn.Module,
    world: World,
    progress: Progress,
    name: str,
    samples: Samples,
    preprocessing: Preprocessing,
    device: torch.device,
) -> Result:
    """A test on central crops, shared among the processes; all get its result."""
    score = network_scorer(network, preprocessing.normalize(device), device)
    classifier = Classifier(name, score, samples.classes or (), device=device)
    views = Center(preprocessing)
    scores = run_test(classifier, samples, views, batch=TEST_BATCH, world=world, progress=progress)
    return world.broadcast_object(scores.result() if scores is not None else None)  # type: ignore[return-value]


def _measured(recipe: Recipe, train: Samples) -> Preprocessing:
    """Preprocessing for a network that starts from nothing."""
    photos = recipe.photos
    resize = round(photos.size * photos.resize)
    if photos.mean == "imagenet":
        ready = imagenet()
        return Preprocessing(photos.size, resize, ready.mean, ready.std)
    still = photos.augmentation(photos.size, "bilinear")
    mean = training_mean(train, still, recipe.seed)
    if photos.mean == "channel":
        mean = mean.mean((1, 2), keepdim=True)
    return Preprocessing(photos.size, resize, mean)


def make_task(
    recipe: Recipe,
    data: Data,
    device: torch.device,
    preprocessing: Preprocessing | None = None,
    processes: int = 1,
) -> Task:
    """The task that a recipe sets on its data."""
    if isinstance(data, Cifar10):
        return cifar_task(recipe, data, device)
    return photo_task(recipe, data, device, preprocessing, processes)


def data_fingerprint(recipe: Recipe, data: Data) -> str:
    """Which images a training is on; CIFAR-10 is verified when it is read."""
    if isinstance(data, Cifar10):
        return recipe.split
    return "/".join(fingerprint(samples) for samples in photo_sets(recipe, data))
