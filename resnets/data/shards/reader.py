"""Images in WebDataset tar shards, in a folder or at a URL, read one by one.

A set of shards that `resnets shards` wrote contains its index. For shards from other writers,
an index is made when they are first opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from tarfile import BLOCKSIZE

import numpy as np
from numpy.typing import NDArray

from resnets.data import label_files, layouts, random_streams
from resnets.data.samples import PhotoSet, Samples, split_train_val
from resnets.data.shards.index import MANIFEST, Index, Manifest, expand_braces, scan
from resnets.data.shards.store import (
    HINT,
    FolderStore,
    ShardFile,
    Store,
    UrlStore,
    cache_limit,
    join_url,
    read_url,
)
from resnets.support.errors import UserError
from resnets.support.files import cache_folder, existing_folder, read_text

WINDOW = 16
"""Shards whose images are shuffled among each other, where shards are downloaded."""

_ATTEMPTS = 8


class Shards(Samples):
    """The images of one split.

    Args:
        store: gives access to the files.
        classes: see `Samples`.
        files: the shards.
        index: where each image is in them.
    """

    def __init__(
        self, store: Store, classes: tuple[str, ...], files: list[ShardFile], index: Index
    ) -> None:
        self._store, self._files, self._index = store, files, index
        self.location, self.classes, self.labels = store.location, classes, index.labels
        self._windows: dict[int, int] = {}  # the window of each shard, after `prefetch`
        self._next_files: dict[int, list[ShardFile]] = {}  # by window: those to download then

    def name(self, index: int) -> str:
        return self._index.names[index]

    def read(self, index: int) -> bytes:
        number = int(self._index.shard[index])
        self._begin_window(self._windows.get(number))
        file = self._files[number]
        offset, length = int(self._index.offset[index]), int(self._index.length[index])
        for _ in range(_ATTEMPTS):
            path = self._store.path(file)
            try:
                # Opened each time: 10 microseconds, and no file is shared between threads.
                with path.open("rb", buffering=0) as shard:
                    shard.seek(offset - BLOCKSIZE)
                    content = shard.read(BLOCKSIZE + length)
            except FileNotFoundError:
                continue  # another process deleted it to respect the cache limit
            except OSError as error:
                raise UserError(f"the shard cannot be read ({error})", str(path)) from error
            self._check(content, length, path)
            return content[BLOCKSIZE:]
        raise UserError("the shard is missing", str(path), HINT)

    def _check(self, content: bytes, length: int, path: Path) -> None:
        """Raise `UserError` unless the content is a tar header and a member of `length` bytes."""
        if len(content) < BLOCKSIZE + length:
            raise UserError("the shard is truncated", str(path), self._store.hint)
        size = content[124:136].strip(b"\0 ")
        matches = size.isdigit() and int(size, 8) == length
        if content[257:262] != b"ustar" or not matches:
            message = "the shard has no image where its index says"
            raise UserError(message, str(path), self._store.hint)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """A permutation of the images; of remote shards, images are shuffled within windows.

        The shards are shuffled, then the images of each `WINDOW` of them, so that only few shards
        are needed at a time.
        """
        if not self._store.remote:
            return super().order(seed, epoch)
        random = np.random.default_rng([seed, random_streams.EPOCH, epoch])
        rank = np.empty(len(self._files), np.int64)
        rank[random.permutation(len(self._files))] = np.arange(len(self._files))
        mixed = random.permutation(len(self))
        windows = rank[self._index.shard[mixed]] // WINDOW
        return mixed[np.argsort(windows, kind="stable")]

    def prefetch(self, order: NDArray[np.int64]) -> None:
        """Download remote shards ahead, from now on, while images are read in this order.

        When the first image of a window of shards is read, a thread begins to download the
        next window, unless two windows exceed the cache limit.
        """
        self._windows, self._next_files = {}, {}
        if not self._store.remote:
            return
        shards = self._index.shard[order]
        _, first_use = np.unique(shards, return_index=True)
        sequence = shards[np.sort(first_use)].tolist()
        next_files = {
            position // WINDOW - 1: [self._files[n] for n in sequence[position : position + WINDOW]]
            for position in range(WINDOW, len(sequence), WINDOW)
        }
        limit = cache_limit()
        self._windows = {number: at // WINDOW for at, number in enumerate(sequence)}
        self._next_files = {
            window: files
            for window, files in next_files.items()
            if limit is None or sum(file.size or 0 for file in files) < limit / 2
        }

    def _begin_window(self, window: int | None) -> None:
        files = None if window is None else self._next_files.pop(window, None)
        if files:
            threading.Thread(target=self._download, args=(files,), daemon=True).start()

    def _download(self, files: list[ShardFile]) -> None:
        with contextlib.suppress(UserError):  # raised again by whoever reads the shard
            for file in files:
                self._store.path(file)


def are_shards(location: str | Path) -> bool:
    """Whether this is a URL or a folder of shards.

    A folder with images in class folders or with a `labels.tsv` is not a folder of shards, even
    if it contains tar files: ImageNet's archives may be next to the folders unpacked from them.
    """
    if "://" in str(location):
        return True
    folder = Path(location)
    if os.path.isfile(folder / MANIFEST):  # noqa: PTH113 (never raises)
        return True
    if not folder.is_dir() or label_files.find_class_indices(folder):
        return False
    return bool(_tar_files(folder)) and not layouts.has_class_folders(folder)


def load(location: str | Path, split_seed: int = 0) -> PhotoSet:
    """The training and test images of a set of shards.

    Args:
        location: a folder or its URL; for shards from other writers also the URL of tar files,
            such as `https://host/{train,val}-{0000..0009}.tar`.
        split_seed: chooses the images to set aside if the shards have no test split.

    Raises:
        UserError: if shards are missing or truncated, or cannot be downloaded.
    """
    shards = _open(location)
    if len(shards.manifest.classes) < 2:
        raise UserError("only one class; a classifier needs two or more", str(location))
    train = shards.split("train")
    if "val" not in shards.manifest.splits:
        return split_train_val(train, split_seed)
    return PhotoSet(train, shards.split("val"))


def load_test(location: str | Path) -> Samples:
    """The images to test a model on: the split `val` if there is one, else all images."""
    shards = _open(location)
    return shards.split("val" if "val" in shards.manifest.splits else "train")


@dataclass(frozen=True)
class _ShardSet:
    """A set of shards, whose index may lie elsewhere."""

    store: Store
    manifest: Manifest
    index_store: Store

    def split(self, name: str) -> Shards:
        split = self.manifest.splits[name]
        if isinstance(self.store, FolderStore):
            self.store.check(split.shards)
        path = self.index_store.path(split.index)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError("the index of the shards is missing", str(path), HINT) from error
        if hashlib.sha256(content).hexdigest() != split.index.sha256:
            raise UserError("the index of the shards is damaged", str(path), HINT)
        index = Index.parse(content, str(path))
        return Shards(self.store, tuple(self.manifest.classes), split.shards, index)


def _open(location: str | Path) -> _ShardSet:
    url = str(location).rstrip("/")
    if "://" not in url:
        return _open_folder(existing_folder(Path(location), "give a folder of shards"))
    if url.endswith(".tar"):
        return _open_tars(UrlStore(url), expand_braces(url), None, b"")
    manifest_url = join_url(url, MANIFEST)
    content = read_url(manifest_url)
    store = UrlStore(url, content)
    return _ShardSet(store, Manifest.parse(content, manifest_url), store)


def _open_folder(folder: Path) -> _ShardSet:
    store = FolderStore(folder)
    path = folder / MANIFEST
    if path.is_file():
        return _ShardSet(store, Manifest.parse(path.read_bytes(), str(path)), store)
    tars = _tar_files(folder)
    if not tars:
        hint = f"give a folder with {MANIFEST} or with tar files"
        raise UserError("contains no shards", str(folder), hint)
    classes = None
    if (folder / "classes.txt").is_file():
        lines = read_text(folder / "classes.txt").split("\n")
        classes = [line.strip() for line in lines if line.strip()]
    facts = [(p.name, p.stat()) for p in tars]
    state = [(name, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for name, one in facts]
    return _open_tars(store, [p.name for p in tars], classes, repr((state, classes)).encode())


def _tar_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def _open_tars(
    store: Store, names: list[str], classes: list[str] | None, version: bytes
) -> _ShardSet:
    """Shards from other writers, whose index is kept in the cache folder; arguments as in `scan`.

    `version` distinguishes the shards from others at the same location.
    """
    key = hashlib.sha256(store.location.encode() + b"\0" + version).hexdigest()[:24]
    folder = cache_folder("shards", f"index-{key}")
    path = folder / MANIFEST
    try:
        manifest = Manifest.parse(path.read_bytes(), str(path), trusted=True)
    except (OSError, UserError):
        manifest = scan(store, names, classes, folder)
    return _ShardSet(store, manifest, FolderStore(folder))
