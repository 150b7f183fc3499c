"""Folders of images: the usual layouts, indexed once into a few compact arrays.

Layouts:
    train and val: `train/<class>/*` with `val/<class>/*`, or with ImageNet's own flat `val/*`
        and a file that maps its images to classes;
    single: `<class>/*`, of which a share is set aside for testing;
    listed: images with a `labels.tsv` that numbers each one's class, for testing only.

Images listed in the file `.quarantine` of the data folder are left out in every layout.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import time_ns
from typing import IO

import numpy as np
from numpy.typing import NDArray

from resnets.data import label_files
from resnets.data.images import EXTENSIONS
from resnets.data.samples import PhotoSet, Samples, Subset, shuffled
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, cache_folder, make_folder

TRAIN, VAL = ("train", "training"), ("val", "valid", "validation", "test")
INDEX_FORMAT = 1
QUARANTINE = ".quarantine"
"""Paths of images to leave out, one a line, below the data folder; # begins a comment."""

_SETTLED = 2_000_000_000
"""Nanoseconds after which a change of a folder is sure to show in its time."""


class Folder:
    """Images of a folder with their labels. Names lie in one byte buffer.

    Args:
        root: the folder.
        names: the images' paths below it, UTF-8 without separators, uint8.
        ends: where each name ends in `names`, int64.
        labels: int64.
        classes: see `Samples`.
        left_out: see `Samples`.
    """

    def __init__(
        self,
        root: Path,
        names: NDArray[np.uint8],
        ends: NDArray[np.int64],
        labels: NDArray[np.int64],
        classes: tuple[str, ...] | None,
        left_out: int = 0,
    ) -> None:
        self.root, self.labels, self.classes, self.left_out = root, labels, classes, left_out
        self._names, self._ends = names, ends

    @property
    def where(self) -> str:
        return str(self.root)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return self._names[start : self._ends[index]].tobytes().decode("utf-8", "surrogateescape")

    def path(self, index: int) -> Path:
        """The image's file."""
        return self.root / self.name(index)

    def read(self, index: int) -> bytes:
        path = self.path(index)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise UserError("the image is gone since the folder was read", str(path)) from error
        except OSError as error:
            raise UserError(f"the image cannot be read ({error})", str(path)) from error

    def kept(self, chosen: NDArray[np.bool_]) -> Folder:
        """The same folder with the chosen images only, the others being left out."""
        lengths = np.diff(self._ends, prepend=0)
        names = self._names[np.repeat(chosen, lengths)]
        ends = np.cumsum(lengths[chosen])
        left_out = self.left_out + int((~chosen).sum())
        return Folder(self.root, names, ends, self.labels[chosen], self.classes, left_out)

    def relabelled(self, labels: NDArray[np.int64], classes: tuple[str, ...]) -> Folder:
        """The same images with other labels."""
        return Folder(self.root, self._names, self._ends, labels, classes, self.left_out)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        return shuffled(len(self), seed, epoch)


def packed(
    root: Path, names: list[str], labels: list[int], classes: tuple[str, ...] | None
) -> Folder:
    """A `Folder` of these names and labels."""
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
    buffer = np.frombuffer(b"".join(encoded), np.uint8)
    return Folder(root, buffer, ends, np.asarray(labels, np.int64), classes)


def load(folder: Path, split_seed: int = 0, share: float = 0.2) -> PhotoSet:
    """The images of a folder to train and to test on.

    Args:
        folder: in one of the first two layouts above.
        split_seed: which of the ways to part a folder without `val`.
        share: part of each class that is set aside for testing in such a folder.

    Raises:
        UserError: if there are no images, fewer than two classes, classes in `val` that
            `train` does not have, or too few images to set any aside.
    """
    train = subfolder(folder, TRAIN)
    if train is None:
        return parted(_trainable(by_class(folder, folder)), split_seed, share)
    samples = _trainable(by_class(train, folder))
    val = subfolder(folder, VAL)
    if val is None:
        return parted(samples, split_seed, share)
    return PhotoSet(samples, _validation(val, samples.classes or (), folder))


def load_test(folder: Path) -> Samples:
    """The images to test a model on: those of `val` if there is one, else all.

    All includes those that a training on the same folder showed: of a folder without `val` it
    sets only a share aside.

    Raises:
        UserError: if there are none.
    """
    listed = label_files.find(folder, label_files.NUMBERED)
    if listed is not None:
        return _listed(folder, *label_files.read_numbers(listed))
    train, val = subfolder(folder, TRAIN), subfolder(folder, VAL)
    if val is None:
        return _filled(by_class(train or folder, folder))
    if train is not None:  # classes without images are none to the training either
        return _validation(val, _used(_filled(by_class(train, folder))).classes or (), folder)
    return _filled(by_class(val, folder))


