"""What a set of labelled images is to the rest of the program, wherever the images lie."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resnets.support.errors import UserError


class Samples(Protocol):
    """Labelled images that are read one by one: a folder, or shards.

    Reading is safe from several threads.
    """

    @property
    def where(self) -> str:
        """The folder or address, as a user would name it."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names in the labels' order; None where labels number a model's outputs."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image."""

    @property
    def left_out(self) -> int:
        """How many images a quarantine keeps out of the set."""

    def __len__(self) -> int:
        """Number of images."""

    def name(self, index: int) -> str:
        """The image's path within the set: unique, the same on every machine."""

    def read(self, index: int) -> bytes:
        """The image file's content; raises `UserError` if it is gone."""

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The order of showing in one epoch: every image once; a pure function of its arguments."""


@dataclass(frozen=True)
class PhotoSet:
    """Images to train on and images to test on, with labels of the same classes."""

    train: Samples
    val: Samples

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; they come from the training images only."""
        return self.train.classes or ()


class Subset:
    """Some of the images of a set, in the order given.

    Args:
        samples: the whole set.
        index: which images, int64.
        labels: their labels, where they differ from the whole set's.
        classes: the names of those labels.
    """

    def __init__(
        self,
        samples: Samples,
        index: NDArray[np.int64],
        labels: NDArray[np.int64] | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self._samples, self._index = samples, index
        self.where, self.left_out = samples.where, samples.left_out
        self.labels = samples.labels[index] if labels is None else labels
        self.classes = samples.classes if classes is None else classes

    def __len__(self) -> int:
        return len(self._index)

    def name(self, index: int) -> str:
        return self._samples.name(int(self._index[index]))

    def read(self, index: int) -> bytes:
        return self._samples.read(int(self._index[index]))

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Every image once, in the order in which the whole set would show them."""
        place = np.full(len(self._samples), -1, np.int64)
        place[self._index] = np.arange(len(self._index))
        places = place[self._samples.order(seed, epoch)]
        return places[places >= 0]


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A random order of `count` images, a pure function of its arguments."""
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


def fingerprint(samples: Samples) -> str:
    """Hash of the names and labels of all images: which images these are."""
    names = "\n".join(samples.classes or ())
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape"))
    digest.update(np.ascontiguousarray(samples.labels, np.int64).tobytes())
    for index in range(len(samples)):
        digest.update(samples.name(index).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:16]


def drawn(count: int, images: int | None, seed: int = 0) -> NDArray[np.int64]:
    """At most `images` of `count`, drawn at random by `seed`, in ascending order."""
    return np.sort(np.random.default_rng([seed, 3]).permutation(count)[:images])


def limited(samples: Samples, images: int | None, seed: int = 0) -> Samples:
    """At most `images` of a set, drawn at random by `seed`."""
    if images is None or images >= len(samples):
        return samples
    return Subset(samples, drawn(len(samples), images, seed))


def with_classes(samples: Samples, names: Sequence[str]) -> Samples:
    """The images of some classes, labelled 0, 1, ... in the order of `names`.

    Raises:
        UserError: if the set has no such class.
    """
    known = samples.classes or ()
    for name in names:
        if name not in known:
            raise UserError(f"no class {name!r}", samples.where, f"classes: {', '.join(known[:8])}")
    labels = np.full(len(known), -1, np.int64)
    labels[[known.index(name) for name in names]] = np.arange(len(names))
    mapped = labels[samples.labels]
    index = np.flatnonzero(mapped >= 0)
    return Subset(samples, index, mapped[index], tuple(names))
