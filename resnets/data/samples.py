"""Labelled images that are read one by one, and operations on sets of them.

Everything that trains or tests on photographs works with `Samples`, whether the images are in a
folder (`folders.ImageFolder`) or in shards (`shards.reader.Shards`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resnets.data import random_streams
from resnets.support.errors import UserError

VAL_FRACTION = 0.2
"""Share of each class that is set aside for testing where a data set has no test images."""
NONE_TO_SET_ASIDE = "no class has two images, so none can be set aside for testing"


class Samples(ABC):
    """A data set of labelled images. Reading is safe from several threads.

    Attributes:
        location: the folder or URL of the data set.
        classes: class names in the order of the labels; None if labels index a model's outputs.
        labels: the class of each image, int64 (images,).
        quarantined: number of images that the data set's quarantine file excludes.
        notes: what a user should know of the data set, such as what is left out, a line each.
    """

    location: str
    classes: tuple[str, ...] | None
    labels: NDArray[np.int64]
    quarantined: int = 0
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's path within the data set: unique, and the same on every machine."""

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The content of the image file.

        Raises:
            UserError: if the image cannot be read.
        """

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The order of the images in one epoch: a permutation that depends on nothing else."""
        return epoch_permutation(len(self), seed, epoch)

    def prefetch(self, order: NDArray[np.int64]) -> None:  # noqa: B027
        """Download ahead while images are read in this order; no effect on local data sets."""


@dataclass(frozen=True)
class PhotoSet:
    """Training and test images whose labels number the same classes.

    `notes` are what a user should know of them, a line each.
    """

    train: Samples
    val: Samples
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, which the training images define."""
        return self.train.classes or ()


class PackedNames:
    """Names in one byte buffer, which takes less memory than as many Python strings.

    Args:
        buffer: the names in UTF-8 without separators, uint8.
        ends: where each name ends in `buffer`, int64 (names,).
    """

    def __init__(self, buffer: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.buffer, self.ends = buffer, ends

    @classmethod
    def pack(cls, names: Iterable[str]) -> PackedNames:
        """Pack strings; bytes that are not UTF-8 survive as surrogates, as in file names."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.buffer[start : self.ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def select(self, mask: NDArray[np.bool_]) -> PackedNames:
        """The names where `mask` (names,) is true."""
        lengths = np.diff(self.ends, prepend=0)
        return PackedNames(self.buffer[np.repeat(mask, lengths)], np.cumsum(lengths[mask]))


class Subset(Samples):
    """Some images of a data set.

    Args:
        samples: the whole data set.
        indices: which images, in the order of the subset, int64.
        labels: their labels; those of the whole data set by default.
        classes: the names of these labels; those of the whole data set by default.
    """

    def __init__(
        self,
        samples: Samples,
        indices: NDArray[np.int64],
        labels: NDArray[np.int64] | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self._samples, self._indices = samples, indices
        self.location, self.quarantined = samples.location, samples.quarantined
        self.labels = samples.labels[indices] if labels is None else labels
        self.classes = samples.classes if classes is None else classes

    def name(self, index: int) -> str:
        return self._samples.name(int(self._indices[index]))

    def read(self, index: int) -> bytes:
        return self._samples.read(int(self._indices[index]))

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The order of the whole data set, without the images outside the subset."""
        positions = np.full(len(self._samples), -1, np.int64)
        positions[self._indices] = np.arange(len(self._indices))
        ordered = positions[self._samples.order(seed, epoch)]
        return ordered[ordered >= 0]

    def prefetch(self, order: NDArray[np.int64]) -> None:
        self._samples.prefetch(self._indices[order])


def epoch_permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A random permutation of `count` images that depends on nothing but the arguments."""
    return np.random.default_rng([seed, random_streams.EPOCH, epoch]).permutation(count)


def random_indices(count: int, limit: int | None) -> NDArray[np.int64]:
    """Indices below `count`, at most `limit`, in ascending order; random, but always the same."""
    return np.sort(np.random.default_rng([0, random_streams.SUBSET]).permutation(count)[:limit])


def random_subset(samples: Samples, limit: int | None) -> Samples:
    """At most `limit` images of a data set, drawn by `random_indices`."""
    if limit is None or limit >= len(samples):
        return samples
    return Subset(samples, random_indices(len(samples), limit))


def select_classes(samples: Samples, names: Sequence[str]) -> Samples:
    """The images of the classes `names`, with labels that number these classes in this order.

    Raises:
        UserError: if the data set does not have one of the classes.
    """
    known = samples.classes or ()
    for name in names:
        if name not in known:
            hint = f"its classes: {', '.join(known[:8])}"
            raise UserError(f"has no class {name!r}", samples.location, hint)
    new_labels = np.full(len(known), -1, np.int64)
    new_labels[[known.index(name) for name in names]] = np.arange(len(names))
    labels = new_labels[samples.labels]
    indices = np.flatnonzero(labels >= 0)
    return Subset(samples, indices, labels[indices], tuple(names))


def split_train_val(samples: Samples, seed: int) -> PhotoSet:
    """Set `VAL_FRACTION` of each class aside for testing, at least one image of two or more.

    Raises:
        UserError: if no class has two images.
    """
    random = np.random.default_rng([seed, random_streams.TEST_SPLIT])
    held_out = np.zeros(len(samples), bool)
    for label in range(len(samples.classes or ())):
        members = np.flatnonzero(samples.labels == label)
        count = min(max(1, round(VAL_FRACTION * len(members))), len(members) - 1)
        held_out[random.permutation(members)[:count]] = True
    if not held_out.any():
        raise UserError(NONE_TO_SET_ASIDE, samples.location)
    train, val = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return PhotoSet(Subset(samples, train), Subset(samples, val))


def fingerprint(samples: Samples) -> str:
    """Hash of the class names, labels and image names: 16 hexadecimal digits."""
    names = "\n".join(samples.classes or ())
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape"))
    digest.update(np.ascontiguousarray(samples.labels, np.int64).tobytes())
    for index in range(len(samples)):
        digest.update(samples.name(index).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:16]
