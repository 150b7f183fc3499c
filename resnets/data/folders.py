"""Folders of images in the usual layouts, listed once and kept as a few compact arrays.

Layouts:
    train and val: `train/<class>/*` with `val/<class>/*`, or with ImageNet's flat `val/*` and a
        label file that gives the class of each image;
    single: `<class>/*`, of which a fraction is set aside for testing;
    listed: images with a `labels.tsv` that gives the class index of each, for testing only.

Images listed in the file `.quarantine` of the data folder are excluded in every layout.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time_ns
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resnets.data import label_files
from resnets.data.image_formats import EXTENSIONS
from resnets.data.images import is_candidate
from resnets.data.samples import PackedNames, PhotoSet, Samples, split_train_val
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, cache_folder, existing_folder, make_folder

TRAIN, VAL = ("train", "training"), ("val", "valid", "validation", "test")
"""Names of the folders with the training images and with the test images."""

QUARANTINE = ".quarantine"
"""File in the data folder that lists images to exclude: a path on each line, # for comments."""

_INDEX_FORMAT = 2
_SETTLED = 2_000_000_000
"""Nanoseconds after which the next change of a folder is sure to change its modification time."""


class ImageFolder(Samples):
    """Labelled images below a folder.

    Args:
        root: the folder.
        names: the images' paths below it.
        labels: their classes, int64 (images,).
        classes: see `Samples`.
        quarantined: see `Samples`.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str] | PackedNames,
        labels: ArrayLike,
        classes: tuple[str, ...] | None,
        quarantined: int = 0,
    ) -> None:
        self.root, self.location = root, str(root)
        self.classes, self.quarantined = classes, quarantined
        self.labels = np.asarray(labels, np.int64)
        self._names = names if isinstance(names, PackedNames) else PackedNames.pack(names)

    def name(self, index: int) -> str:
        return self._names[index]

    def path(self, index: int) -> Path:
        """The image's file."""
        return self.root / self._names[index]

    def read(self, index: int) -> bytes:
        path = self.path(index)
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise UserError("the image was removed while it was in use", str(path)) from error
        except OSError as error:
            raise UserError(f"the image cannot be read ({error})", str(path)) from error

    def with_labels(self, labels: NDArray[np.int64], classes: tuple[str, ...]) -> ImageFolder:
        """The same images with other labels."""
        return ImageFolder(self.root, self._names, labels, classes, self.quarantined)

    def without_quarantined(self, data: Path) -> ImageFolder:
        """The images that the quarantine file of the data folder does not list."""
        prefix = "" if self.root == data else f"{self.root.relative_to(data).as_posix()}/"
        listed = {n.removeprefix(prefix) for n in read_quarantine(data) if n.startswith(prefix)}
        if not listed:
            return self
        keep = np.array([self.name(i) not in listed for i in range(len(self))], bool)
        names, quarantined = self._names.select(keep), int((~keep).sum())
        return ImageFolder(self.root, names, self.labels[keep], self.classes, quarantined)


def load(folder: Path, split_seed: int = 0) -> PhotoSet:
    """The training and test images of a folder.

    Args:
        folder: in one of the first two layouts above.
        split_seed: chooses the images to set aside in a folder without `val`.

    Raises:
        UserError: if there are no images, fewer than two classes, classes in `val` that
            `train` does not have, or too few images to set any aside.
    """
    train = subfolder(folder, TRAIN)
    samples = _require_two_classes(load_class_folders(train or folder, folder))
    val = None if train is None else subfolder(folder, VAL)
    if val is None:
        return split_train_val(samples, split_seed)
    return PhotoSet(samples, _load_val(val, samples.classes or (), folder))


def load_test(folder: Path) -> Samples:
    """The images to test a model on: those of `val` if there is one, else all images.

    All images include those that a training on the same folder used: of a folder without `val`,
    a training sets only a fraction aside.

    Raises:
        UserError: if there are no images.
    """
    label_file = label_files.find_class_indices(existing_folder(folder, "give a folder of images"))
    if label_file is not None:
        entries = label_files.read_class_indices(label_file)
        return _listed_images(folder, label_file, entries, [e.label for e in entries], None, folder)
    train, val = subfolder(folder, TRAIN), subfolder(folder, VAL)
    if train is None or val is None:
        return _require_images(load_class_folders(val or train or folder, folder))
    # As in a training, classes without training images are not counted.
    training = _drop_empty_classes(_require_images(load_class_folders(train, folder)))
    return _load_val(val, training.classes or (), folder)


