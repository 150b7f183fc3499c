"""The official files of CIFAR-10 and CIFAR-100, in each of their formats, as arrays."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.cifar_classes import SUPERCLASS
from resnets.support.download import SourceFailed

IMAGES_PER_BATCH = 10_000
"""Images in each of the five training files of CIFAR-10, and in every test file."""
_PIXELS = 3 * 32 * 32

MD5_100 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "train.bin": "6172c7755cfe09b2fe270c85cebc1b15",
    "test.bin": "4499cfba6c016c1be1438163640a0898",
}
"""Checksums of CIFAR-100's files in the python and in the binary version."""
ARCHIVE_MD5_100 = ("eb9058c3a382ffc7106e4002c42a8d85", "03b5dce01913d631647c71ecec9e9cb8")
"""Checksums of CIFAR-100's archives, as its authors publish them: python, binary."""

Arrays = dict[str, NDArray[np.uint8]]
"""`train-images` and `test-images`, uint8 (N, 3, 32, 32); `train-labels`, `test-labels` (N,)."""
Base = Literal["cifar10", "cifar100"]
Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")
_FILES_10 = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
"""CIFAR-10's files of each part, without their suffixes."""

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


def read(path: Path, base: Base, parts: Sequence[Part] = PARTS) -> Arrays:
    """Read a folder or archive of the official binary or python version.

    A folder may also hold the official archive, or the folder that it unpacks to. Of CIFAR-10 the
    PNG copy is read, too. Files of CIFAR-100 are verified by their checksums; the arrays of
    CIFAR-10 have checksums of their own, which the caller compares.

    Args:
        path: the folder or archive.
        base: the data set.
        parts: what to read; files of other parts may be missing.

    Raises:
        SourceFailed: if nothing of the data set is there, or some of it is missing or damaged.
    """
    if not path.exists():
        raise SourceFailed("no such file or folder")
    prefix = "cifar-10-" if base == "cifar10" else "cifar-100-"
    try:
        with _opened(path) as files:
            found = _read_10(files, parts) if base == "cifar10" else _read_100(path, files, parts)
            if found:
                return found
            archives = [n for n in files if n.startswith(prefix) and "tar" in n]
            other = not files.keys().isdisjoint(_first_files(_OTHER[base], parts))
        if path.is_dir() and archives:
            return read(next(p for p in sorted(path.rglob(archives[0]))), base, parts)
    except OSError as error:
        raise SourceFailed(f"cannot be read: {error.strerror or error}") from error
    missing = " or ".join(_first_files(base, parts))
    if base == "cifar10":
        what = "CIFAR-100, not CIFAR-10" if other else "no CIFAR-10 batches"
    else:
        what = "CIFAR-10, not CIFAR-100" if other else "no CIFAR-100 files"
    raise SourceFailed(f"holds {what} (no {missing})")


_OTHER: dict[Base, Base] = {"cifar10": "cifar100", "cifar100": "cifar10"}


def _first_files(base: Base, parts: Sequence[Part]) -> list[str]:
    """The names by which the files of a data set are known, in the binary and python versions."""
    name = _FILES_10[parts[0]][0] if base == "cifar10" else parts[0]
    return [f"{name}.bin", name]


def _read_10(files: _Files, parts: Sequence[Part]) -> Arrays | None:
    """CIFAR-10's arrays; None if none of its files is there."""
    binary, python = _first_files("cifar10", parts)
    if binary in files:
        return _joined(files, parts, ".bin", _decode_binary)
    if python in files:
        return _joined(files, parts, "", _decode_python)
    if f"{python}.png" in files:
        return _joined(files, parts, ".png", partial(_decode_png, labels=_png_labels(files, parts)))
    return None


