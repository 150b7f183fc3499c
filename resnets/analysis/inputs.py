"""Preprocessed images for measurements on a model: CIFAR-10's, or photographs of a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from resnets.data import cifar, datasets
from resnets.data.cifar_classes import title, with_classes
from resnets.data.images import decode
from resnets.data.preprocessing import to_tensor
from resnets.data.samples import Samples, random_indices, random_subset
from resnets.support.devices import cores
from resnets.support.errors import UserError
from resnets.support.parallel import in_threads
from resnets.weights.model_file import Model

_PARTS = {"train": "training", "test": "test"}
IMAGES = 1000
"""Default number of images for a measurement."""
BATCH = 128
"""Images of a batch, at most: the paper's number on CIFAR-10, for statistics of batches."""


@dataclass(frozen=True)
class ModelInputs:
    """Images in memory; every iteration yields batches of preprocessed inputs.

    Args:
        pixels: uint8 (N, 3, H, W).
        model: the model whose preprocessing is applied.
        device: device of the inputs.
        about: description of the images, for people.
    """

    pixels: Tensor
    model: Model
    device: torch.device
    about: str

    def __len__(self) -> int:
        return len(self.pixels)

    def __iter__(self) -> Iterator[Tensor]:
        """Batches (n, 3, H, W) in float32, of nearly equal sizes, at most `BATCH` each."""
        normalize = self.model.normalize(self.device)
        for part in torch.tensor_split(self.pixels, -(-len(self) // BATCH)):
            yield normalize(part.to(self.device))


def for_model(
    model: Model,
    where: str | None,
    part: Literal["train", "test"],
    device: torch.device = torch.device("cpu"),  # noqa: B008
    images: int = IMAGES,
    report: Callable[[str], None] = lambda line: None,
) -> ModelInputs:
    """Images that suit a model: a random sample, the same in every call.

    Args:
        model: a model with CIFAR's classes gets CIFAR's images; any other gets the
            central crops of photographs.
        where: CIFAR's files, as in `cifar.load`; or a folder of photographs, or shards.
        part: training or test images.
        device: device of the inputs.
        images: their number, at most.
        report: called with a line for each source of CIFAR that is tried.

    Raises:
        UserError: if there are no images, or photographs are needed and `where` is None.
    """
    known = len(model.classes)
    if name := with_classes(model.classes):
        files = Path(where) if where else None
        official = (
            cifar.load(name, files, report).train
            if part == "train"
            else cifar.load_test(name, files, report)
        )
        index = np.flatnonzero(official.labels < known)
        index = index[random_indices(len(index), images)]
        pixels = torch.from_numpy(np.array(official.images[index]))
        about = _description(len(index), len(official), f"{_PARTS[part]} images of {title(name)}")
        return ModelInputs(pixels, model, device, about)
    if where is None:
        raise UserError(
            f"{model.card['network']} needs photographs",
            hint="give a folder of images: --data FOLDER",
        )
    whole = datasets.open_test(where) if part == "test" else datasets.open_training(where).train
    samples = random_subset(whole, images)
    if not len(samples):
        raise UserError("no images to measure on", where)
    about = _description(len(samples), len(whole), f"{_PARTS[part]} images of {where}")
    return ModelInputs(_decoded(samples, model), model, device, about)


def _description(images: int, total: int, what: str) -> str:
    return f"{images:,} of the {total:,} {what}"


def _decoded(samples: Samples, model: Model) -> Tensor:
    """Central crops by the model's preprocessing, uint8 (N, 3, size, size)."""

    def load(index: int) -> Tensor:
        image = decode(samples.read(index), f"{samples.location}: {samples.name(index)}")
        return to_tensor(model.preprocessing.crop(image))

    return torch.stack(list(in_threads(load, range(len(samples)), cores())))
