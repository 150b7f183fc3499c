"""What a model sees in many image files: decoded in parallel, answered in batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnets.data.images import centre, read_image, to_tensor
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError
from resnets.support.parallel import in_threads
from resnets.weights.model_file import Model


@dataclass(frozen=True)
class Answer:
    """What a model says of one image, or why it cannot.

    Args:
        image: its file, as it was named.
        classes: the most probable first.
        probabilities: of `classes`, in [0, 1].
        embedding: the pooled features in front of the classifier, if they were asked for.
        error: why the image could not be read.
    """

    image: str
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    embedding: tuple[float, ...] | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        if self.error is not None:
            return {"image": self.image, "error": self.error}
        pairs = zip(self.classes, self.probabilities, strict=True)
        facts: dict[str, Any] = {
            "image": self.image,
            "top": [{"class": name, "probability": chance} for name, chance in pairs],
        }
        return facts if self.embedding is None else {**facts, "embedding": list(self.embedding)}


def answers(
    model: Model,
    images: Sequence[str],
    device: torch.device,
    top: int = 5,
    batch: int = 16,
    embeddings: bool = False,
) -> Iterator[Answer]:
    """An answer for each image, in order; images that cannot be read have their reason.

    Args:
        top: how many classes to name; all if the model knows fewer.
        batch: images that the network is given at a time.
        embeddings: give the pooled features too.

    Raises:
        UserError: if embeddings are asked of a network that has none.
    """
    if embeddings:
        refuse_without_features(model)
    network = model.network.to(device).to(memory_format=torch.channels_last).eval()
    normalize = model.normalize(device)
    loaded = in_threads(lambda name: _load(model, name), images, _threads())
    for group in _groups(loaded, batch):
        read = [(name, pixels) for name, pixels in group if isinstance(pixels, Tensor)]
        found: dict[str, Answer] = {}
        if read:
            stack = normalize(torch.stack([pixels for _, pixels in read]).to(device))
            chances, features = _compute(network, stack, embeddings)
            best, index = chances.topk(min(top, len(model.classes)))
            for row, (name, _) in enumerate(read):
                found[name] = Answer(
                    name,
                    tuple(model.classes[i] for i in index[row].tolist()),
                    tuple(round(p, 5) for p in best[row].tolist()),
                    None if features is None else tuple(features[row].tolist()),
                )
        for name, pixels in group:
            yield found[name] if isinstance(pixels, Tensor) else Answer(name, error=pixels)


def refuse_without_features(model: Model) -> None:
    """Raise `UserError` if the network has no pooled features."""
    if not isinstance(model.network, ResidualNetwork):
        raise UserError(f"{model.card['network']} has no pooled features", "--embeddings")


@torch.inference_mode()
def _compute(network: nn.Module, images: Tensor, embeddings: bool) -> tuple[Tensor, Tensor | None]:
    """Probabilities (N, classes), and features (N, channels) if asked for; on the CPU."""
    if not embeddings:
        return network(images).softmax(1).cpu(), None
    assert isinstance(network, ResidualNetwork)
    features = list(network.features(images).values())[-1].mean((2, 3))
    logits: Tensor = network.fc(features)
    return logits.softmax(1).cpu(), features.cpu()


def _load(model: Model, name: str) -> tuple[str, Tensor | str]:
    """The pixels that the network looks at, or why there are none."""
    look = model.preprocessing
    try:
        image = centre(read_image(Path(name)), look.resize, look.size, look.interpolation)
        return name, to_tensor(image)
    except UserError as error:
        return name, error.what


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, 16)


def _groups(
    things: Iterable[tuple[str, Tensor | str]], size: int
) -> Iterator[list[tuple[str, Tensor | str]]]:
    iterator = iter(things)
    while group := list(islice(iterator, size)):
        yield group