def _read_100(path: Path, files: _Files, parts: Sequence[Part]) -> Arrays | None:
    """CIFAR-100's arrays, with the 100 classes as labels; None if none of its files is there."""
    suffix = next((s for s in (".bin", "") if f"{parts[0]}{s}" in files), None)
    if suffix is None:
        return None
    with_known_sum = False
    if path.is_file():
        with path.open("rb") as file:
            with_known_sum = hashlib.file_digest(file, "md5").hexdigest() in ARCHIVE_MD5_100
    arrays: Arrays = {}
    for part in parts:
        count = len(_FILES_10[part]) * IMAGES_PER_BATCH
        name = f"{part}{suffix}"
        content = _read(files, name)
        if not with_known_sum and _md5(content) != MD5_100[name]:
            raise SourceFailed(f"{name} does not match the official MD5 checksum")
        decode = _decode_binary_100 if suffix else _decode_python_100
        images, fine, coarse = decode(content, name)
        if images.shape != (count, 3, 32, 32) or not len(fine) == len(coarse) == count:
            raise _altered(name)
        if fine.max() >= len(SUPERCLASS) or (np.take(SUPERCLASS, fine) != coarse).any():
            raise SourceFailed(f"{name} has classes of other superclasses than CIFAR-100's")
        arrays |= {f"{part}-images": np.ascontiguousarray(images), f"{part}-labels": fine.copy()}
    return arrays


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _joined(
    files: _Files,
    parts: Sequence[Part],
    suffix: str,
    decode: Callable[[bytes, str], tuple[Any, Any]],
) -> Arrays:
    """Decode the files of each part and put them together."""
    arrays: Arrays = {}
    for part in parts:
        decoded = []
        for name in (f"{bare}{suffix}" for bare in _FILES_10[part]):
            images, labels = decode(_read(files, name), name)
            if images.shape != (IMAGES_PER_BATCH, 3, 32, 32) or labels.shape != (IMAGES_PER_BATCH,):
                raise _altered(name)
            decoded.append((images, labels))
        arrays[f"{part}-images"] = np.concatenate([images for images, _ in decoded])
        arrays[f"{part}-labels"] = np.concatenate([labels for _, labels in decoded])
    return arrays


def _altered(name: str, error: Exception | None = None) -> SourceFailed:
    return SourceFailed(f"{name} is truncated or altered" + (f" ({error})" if error else ""))


def _decode_binary(content: bytes, name: str) -> tuple[Any, Any]:
    """A label and the pixels of each image."""
    rows = _rows(content, name, labels=1)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]


def _decode_binary_100(content: bytes, name: str) -> tuple[Any, Any, Any]:
    """The superclass, the class and the pixels of each image; returned in another order."""
    rows = _rows(content, name, labels=2)
    return rows[:, 2:].reshape(-1, 3, 32, 32), rows[:, 1], rows[:, 0]


def _rows(content: bytes, name: str, labels: int) -> NDArray[np.uint8]:
    rows, rest = divmod(len(content), labels + _PIXELS)
    if rest:
        raise _altered(name)
    return np.frombuffer(content, np.uint8).reshape(rows, labels + _PIXELS)


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
    images, labels = _unpickled(content, name, b"labels")
    return images, labels


def _decode_python_100(content: bytes, name: str) -> tuple[Any, Any, Any]:
    images, fine, coarse = _unpickled(content, name, b"fine_labels", b"coarse_labels")
    return images, fine, coarse


def _unpickled(content: bytes, name: str, *labels: bytes) -> list[NDArray[np.uint8]]:
    """The images of a file of the python version, and its labels of some kinds."""
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        images = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32)
        return [images, *(np.asarray(batch[key], np.uint8) for key in labels)]
    except Exception as error:  # damaged pickles raise nearly anything
        raise _altered(name, error) from error


def _png_labels(files: _Files, parts: Sequence[Part]) -> dict[str, NDArray[np.uint8]]:
    """Labels of the npm package by its PNG files' names."""
    labels: dict[str, NDArray[np.uint8]] = {}
    for part in parts:
        name = f"{part}_lables.json"
        try:
            found = np.asarray(json.loads(_read(files, name)), np.uint8)
        except (ValueError, TypeError, OverflowError) as error:
            raise _altered(name, error) from error
        batches = _FILES_10[part]
        if len(found) != len(batches) * IMAGES_PER_BATCH:
            raise _altered(name)
        rows = np.split(found, len(batches))
        labels |= {f"{batch}.png": own for batch, own in zip(batches, rows, strict=True)}
    return labels


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