def by_class(root: Path, data: Path | None = None) -> Folder:
    """Every image of `<class>/**` below `root`; classes are the folders' sorted names.

    Hidden files and folders, and files that are no images by their ending, are left out. The
    index is kept in the cache folder and made anew when a folder's content changed.

    Args:
        root: the folder of class folders.
        data: the data folder, whose quarantine is heeded.

    Raises:
        UserError: if `root` is missing, no folder, or unreadable.
    """
    root = existing(root)
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
    cached = cache_folder("folders", f"{key}.npz")
    index = _read_index(cached, root)
    if index is None:
        index = _scan(root)
        if max(index.times) < time_ns() - _SETTLED:
            with contextlib.suppress(UserError):  # it only saves time
                _write_index(cached, index)
    samples = Folder(root, index.names, index.ends, index.labels, tuple(index.classes))
    return samples if data is None else _without_quarantined(samples, data)


@dataclass(frozen=True)
class _Index:
    names: NDArray[np.uint8]
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: list[str]
    folders: list[str]
    times: list[int]
    """When each folder last gained or lost an entry, in nanoseconds."""


def existing(root: Path) -> Path:
    """The folder itself; raises `UserError` if it is none."""
    if not root.exists():
        raise UserError("no such folder", str(root))
    if not root.is_dir():
        raise UserError("is not a folder", str(root), "give a folder of images")
    return root


def subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first folder of these names below `folder`; raises `UserError` if that is none."""
    existing(folder)
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def quarantined(data: Path) -> list[str]:
    """Paths that the quarantine of a data folder lists, with `/` between their parts."""
    try:
        text = (data / QUARANTINE).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"cannot be read ({error})", str(data / QUARANTINE)) from error
    lines = [line.rstrip("\r") for line in text.split("\n")]
    return [line.removeprefix("./") for line in lines if line and not line.startswith("#")]


def _without_quarantined(samples: Folder, data: Path) -> Folder:
    prefix = "" if samples.root == data else f"{samples.root.relative_to(data).as_posix()}/"
    dropped = {n.removeprefix(prefix) for n in quarantined(data) if n.startswith(prefix)}
    if not dropped:
        return samples
    return samples.kept(np.array([samples.name(i) not in dropped for i in range(len(samples))]))


def _listing(folder: Path) -> list[os.DirEntry[str]]:
    """The visible entries of a folder by name."""
    try:
        with os.scandir(folder) as entries:
            visible = [e for e in entries if not e.name.startswith(".")]
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"the folder cannot be read: {reason}", str(folder)) from error
    return sorted(visible, key=lambda e: e.name)


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is an image by its ending, and a file."""
    if os.path.splitext(entry.name)[1].lower() not in EXTENSIONS:  # noqa: PTH122
        return False
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def walk(
    folder: Path, below: str = "", above: tuple[str, ...] = ()
) -> Iterator[tuple[str, int, list[str]]]:
    """Each folder below `folder` with its time and its images, in a fixed order.

    Links that lead back to a folder above them are not followed.
    """
    real = os.path.realpath(folder / below)
    if real in above:
        return
    time = (folder / below).stat().st_mtime_ns  # first: a change while we look then shows
    visible = _listing(folder / below)
    prefix = f"{below}/" if below else ""
    yield below, time, [prefix + e.name for e in visible if is_image(e)]
    for entry in visible:
        if is_folder(entry):
            yield from walk(folder, prefix + entry.name, (*above, real))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def any_below(root: Path) -> bool:
    """Whether any image lies in a folder of `root`."""
    inside = (e.name for e in _listing(root) if is_folder(e))
    return any(images for name in inside for _, _, images in walk(root, name))


def _scan(root: Path) -> _Index:
    folders, times = [""], [root.stat().st_mtime_ns]
    classes = [e.name for e in _listing(root) if is_folder(e)]
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        for folder, time, images in walk(root, name):
            folders.append(folder)
            times.append(time)
            names += images
            labels += [label] * len(images)
    index = packed(root, names, labels, None)
    return _Index(index._names, index._ends, index.labels, classes, folders, times)


def _write_index(path: Path, index: _Index) -> None:
    make_folder(path.parent)
    texts = {
        name: np.frombuffer("\0".join(lines).encode("utf-8", "surrogateescape"), np.uint8)
        for name, lines in (("classes", index.classes), ("folders", index.folders))
    }
    arrays = {
        "format": np.array(INDEX_FORMAT),
        "names": index.names,
        "ends": index.ends,
        "labels": index.labels,
        "times": np.array(index.times, np.int64),
        **texts,
    }
    atomic_write(path, partial(_save, arrays=arrays))


def _save(file: IO[bytes], arrays: dict[str, NDArray[np.generic]]) -> None:
    np.savez(file, **arrays)  # type: ignore[arg-type]