def load_class_folders(root: Path, data: Path | None = None) -> ImageFolder:
    """All images `<class>/**` below `root`; the classes are the sorted folder names.

    Hidden files and folders are excluded, and what `images.is_candidate` takes for no image.
    The listing is kept in the cache folder until the content of one of the folders changes.

    Args:
        root: the folder of class folders.
        data: the data folder whose quarantine file applies; none applies by default.

    Raises:
        UserError: if `root` does not exist, is not a folder, or cannot be read.
    """
    existing_folder(root, "give a folder of images")
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
    cached = cache_folder("folders", f"{key}.npz")
    listing = _Listing.read(cached, root)
    if listing is None:
        listing = _Listing.scan(root)
        if max(listing.times) < time_ns() - _SETTLED:
            with contextlib.suppress(UserError):  # the cache only saves time
                listing.write(cached)
    samples = ImageFolder(root, listing.names, listing.labels, tuple(listing.classes))
    return samples if data is None else samples.without_quarantined(data)


def subfolder(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first existing folder of these names in `folder`.

    Raises:
        UserError: if `folder` is not a folder.
    """
    existing_folder(folder, "give a folder of images")
    paths = (folder / name for name in names)
    return next((p for p in paths if os.path.isdir(p)), None)  # noqa: PTH112 (never raises)


def flat_layout(root: Path) -> tuple[Path, Path] | None:
    """The folder of the images and the label file, if `root` is a flat folder with a label file.

    A folder with class folders is not flat, even if it contains a label file.
    """
    label_file = label_files.find_class_names(root)
    if label_file is None:
        return None
    entries = _visible_entries(root)
    if any(is_image(e) for e in entries):
        return root, label_file
    folders = [e.name for e in entries if is_folder(e)]
    return (root / "images", label_file) if folders == ["images"] else None  # Tiny ImageNet


def read_quarantine(data: Path) -> list[str]:
    """The paths that the quarantine file of a data folder lists, relative to that folder."""
    try:
        text = (data / QUARANTINE).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return []
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot be read ({reason})", str(data / QUARANTINE)) from error
    lines = [line.rstrip("\r") for line in text.split("\n")]
    return [line.removeprefix("./") for line in lines if line and not line.startswith("#")]


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file that may be an image, by its ending or first bytes."""
    try:
        return entry.is_file() and is_candidate(entry.path)
    except OSError:  # a link to itself
        return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to a folder."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def walk(
    folder: Path, below: str = "", above: tuple[str, ...] = ()
) -> Iterator[tuple[str, int, list[str]]]:
    """Each folder below `folder`, its modification time (ns) and its images, in a fixed order.

    Links that lead back to a folder above them are not followed.

    Args:
        folder: the folder that all returned paths are relative to.
        below: begin at this folder, a path relative to `folder`.
        above: real paths of the folders above.

    Raises:
        UserError: if a folder cannot be read.
    """
    real = os.path.realpath(folder / below)
    if real in above:
        return
    with _reading(folder / below):  # before the listing, so that a change during it shows
        time = (folder / below).stat().st_mtime_ns
    entries = _visible_entries(folder / below)
    prefix = f"{below}/" if below else ""
    yield below, time, [prefix + e.name for e in entries if is_image(e)]
    for entry in entries:
        if is_folder(entry):
            yield from walk(folder, prefix + entry.name, (*above, real))


def has_class_folders(root: Path) -> bool:
    """Whether any folder in `root` contains images."""
    inside = (e.name for e in _visible_entries(root) if is_folder(e))
    return any(images for name in inside for _, _, images in walk(root, name))


