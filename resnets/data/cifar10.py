"""CIFAR-10: verified arrays, whatever the source, and the paper's splits (section 4.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from resnets.data import cifar10_download as sources
from resnets.data.cifar10_download import FILES, Arrays
from resnets.support.download import SourceFailed
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, cache_folder, make_folder

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

SHA256 = {
    "train-images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "test-images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "train-labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test-labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
"""Sums of the raw bytes: uint8, N x 3 x 32 x 32, and labels as uint8, in official order."""

VALIDATION_IMAGES = 5000  # section 4.2: the 45k/5k split

Report = Callable[[str], None]


@dataclass(frozen=True)
class Images:
    """Some images with their labels: uint8 (N, 3, 32, 32) and uint8 (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def pixel_mean(self) -> NDArray[np.float32]:
        """Mean image (3, 32, 32) of these images, pixels scaled to 0..1."""
        total = np.zeros(self.images.shape[1:], np.float64)
        for start in range(0, len(self), 5000):
            total += self.images[start : start + 5000].sum(0, dtype=np.int64)
        return (total / (255 * len(self))).astype(np.float32)

    def subset(self, index: NDArray[np.int64]) -> Images:
        """The images at `index`, in its order."""
        return Images(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Cifar10:
    """The official 50,000 training and 10,000 test images."""

    train: Images
    test: Images

    def split(self, name: str, seed: int = 0) -> tuple[Images, Images]:
        """Training images and the images to test on.

        Args:
            name: `50k/10k`, or `45k/5k`: the training images parted at random by `seed`,
                on which the paper chose its schedule; it leaves the test set alone.
            seed: names one of the ways to part the 45k/5k split.
        """
        if name == "50k/10k":
            return self.train, self.test
        if name != "45k/5k":
            raise ValueError(f"no split {name!r}")
        order = np.random.default_rng([seed, VALIDATION_IMAGES]).permutation(len(self.train))
        held_out, kept = order[:VALIDATION_IMAGES], order[VALIDATION_IMAGES:]
        return self.train.subset(np.sort(kept)), self.train.subset(np.sort(held_out))


def load(data: Path | None = None, report: Report = lambda line: None) -> Cifar10:
    """CIFAR-10 from `data`, or from the cache, or from the network, in this order.

    Args:
        data: a folder or archive with the official files; nothing else is tried if given.
        report: gets one line for each source that fails and for the one that works.

    Raises:
        UserError: if `data` is missing, incomplete or altered, or if no source works.
    """
    if data is not None:
        try:
            return _assemble(_verified(sources.read_local(data)))
        except SourceFailed as failure:
            raise UserError(
                str(failure),
                str(data),
                "give the official CIFAR-10 folder or tar.gz (binary or python version)",
            ) from failure
    cache = cache_folder("cifar10")
    failures = []
    try:
        return _assemble(_verified(_read_cache(cache)))
    except SourceFailed as failure:
        failures.append(f"cache: {failure}")
        if cache.exists():
            report(f"CIFAR-10 from {cache}: {failure}")
    for source in sources.REMOTE:
        report(f"CIFAR-10 from {source.name} ...")
        try:
            arrays = _verified(source.fetch())
        except SourceFailed as failure:
            failures.append(f"{source.name}: {failure}")
            report(f"CIFAR-10 from {source.name} failed: {failure}")
            continue
        _write_cache(cache, arrays)
        report(f"CIFAR-10 verified and cached in {cache}")
        return _assemble(_verified(_read_cache(cache)))
    raise UserError(
        f"CIFAR-10 could not be had ({'; '.join(failures)})",
        hint="connect to a network, or download it elsewhere and give --data FOLDER",
    )


def _verified(arrays: Arrays) -> Arrays:
    for name in FILES:
        if hashlib.sha256(np.ascontiguousarray(arrays[name]).data).hexdigest() != SHA256[name]:
            raise SourceFailed(f"{name} do not match the official SHA-256 sum")
    return arrays


def _assemble(arrays: Arrays) -> Cifar10:
    return Cifar10(
        Images(arrays["train-images"], arrays["train-labels"]),
        Images(arrays["test-images"], arrays["test-labels"]),
    )


def _read_cache(cache: Path) -> Arrays:
    """Memory maps of the cached arrays."""
    arrays = {}
    for name in FILES:
        path = cache / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise SourceFailed("nothing there yet") from error
        except (OSError, ValueError, EOFError) as error:
            raise SourceFailed(f"{path.name} is damaged") from error
    return arrays


def _write_cache(cache: Path, arrays: Arrays) -> None:
    make_folder(cache)
    for name in FILES:
        atomic_write(cache / f"{name}.npy", partial(_save_array, array=arrays[name]))


def _save_array(file: IO[bytes], array: NDArray[np.uint8]) -> None:
    np.save(file, array)
