"""The layout of a data folder: where its training and test images are, decided for all verbs.

A folder called train or test may be a split or a class. It is a split if it holds class folders,
or if a label file gives the classes of its images; else it is a class among the others. What
could be either is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resnets.data import label_files
from resnets.data.file_tree import FileTree, is_image
from resnets.support.errors import UserError
from resnets.support.files import existing_folder
from resnets.support.names import listed

TRAIN, VAL = ("train", "training"), ("val", "valid", "validation", "test")
"""Names of the folders with the training images and with the test images, in any letter case."""
GIVE_A_FOLDER = "give a folder of images"
CLASS_FOLDERS = "put the images of each class into a folder of its own"
_SHARDS = "shards.json"


@dataclass(frozen=True)
class Layout:
    """Where the images of a data folder are.

    Args:
        data: the data folder.
        train: the folder of the training images' class folders, if there is a split `train`.
        val: the folder of the test images, if there are any.
        table: a file that lists all images with their classes, instead of class folders.
        notes: what a user should know, a line each.
    """

    data: Path
    train: Path | None = None
    val: Path | None = None
    table: Path | None = None
    notes: tuple[str, ...] = ()


def find_layout(folder: Path) -> Layout:
    """The layout of a data folder, or of the folder of a file that lists images and classes.

    Raises:
        UserError: if `folder` is neither or cannot be read, if a folder in it could be both a split
            and a class, or if images in `train` have no classes.
    """
    if label_files.is_table(folder):
        return Layout(folder.parent, table=folder)
    tree = _LenientTree(existing_folder(folder, GIVE_A_FOLDER))
    names, table = tree.folders(), label_files.find_table(folder)
    trains, vals = ([n for n in names if n.lower() in known] for known in (TRAIN, VAL))
    vals.sort(key=lambda name: VAL.index(name.lower()))
    if not trains and not vals:
        return _without_splits(
            tree, [], [n for n in names if table and _has_images(tree, n)], table
        )
    others = [n for n in names if n not in (*trains, *vals) and _has_images(tree, n)]
    train = [name for name in trains if _has_classes(tree, name)]
    found = bool(train) or not others
    val = [n for n in vals if _has_classes(tree, n) or (found and flat_layout(folder / n))]
    if train and not val:  # an empty folder of test images is a fault
        val = [name for name in vals if not _has_images(tree, name)][:1]
    if len(train) > 1:
        raise UserError(f"both {listed(train)} hold class folders", str(folder), "keep one of them")
    if not train and not val:
        return _without_splits(tree, [n for n in (*trains, *vals) if _has_images(tree, n)], others,
                               table)  # fmt: skip
    if others and not (train and val):
        split = (*train, *val)[0]
        raise UserError(
            f"{split!r} may be a class or a split, as other folders hold images, too: "
            f"{listed(others)}",
            str(folder),
            f"rename {split!r}, or move the other folders away",
        )
    return Layout(
        folder,
        train=folder / train[0] if train else None,
        val=folder / val[0] if val else None,
        notes=tuple(_unused(tree, others, vals, val)),
    )


class _LenientTree(FileTree):
    """A tree in which a folder that cannot be read counts as empty; whoever lists it reports it."""

    def refuse(self, folder: str, reason: str) -> None:
        pass


def wrapped(folder: Path) -> Path:
    """The data folder in `folder` if it holds nothing else but a README and the like.

    One or more folders may lie around a data set. Without such a folder, `folder` itself.
    """
    while True:
        tree = _LenientTree(folder)
        names = tree.folders()
        if len(names) != 1 or names[0].lower() in TRAIN + VAL or label_files.find_any(folder):
            return folder
        inner = folder / names[0]
        holds_data = tree.folders(names[0]) or label_files.find_any(inner)
        if not (holds_data or (inner / _SHARDS).is_file()):
            return folder
        if any(map(_any_own_image, (folder, inner))) and not label_files.find_any(inner):
            return folder
        folder = inner


def flat_layout(root: Path) -> tuple[Path, Path] | None:
    """The folder of the images and the label file, if `root` is a flat folder with a label file.

    A folder with class folders is not flat, even if it contains a label file.
    """
    label_file = label_files.find_class_names(root)
    if label_file is None:
        return None
    if _any_own_image(root):
        return root, label_file
    # Tiny ImageNet:
    return (root / "images", label_file) if _LenientTree(root).folders() == ["images"] else None


def has_class_folders(root: Path) -> bool:
    """Whether any folder in `root` contains images."""
    tree = FileTree(root)
    return any(_has_images(tree, name) for name in tree.folders())


def _without_splits(
    tree: FileTree, flat: Sequence[str], others: Sequence[str], table: Path | None
) -> Layout:
    """The layout of a folder without splits.

    Args:
        tree: the folder.
        flat: names of its folders that are called like a split and hold images, but no classes.
        others: names of its other folders that hold images.
        table: a file that may list its images.
    """
    folder = tree.folder
    if table is not None:
        if len(others) <= 1 and not (flat and others):
            return Layout(folder, table=table)
        if table.name in label_files.TABLE_FILES:
            note = f"{table.name} is not used, as there are class folders; give its path to use it"
            return Layout(folder, notes=(note,))
    if not flat or (len(flat) == 1 and others):
        return Layout(folder)
    if others:
        message = f"{listed(flat)} may be classes or splits without class folders"
        raise UserError(message, str(folder), f"rename them, if {listed(others)} are classes, too")
    raise UserError(
        "contains images, but no class folders",
        str(folder / flat[0]),
        f"{CLASS_FOLDERS}, or list them with their classes in {folder / 'labels.csv'}",
    )


def _unused(
    tree: FileTree, others: Sequence[str], vals: Sequence[str], val: Sequence[str]
) -> list[str]:
    """Lines about the folders that are neither the training images nor the test images."""
    lines = [f"left out: the folders {listed(others)}, which are no splits"] if others else []
    for name in vals:
        if name in val[1:]:
            lines.append(f"left out: {name}, as {val[0]} holds the test images")
        elif name not in val and _has_images(tree, name):
            lines.append(f"left out: {name}, as its images have no labels")
    return lines


def _has_images(tree: FileTree, name: str) -> bool:
    return any(True for _ in tree.images(name))


def _has_classes(tree: FileTree, name: str) -> bool:
    """Whether a folder holds folders with images, other than a single `images`."""
    names = tree.folders(name)
    if names == ["images"]:
        return False
    return any(_has_images(tree, f"{name}/{one}") for one in names)


def _any_own_image(folder: Path) -> bool:
    return any(is_image(entry) for entry in _LenientTree(folder).entries())