def _visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, sorted by name."""
    with _reading(folder), os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turn an `OSError` of reading a folder into a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"the folder cannot be read: {reason}", str(folder)) from error


@dataclass(frozen=True)
class _Listing:
    """The images of class folders, and the state of the folders in which they were found.

    Args:
        names: the images' paths below the root.
        labels: int64 (images,).
        classes: names of the class folders.
        folders: the paths of all folders below the root, the root included.
        times: when each folder last gained or lost an entry, in nanoseconds.
    """

    names: PackedNames
    labels: NDArray[np.int64]
    classes: list[str]
    folders: list[str]
    times: list[int]

    @staticmethod
    def scan(root: Path) -> _Listing:
        folders, times = [""], [root.stat().st_mtime_ns]
        classes = [e.name for e in _visible_entries(root) if is_folder(e)]
        names: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            for folder, time, images in walk(root, name):
                folders.append(folder)
                times.append(time)
                names += images
                labels += [label] * len(images)
        return _Listing(
            PackedNames.pack(names), np.array(labels, np.int64), classes, folders, times
        )

    @staticmethod
    def read(path: Path, root: Path) -> _Listing | None:
        """The cached listing, unless it is missing, damaged or older than a change of a folder."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                if int(arrays["format"]) != _INDEX_FORMAT:
                    return None
                classes, folders = (
                    bytes(arrays[name]).decode("utf-8", "surrogateescape").split("\0")
                    for name in ("classes", "folders")
                )
                names = PackedNames(arrays["names"], arrays["ends"])
                times = arrays["times"].tolist()
                listing = _Listing(names, arrays["labels"], classes, folders, times)
            for folder, time in zip(folders, times, strict=True):
                if (root / folder).stat().st_mtime_ns != time:
                    return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return listing if classes != [""] else None

    def write(self, path: Path) -> None:
        def joined(lines: list[str]) -> NDArray[np.uint8]:
            return np.frombuffer("\0".join(lines).encode("utf-8", "surrogateescape"), np.uint8)

        arrays: dict[str, Any] = {
            "format": np.array(_INDEX_FORMAT),
            "names": self.names.buffer,
            "ends": self.names.ends,
            "labels": self.labels,
            "times": np.array(self.times, np.int64),
            "classes": joined(self.classes),
            "folders": joined(self.folders),
        }
        make_folder(path.parent)
        atomic_write(path, lambda file: np.savez(file, **arrays))


def _load_val(root: Path, classes: tuple[str, ...], data: Path) -> Samples:
    """The test images below `root`, with labels that number the training classes."""
    flat = flat_layout(root)
    if flat is not None:
        return _load_flat_val(*flat, classes, data)
    samples = _require_images(load_class_folders(root, data))
    own = samples.classes or ()
    used = [own[label] for label in np.unique(samples.labels)]
    unknown = [name for name in used if name not in classes]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(
            f"class {unknown[0]!r}{more} is not among the {len(classes)} training classes",
            str(root),
            "rename its folder, or add the class to the training images",
        )
    numbers = np.array([classes.index(n) if n in classes else -1 for n in own], np.int64)
    return samples.with_labels(numbers[samples.labels], classes)


def _load_flat_val(
    root: Path, label_file: Path, classes: tuple[str, ...], data: Path
) -> ImageFolder:
    """ImageNet's layout: a flat folder, and a file that gives the class of each image."""
    files = [entry.name for entry in _visible_entries(root)]
    entries = label_files.read_class_names(label_file, files)
    numbers = {name: number for number, name in enumerate(classes)}
    for entry in entries:
        if entry.label not in numbers:
            raise UserError(
                f"class {entry.label!r} is not among the {len(classes)} training classes",
                f"{label_file}, line {entry.line}",
            )
    labels = [numbers[entry.label] for entry in entries]
    return _listed_images(root, label_file, entries, labels, classes, data)


def _listed_images(
    root: Path,
    label_file: Path,
    entries: Sequence[label_files.Entry[Any]],
    labels: list[int],
    classes: tuple[str, ...] | None,
    data: Path,
) -> ImageFolder:
    """The images of a label file; raises `UserError` if one does not exist."""
    existing = {entry.name for entry in _visible_entries(root)}
    for image, _, line in entries:
        if image not in existing and not label_files.image_exists(root, image):
            location = f"{label_file}, line {line}"
            raise UserError(f"lists an image that does not exist: {image[:200]}", location)
    samples = ImageFolder(root, [entry.image for entry in entries], labels, classes)
    return _require_images(samples.without_quarantined(data))


def _require_images(samples: ImageFolder) -> ImageFolder:
    if not len(samples):
        extensions = ", ".join(sorted(EXTENSIONS))
        raise UserError(f"no images ({extensions}) in class folders", samples.location)
    return samples


def _require_two_classes(samples: ImageFolder) -> ImageFolder:
    """The samples without empty classes; raises `UserError` if fewer than two classes are left."""
    samples = _drop_empty_classes(_require_images(samples))
    classes = samples.classes or ()
    if len(classes) < 2:
        raise UserError(
            f"only one class, {classes[0]!r}; a classifier needs two or more",
            samples.location,
            "put the images of each class into a folder of its own",
        )
    return samples


def _drop_empty_classes(samples: ImageFolder) -> ImageFolder:
    classes = samples.classes or ()
    used = np.unique(samples.labels)
    if len(used) == len(classes):
        return samples
    return samples.with_labels(
        np.searchsorted(used, samples.labels), tuple(classes[i] for i in used)
    )
