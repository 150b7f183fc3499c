"""Images in WebDataset tar shards, on disk or at an address, read one by one.

A set that `resnets shards` wrote has its index beside the shards. The index of others' shards is
made when they are first read.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnets.data import folders, label_files
from resnets.data.folders import existing, parted
from resnets.data.samples import PhotoSet, Samples, shuffled
from resnets.data.shards.index import (
    HINT,
    MANIFEST,
    File,
    Index,
    Manifest,
    read_index,
    read_manifest,
)
from resnets.data.shards.scan import expanded, scan
from resnets.data.shards.store import (
    FolderStore,
    Store,
    WebStore,
    address,
    bound,
    fetched,
    refuse_size,
)
from resnets.support.errors import UserError
from resnets.support.files import cache_folder, write_bytes

WINDOW = 16
"""Shards among which the images of a distant set are shuffled."""

_HEADER = 512


class Shards:
    """The images of one split.

    Args:
        store: where the shards lie.
        classes: see `Samples`.
        files: the shards.
        index: where each image lies in them.
    """

    def __init__(
        self, store: Store, classes: tuple[str, ...], files: list[File], index: Index
    ) -> None:
        self._store, self._files, self._index = store, files, index
        self.classes: tuple[str, ...] | None = classes
        self.labels = index.labels
        self._window_of: NDArray[np.int64] | None = None
        self._begun: set[int] = set()
        self.left_out = 0

    @property
    def where(self) -> str:
        return self._store.where

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        start = self._index.ends[index - 1] if index else 0
        name = self._index.names[start : self._index.ends[index]].tobytes()
        return name.decode("utf-8", "surrogateescape")

    def read(self, index: int) -> bytes:
        number = int(self._index.shard[index])
        self._prefetch(number)
        file = self._files[number]
        offset, length = int(self._index.offset[index]), int(self._index.length[index])
        for _ in range(8):
            path = self._store.path(file)
            try:
                # Opened each time: 10 microseconds, and no file is shared between threads.
                with path.open("rb", buffering=0) as shard:
                    shard.seek(offset - _HEADER)
                    content = shard.read(_HEADER + length)
            except FileNotFoundError:
                continue  # another process made room in the cache; fetch it again
            except OSError as error:
                raise UserError(f"the shard cannot be read ({error})", str(path)) from error
            self._check(content, length, path)
            return content[_HEADER:]
        raise UserError("the shard is gone", str(path), HINT)

    def _check(self, content: bytes, length: int, path: Path) -> None:
        if len(content) < _HEADER + length:
            raise UserError("the shard is truncated", str(path), self._store.hint)
        size = content[124:136].strip(b"\0 ")
        fits = size.isdigit() and int(size, 8) == length
        if content[257:262] != b"ustar" or not fits:
            raise UserError(
                "the shard has no image where its index says", str(path), self._store.hint
            )

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Every image once. At an address, images are shuffled within windows of shards.

        The shards are shuffled, then the images of each `WINDOW` of them, so that an epoch needs
        few shards at a time.
        """
        if not self._store.windowed:
            return shuffled(len(self), seed, epoch)
        random = np.random.default_rng([seed, 1, epoch])
        rank = np.empty(len(self._files), np.int64)
        rank[random.permutation(len(self._files))] = np.arange(len(self._files))
        mixed = random.permutation(len(self))
        window_of = rank // WINDOW
        self._window_of, self._begun = window_of, set()
        return mixed[np.argsort(window_of[self._index.shard[mixed]], kind="stable")]

    def _prefetch(self, shard: int) -> None:
        """When the first image of a window is read, begin to fetch the next window's shards."""
        if self._window_of is None:
            return
        window = int(self._window_of[shard])
        if window in self._begun:
            return
        self._begun.add(window)
        files = [self._files[i] for i in np.flatnonzero(self._window_of == window + 1)]
        most = bound()
        if files and (most is None or sum(f.bytes or 0 for f in files) < most / 2):
            threading.Thread(target=self._fetch_all, args=(files,), daemon=True).start()

    def _fetch_all(self, files: list[File]) -> None:
        with contextlib.suppress(UserError):  # whoever reads the shard will be told
            for file in files:
                self._store.path(file)


