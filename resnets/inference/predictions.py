"""What a model sees in many image files: decoded in parallel, answered in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnets.data.images import read_image
from resnets.inference.engines import threads
from resnets.inference.predictor import Predictor
from resnets.support.errors import UserError
from resnets.support.parallel import in_threads

_Loaded = tuple[str, NDArray[np.uint8] | str]
"""A name, and the pixels that the network looks at or why there are none."""


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


class Identity(NamedTuple):
    """What answers depend on beside the images and the options.

    Args:
        network: its name.
        weights: SHA-256.
        runtime: engine and precision.
        classes: how many there are.
    """

    network: str
    weights: str
    runtime: str
    classes: int


def identity(predictor: Predictor) -> Identity:
    """What the answers of a model depend on."""
    card = predictor.card
    return Identity(
        card["network"], predictor.digest, predictor.runtime.name, len(predictor.classes)
    )


def answers(
    predictor: Predictor,
    images: Sequence[str],
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
        refuse_without_features(predictor)
    loaded = in_threads(lambda name: _load(predictor, name), images, min(threads(), 16))
    for group in _groups(loaded, batch):
        read = [pixels for _, pixels in group if not isinstance(pixels, str)]
        rows = iter(_told(predictor, np.stack(read), top, embeddings) if read else ())
        for name, pixels in group:
            if isinstance(pixels, str):
                yield Answer(name, error=pixels)
            else:
                yield Answer(name, *next(rows))


def _told(
    predictor: Predictor, images: NDArray[np.uint8], top: int, embeddings: bool
) -> Iterator[tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...] | None]]:
    """Classes, probabilities and features of each image of a batch."""
    outputs = predictor.runtime.arrays(images)
    chances = softmax(outputs.logits)
    best = np.argsort(-chances, axis=1, kind="stable")[:, :top]
    classes = predictor.classes
    for row, index in enumerate(best):
        yield (
            tuple(classes[i] for i in index.tolist()),
            tuple(round(chance, 5) for chance in chances[row, index].tolist()),
            tuple(outputs.features[row].tolist()) if embeddings else None,
        )


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities (N, classes)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    found: NDArray[np.float32] = powers / powers.sum(1, keepdims=True)
    return found


def refuse_without_features(predictor: Predictor, option: str = "--embeddings") -> None:
    """Raise `UserError` if the network has no pooled features, for which `option` asks."""
    from resnets.models import zoo  # imports torch

    if predictor.card["network"] in zoo.VGG_NAMES:
        raise UserError(f"{predictor.card['network']} has no pooled features", option)


def _load(predictor: Predictor, name: str) -> _Loaded:
    try:
        return name, predictor.array(read_image(Path(name), predictor.shorter))
    except UserError as error:
        return name, error.message


def _groups(things: Iterable[_Loaded], size: int) -> Iterator[list[_Loaded]]:
    iterator = iter(things)
    while group := list(islice(iterator, size)):
        yield group