def _read_index(path: Path, root: Path) -> _Index | None:
    """The cached index, unless it is absent, damaged or older than the folder's content."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if int(arrays["format"]) != INDEX_FORMAT:
                return None
            classes, folders = (
                bytes(arrays[name]).decode("utf-8", "surrogateescape").split("\0")
                for name in ("classes", "folders")
            )
            times = arrays["times"].tolist()
            index = _Index(
                arrays["names"], arrays["ends"], arrays["labels"], classes, folders, times
            )
        for folder, time in zip(folders, times, strict=True):
            if (root / folder).stat().st_mtime_ns != time:
                return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return index if index.classes != [""] else None


def _filled(samples: Folder) -> Folder:
    if not len(samples):
        kinds = ", ".join(sorted(EXTENSIONS))
        raise UserError(f"no images ({kinds}) in class folders", samples.where)
    return samples


def _trainable(samples: Folder) -> Folder:
    """Raise `UserError` unless there are images of two classes; classes without images go."""
    _filled(samples)
    classes = samples.classes or ()
    present = np.unique(samples.labels)
    if len(present) < 2:
        raise UserError(
            f"only one class, {classes[present[0]]!r}; a classifier needs two or more",
            samples.where,
            "put the images of each class into a folder of its own",
        )
    return _used(samples)


def _used(samples: Folder) -> Folder:
    """The same without classes that have no images."""
    classes = samples.classes or ()
    present = np.unique(samples.labels)
    if len(present) == len(classes):
        return samples
    renumbered = np.searchsorted(present, samples.labels)
    kept = tuple(classes[i] for i in present)
    return samples.relabelled(renumbered, kept)


def parted(samples: Samples, seed: int, share: float) -> PhotoSet:
    """Set a share of each class aside, at least one image of a class that has two."""
    random = np.random.default_rng([seed, 2])
    held_out = np.zeros(len(samples), bool)
    for label in range(len(samples.classes or ())):
        index = np.flatnonzero(samples.labels == label)
        count = min(max(1, round(share * len(index))), len(index) - 1)
        held_out[random.permutation(index)[:count]] = True
    train, val = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    if not len(val):
        raise UserError("no class has two images, so that one can be set aside", samples.where)
    return PhotoSet(Subset(samples, train), Subset(samples, val))


def flat(root: Path) -> tuple[Path, Path] | None:
    """Where the images of a flat folder lie, and the file that says their classes.

    A folder with class folders is not flat, though such a file may lie beside them.
    """
    mapping = label_files.find(root, label_files.MAPPINGS)
    if mapping is None:
        return None
    entries = _listing(root)
    if any(is_image(e) for e in entries):
        return root, mapping
    folders = [e.name for e in entries if is_folder(e)]
    return (root / "images", mapping) if folders == ["images"] else None  # Tiny ImageNet


def _validation(root: Path, classes: tuple[str, ...], data: Path) -> Samples:
    """The images to test on, labelled by the training classes."""
    found = flat(root)
    if found is not None:
        return _filled(_without_quarantined(_mapped(*found, classes), data))
    samples = _filled(by_class(root, data))
    own = samples.classes or ()
    present = set(np.unique(samples.labels).tolist())
    unknown = [name for label, name in enumerate(own) if label in present and name not in classes]
    if unknown:
        raise UserError(
            f"class {unknown[0]!r} is not among the {len(classes)} training classes"
            + (f" (nor {len(unknown) - 1} others)" if len(unknown) > 1 else ""),
            str(root),
            "rename its folder, or add the class to the training images",
        )
    numbers = np.array([classes.index(n) if n in classes else -1 for n in own], np.int64)
    labels = numbers[samples.labels]
    return samples.relabelled(labels, classes)


def _mapped(root: Path, mapping: Path, classes: tuple[str, ...]) -> Folder:
    """ImageNet's own layout: a flat folder, and a file that says each image's class."""
    names, words, lines = label_files.read_classes(mapping, root)
    numbers = {name: number for number, name in enumerate(classes)}
    for word, line in zip(words, lines, strict=True):
        if word not in numbers:
            raise UserError(
                f"class {word!r} is not among the {len(classes)} training classes",
                f"{mapping}, line {line}",
            )
    _refuse_missing(root, names, mapping, lines)
    return packed(root, names, [numbers[word] for word in words], classes)


def _listed(root: Path, names: list[str], numbers: list[int], lines: list[int]) -> Folder:
    _refuse_missing(root, names, root / label_files.NUMBERED[0], lines)
    return _filled(_without_quarantined(packed(root, names, numbers, None), root))


def _refuse_missing(root: Path, names: list[str], listing: Path, lines: list[int]) -> None:
    with os.scandir(root) as entries:
        there = {entry.name for entry in entries}
    for name, line in zip(names, lines, strict=True):
        if name not in there and not label_files.is_there(root, name):
            raise UserError(
                f"names an image that is not there: {name[:200]}", f"{listing}, line {line}"
            )
