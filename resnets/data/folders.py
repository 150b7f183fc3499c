"""Folders of images in the usual layouts, listed once and kept as a few compact arrays.

Layouts (which one a folder has is decided in `layouts`):
    train and val: `train/<class>/*` with `val/<class>/*`, or with ImageNet's flat `val/*` and a
        label file that gives the class of each image;
    single: `<class>/*`, of which a fraction is set aside for testing;
    table: images and a file that lists them with their classes;
    listed: images with a `labels.tsv` that gives the class index of each, for testing.

Images listed in the file `.quarantine` of the data folder are excluded in every layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resnets.data import hints, label_files
from resnets.data.file_tree import FileTree, is_image, joined, left_out_line
from resnets.data.layouts import (
    CLASS_FOLDERS,
    GIVE_A_FOLDER,
    NO_IMAGES,
    Layout,
    find_layout,
    flat_layout,
)
from resnets.data.quarantine import Quarantine
from resnets.data.samples import PackedNames, PhotoSet, Samples, Subset, split_train_val
from resnets.support.errors import UserError
from resnets.support.files import existing_folder
from resnets.support.names import composed, counted, listed, pairs_alike, printable, similar


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
            reason = error.strerror or error
            raise UserError(f"the image cannot be read ({reason})", str(path)) from error

    def with_labels(self, labels: NDArray[np.int64], classes: tuple[str, ...]) -> ImageFolder:
        """The same images with other labels."""
        return ImageFolder(self.root, self._names, labels, classes, self.quarantined)

    def where(self, keep: NDArray[np.bool_], quarantined: int = 0) -> ImageFolder:
        """The images where `keep` (images,) is true."""
        return ImageFolder(
            self.root, self._names.select(keep), self.labels[keep], self.classes, quarantined
        )


def load(folder: Path, split_seed: int = 0) -> PhotoSet:
    """The training and test images of a folder.

    Args:
        folder: in one of the first three layouts above, or the file of the third.
        split_seed: chooses the images to set aside in a folder without `val`.

    Raises:
        UserError: if there are no images, fewer than two classes, classes in `val` that
            `train` does not have, or too few images to set any aside; if the layout is unclear.
    """
    reader = _Reader(find_layout(folder))
    layout = reader.layout
    if layout.table is not None:
        found = reader.training_table(layout.table, split_seed)
    elif layout.train is None and layout.val is not None:
        message = f"{layout.val.name} holds test images, but there are none to train on"
        raise UserError(message, str(folder), "put the training images into train")
    else:
        samples = reader.training(layout.train or folder)
        if layout.val is None:
            found = split_train_val(samples, split_seed)
        else:
            found = PhotoSet(samples, reader.val(layout.val, samples.classes or ()))
    excluded = reader.quarantine.matched
    lines = (f"{excluded:,} in quarantine left out",) if excluded else ()
    return replace(found, notes=(*lines, *reader.notes()))


def load_test(folder: Path) -> Samples:
    """The images to test a model on: those of `val` if there is one, else all images.

    All images include those that a training on the same folder used: of a folder without `val`,
    a training sets only a fraction aside.

    Raises:
        UserError: if there are no images, or the layout is unclear.
    """
    numbers = _class_indices(folder)
    if numbers is not None:
        reader = _Reader(Layout(numbers.parent))
        entries = label_files.read_class_indices(numbers)
        labels = [entry.label for entry in entries]
        samples: Samples = reader.listed(numbers.parent, numbers, entries, labels, None)
    else:
        reader = _Reader(find_layout(folder))
        samples = reader.test()
        if hint := hints.inside_folders(reader.layout.data):
            reader.note(f"one class only, {listed(samples.classes or ())}; {hint}")
    samples.notes = reader.notes()
    return samples


def _class_indices(folder: Path) -> Path | None:
    """The `labels.tsv` of a data folder, or `folder` itself if it is that file."""
    if not label_files.is_table(folder):
        return label_files.find_class_indices(existing_folder(folder, GIVE_A_FOLDER))
    found = label_files.find_class_indices(folder.parent)
    return found if found == folder else None


def image_files(folder: Path, note: Callable[[str], None] = lambda line: None) -> list[str]:
    """The images below any folder, without labels: their paths below it, in a fixed order.

    Args:
        folder: its own quarantine file applies.
        note: called with a line for each fact that a user should know.

    Raises:
        UserError: if a folder cannot be read.
    """
    reader = _Reader(Layout(folder))
    names = reader.files()
    if reader.quarantine.matched:
        note(f"{folder}: {reader.quarantine.matched:,} in quarantine left out")
    for line in reader.notes():
        note(f"{folder}: {line}")
    return names


class _Reader:
    """Reads the images of one data folder, and collects what its user should know.

    Args:
        layout: where they are.
        quarantine: the images to exclude; by default those of the folder's quarantine file.
    """

    def __init__(self, layout: Layout, quarantine: Quarantine | None = None) -> None:
        self.layout = layout
        self.quarantine = quarantine or Quarantine(layout.data)
        self._left_out: Counter[str] = Counter()
        self._notes = list(layout.notes)

    def notes(self) -> tuple[str, ...]:
        """Lines about what was left out and what looks wrong, once all is read."""
        lines = [*self._notes, left_out_line(self._left_out), self.quarantine.note()]
        return tuple(printable(line) for line in dict.fromkeys(lines) if line)

    def note(self, line: str) -> None:
        """Add a line to the notes."""
        self._notes.append(line)

    def files(self) -> list[str]:
        """The paths of all images below the folder, without those in quarantine."""
        tree = FileTree(self.layout.data)
        names = [name for name in tree.images() if name not in self.quarantine]
        self._left_out += tree.left_out
        return names

    def training(self, root: Path) -> ImageFolder:
        """The training images of class folders; empty folders are no classes."""
        return self._require_two_classes(self.class_folders(root))

    def test(self) -> Samples:
        """The test images; if none are set apart, all."""
        layout = self.layout
        if layout.table is not None:
            samples, test = self._table(layout.table)
            return Subset(samples, np.flatnonzero(test)) if test.any() else samples
        if layout.val is None:
            return self._require_images(self.class_folders(layout.train or layout.data))
        if layout.train is None:
            flat = flat_layout(layout.val)
            return self._flat_val(*flat, None) if flat else self._val_folders(layout.val)
        # As in a training, classes without training images are not counted. What else there is to
        # say of the training images is of no interest here.
        other = _Reader(replace(layout, notes=()), self.quarantine)
        training = _drop_empty_classes(other._require_images(other.class_folders(layout.train)))
        return self.val(layout.val, training.classes or ())

    def training_table(self, path: Path, split_seed: int) -> PhotoSet:
        """The training and test images of a table."""
        samples, test = self._table(path)
        samples = self._require_two_classes(samples)
        if not test.any():
            return split_train_val(samples, split_seed)
        trained, tested = (np.unique(samples.labels[which]) for which in (~test, test))
        untrained = sorted({*tested.tolist()} - {*trained.tolist()})
        if untrained:
            name = (samples.classes or ())[untrained[0]]
            raise UserError(f"lists class {name!r} to test on, but not to train on", str(path))
        train, val = (Subset(samples, np.flatnonzero(which)) for which in (~test, test))
        return PhotoSet(train, val)

    def class_folders(self, root: Path) -> ImageFolder:
        """The images of class folders, without those in quarantine."""
        tree = FileTree(root)
        names: list[str] = []
        labels: list[int] = []
        numbers: dict[str, int] = {}  # by composed names: two spellings may be one class
        classes: list[str] = []
        lost: list[str] = []
        for folder in tree.class_folders():
            if composed(folder) not in numbers:
                numbers[composed(folder)] = len(classes)
                classes.append(folder)
            else:
                self.note(f"two folders, in two Unicode forms, are one class: {folder}")
            before, files = len(names), tree.files_left_out
            names += tree.images(folder)
            labels += [numbers[composed(folder)]] * (len(names) - before)
            if len(names) == before and tree.files_left_out > files:
                lost.append(folder)
        if lost:
            line = (
                f"no images in {listed(lost)}: all their files are left out; these are no classes"
            )
            self.note(line)
        self._note_similar(classes)
        self._left_out += tree.left_out
        samples = ImageFolder(root, names, labels, tuple(classes))
        return self._without_quarantined(samples)

    def val(self, root: Path, classes: tuple[str, ...]) -> Samples:
        """The test images below `root`, with labels that number the training classes."""
        flat = flat_layout(root)
        if flat is not None:
            return self._flat_val(*flat, classes)
        samples = self._val_folders(root)
        own, known = samples.classes or (), {composed(name): n for n, name in enumerate(classes)}
        used = [own[label] for label in np.unique(samples.labels)]
        unknown = [name for name in used if composed(name) not in known]
        if unknown:
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise UserError(
                f"class {unknown[0]!r}{more} is not among the {len(classes)} training classes",
                str(root),
                _rename(unknown[0], classes)
                or "rename its folder, or add the class to the training images",
            )
        numbers = np.array([known.get(composed(name), -1) for name in own], np.int64)
        return samples.with_labels(numbers[samples.labels], classes)

    def listed(
        self,
        root: Path,
        label_file: Path,
        entries: Sequence[label_files.Entry[Any]],
        labels: list[int],
        classes: tuple[str, ...] | None,
    ) -> ImageFolder:
        """The images of a label file; raises `UserError` if one does not exist."""
        existing = {entry.name for entry in FileTree(root).entries()}
        for image, _, line, _ in entries:
            if image not in existing and not label_files.image_exists(root, image):
                location = f"{label_file}, line {line}"
                raise UserError(f"lists an image that does not exist: {image[:200]}", location)
        own = [entry.name for entry in FileTree(root).entries() if is_image(entry)]
        self._note_unlisted(label_file, len(set(own) - {entry.image for entry in entries}))
        names = [entry.image for entry in entries]
        samples = ImageFolder(root, names, labels, classes)
        return self._require_images(self._without_quarantined(samples))

    def _val_folders(self, root: Path) -> ImageFolder:
        return self._require_images(self.class_folders(root))

    def _flat_val(
        self, root: Path, label_file: Path, classes: tuple[str, ...] | None
    ) -> ImageFolder:
        """ImageNet's layout: a flat folder, and a file that gives the class of each image.

        `classes` are the training's; None for those that the file names.
        """
        files = [entry.name for entry in FileTree(root).entries()]
        entries = label_files.read_class_names(label_file, root, files)
        classes = classes or tuple(sorted({entry.label for entry in entries}))
        numbers = {composed(name): number for number, name in enumerate(classes)}
        for entry in entries:
            if composed(entry.label) not in numbers:
                raise UserError(
                    f"class {entry.label!r} is not among the {len(classes)} training classes",
                    f"{label_file}, line {entry.line}",
                    _rename(entry.label, classes),
                )
        labels = [numbers[composed(entry.label)] for entry in entries]
        return self.listed(root, label_file, entries, labels, classes)

    def _table(self, path: Path) -> tuple[ImageFolder, NDArray[np.bool_]]:
        """The images that a table lists, without those in quarantine, and which are to test on."""
        root = self.layout.data
        tree = FileTree(root, path.name)
        files = list(tree.images())
        self._left_out += tree.left_out
        names = label_files.FileNames(files, root, path.stem)
        entries, unused = label_files.read_table(path, names)
        if unused:
            self.note(f"left out: split test of {path.name}, as val holds the test images")
        classes = tuple(sorted({composed(entry.label) for entry in entries}))
        self._note_similar(classes)
        self._note_unlisted(path, len(files) - len(entries) - len(unused))
        numbers = {name: number for number, name in enumerate(classes)}
        labels = [numbers[composed(entry.label)] for entry in entries]
        samples = ImageFolder(root, [entry.image for entry in entries], labels, classes)
        keep = self._kept(samples)
        test = np.array([entry.tested for entry in entries], bool)
        return self._require_images(samples.where(keep, int((~keep).sum()))), test[keep]

    def _kept(self, samples: ImageFolder) -> NDArray[np.bool_]:
        """Which images are not in quarantine."""
        data = self.layout.data
        below = "" if samples.root == data else samples.root.relative_to(data).as_posix()
        paths = (joined(below, samples.name(index)) for index in range(len(samples)))
        return np.array([path not in self.quarantine for path in paths], bool)

    def _without_quarantined(self, samples: ImageFolder) -> ImageFolder:
        if not self.quarantine:
            return samples
        keep = self._kept(samples)
        return samples if keep.all() else samples.where(keep, int((~keep).sum()))

    def _note_similar(self, classes: Sequence[str]) -> None:
        """Note classes whose names look alike."""
        for _, _, line in pairs_alike(classes):
            self.note(line)

    def _note_unlisted(self, label_file: Path, images: int) -> None:
        if images:
            held = counted(images, "image")
            self.note(f"left out: {held} that {label_file.name} does not list")

    def _require_images(self, samples: ImageFolder) -> ImageFolder:
        if not len(samples):
            line = left_out_line(self._left_out)
            message = f"{NO_IMAGES} ({line})" if line else NO_IMAGES
            hint = hints.inside(samples.root) or CLASS_FOLDERS
            raise UserError(message, samples.location, hint)
        return samples

    def _require_two_classes(self, samples: ImageFolder) -> ImageFolder:
        """The samples without empty classes; raises `UserError` if fewer than two are left."""
        samples = _drop_empty_classes(self._require_images(samples))
        classes = samples.classes or ()
        if len(classes) < 2:
            raise UserError(
                f"only one class, {classes[0]!r}; a classifier needs two or more",
                samples.location,
                hints.inside(self.layout.data) or CLASS_FOLDERS,
            )
        return samples


def _rename(name: str, known: Sequence[str]) -> str:
    """A hint, if a class's name looks like another one."""
    other = similar(name, known)
    return f"it looks like {other!r}: give both the same name" if other else ""


def _drop_empty_classes(samples: ImageFolder) -> ImageFolder:
    classes = samples.classes or ()
    used = np.unique(samples.labels)
    if len(used) == len(classes):
        return samples
    return samples.with_labels(
        np.searchsorted(used, samples.labels), tuple(classes[i] for i in used)
    )
