"""What a model sees in many image files: decoded in parallel, answered in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from resnets.data.images import read_image, stack
from resnets.deploy.opening import Predictor
from resnets.models import zoo
from resnets.support.devices import cores
from resnets.support.errors import UserError
from resnets.support.parallel import in_threads


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
    loaded = in_threads(lambda name: _load(predictor, name), images, min(cores(), 16))
    for group in _groups(loaded, batch):
        read = [(name, pixels) for name, pixels in group if isinstance(pixels, Tensor)]
        found: dict[str, Answer] = {}
        if read:
            outputs = predictor.runtime(stack([pixels for _, pixels in read]))
            best, index = outputs.logits.softmax(1).topk(min(top, len(predictor.classes)))
            for row, (name, _) in enumerate(read):
                found[name] = Answer(
                    name,
                    tuple(predictor.classes[i] for i in index[row].tolist()),
                    tuple(round(p, 5) for p in best[row].tolist()),
                    tuple(outputs.features[row].tolist()) if embeddings else None,
                )
        for name, pixels in group:
            yield found[name] if isinstance(pixels, Tensor) else Answer(name, error=pixels)


def refuse_without_features(predictor: Predictor, option: str = "--embeddings") -> None:
    """Raise `UserError` if the network has no pooled features, for which `option` asks."""
    if predictor.card["network"] in zoo.VGG_NAMES:
        raise UserError(f"{predictor.card['network']} has no pooled features", option)


def _load(predictor: Predictor, name: str) -> tuple[str, Tensor | str]:
    """The pixels that the network looks at, or why there are none."""
    try:
        return name, predictor.pixels(read_image(Path(name), predictor.shorter))
    except UserError as error:
        return name, error.what


def _groups(
    things: Iterable[tuple[str, Tensor | str]], size: int
) -> Iterator[list[tuple[str, Tensor | str]]]:
    iterator = iter(things)
    while group := list(islice(iterator, size)):
        yield group