def are_shards(where: str | Path) -> bool:
    """Whether this is an address, or a folder of shards.

    Tar files beside folders of images, or beside a file that numbers images, are no shards:
    ImageNet's own archives may lie beside what was unpacked from them.
    """
    if "://" in str(where):
        return True
    folder = Path(where)
    if (folder / MANIFEST).is_file():
        return True
    if not folder.is_dir() or label_files.find(folder, label_files.NUMBERED):
        return False
    return bool(_tars_in(folder)) and not folders.any_below(folder)


def load(where: str | Path, split_seed: int = 0, share: float = 0.2) -> PhotoSet:
    """The images of shards to train and to test on.

    Args:
        where: a folder, or its address; or, for shards of others, the address of tar files
            such as `https://host/{train,val}-{0000..0009}.tar`.
        split_seed: which of the ways to part shards that have no split to test on.
        share: part of each class that is then set aside.

    Raises:
        UserError: if shards are missing, truncated, or cannot be fetched.
    """
    store, manifest, indices = _opened(where)
    if len(manifest.classes) < 2:
        raise UserError("only one class; a classifier needs two or more", str(where))
    train = _split(store, manifest, indices, "train")
    if "val" not in manifest.splits:
        return parted(train, split_seed, share)
    return PhotoSet(train, _split(store, manifest, indices, "val"))


def load_test(where: str | Path) -> Samples:
    """The images of shards to test a model on: those of `val` if there are any, else all."""
    store, manifest, indices = _opened(where)
    return _split(store, manifest, indices, "val" if "val" in manifest.splits else "train")


def _split(store: Store, manifest: Manifest, indices: Store, split: str) -> Shards:
    part = manifest.splits[split]
    if isinstance(store, FolderStore):
        store.check(part.shards)
    path = indices.path(part.index)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError("the index of the shards is missing", str(path), HINT) from error
    refuse_size(len(content), part.index, str(path))
    if hashlib.sha256(content).hexdigest() != part.index.sha256:
        raise UserError("the index of the shards is damaged", str(path), HINT)
    index = read_index(content, str(path))
    return Shards(store, tuple(manifest.classes), part.shards, index)


def _opened(where: str | Path) -> tuple[Store, Manifest, Store]:
    """The store of the shards, their description, and the store of their index."""
    url = str(where).rstrip("/")
    if "://" not in url:
        return _folder(existing(Path(where)))
    if url.endswith(".tar"):
        return _tars(WebStore(url), expanded(url), None, b"")
    content = fetched(address(url, MANIFEST))
    store = WebStore(url, content)
    return store, read_manifest(content, address(url, MANIFEST)), store


def _folder(folder: Path) -> tuple[Store, Manifest, Store]:
    store = FolderStore(folder)
    path = folder / MANIFEST
    if path.is_file():
        return store, read_manifest(path.read_bytes(), str(path)), store
    tars = _tars_in(folder)
    if not tars:
        raise UserError("no shards here", str(folder), f"give a folder with {MANIFEST}")
    classes = None
    if (folder / "classes.txt").is_file():
        classes = (folder / "classes.txt").read_text(encoding="utf-8").split("\n")
        classes = [name.strip() for name in classes if name.strip()]
    state = repr([(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in tars]).encode()
    return _tars(store, [p.name for p in tars], classes, state + repr(classes).encode())


def _tars_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))


def _tars(
    store: Store, names: list[str], classes: list[str] | None, state: bytes
) -> tuple[Store, Manifest, Store]:
    """Shards of others, whose index is kept in the cache folder."""
    key = hashlib.sha256(store.where.encode() + b"\0" + state).hexdigest()[:24]
    out = cache_folder("shards", f"index-{key}")
    path = out / MANIFEST
    try:
        return store, read_manifest(path.read_bytes(), str(path), own=True), FolderStore(out)
    except (OSError, UserError):
        manifest = scan(store, names, classes, out)
    write_bytes(path, manifest.text().encode())
    return store, manifest, FolderStore(out)
