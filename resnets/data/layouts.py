"""The layout of a data folder: where its training and test images are, decided for all verbs.

A folder called train or test may be a split or a class. It is a split if it holds class folders,
or if a label file gives the classes of its images; else it is a class among the others. What
could be either is refused. `split_names` lists the names of splits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from resnets.data import label_files
from resnets.data.file_tree import FileTree, excluded, is_image
from resnets.data.split_names import means_a_split_alone, rank, split_of
from resnets.support.errors import UserError
from resnets.support.files import existing_folder
from resnets.support.names import listed, look_alike

GIVE_A_FOLDER = "give a folder of images"
NO_IMAGES = "no images in class folders"
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
            and a class, if images in `train` have no classes, or if it is unclear which of two
            levels of folders are the classes.
    """
    if label_files.is_table(folder):
        return Layout(folder.parent, table=folder)
    tree = _LenientTree(existing_folder(folder, GIVE_A_FOLDER))
    layout = _split_layout(tree, label_files.find_table(folder))
    if layout.train is None and layout.val is None and layout.table is None:
        _refuse_two_levels(tree)
    return layout


def _split_layout(tree: _LenientTree, table: Path | None) -> Layout:
    """The layout of a folder, as its names and its table say it."""
    folder, names = tree.folder, tree.folders()
    trains, vals = _named_like_splits(names)
    if not trains and not vals:
        return _without_splits(
            tree, [], [n for n in names if table and _has_images(tree, n)], table
        )
    others = [n for n in names if n not in (*trains, *vals) and _has_images(tree, n)]
    inner = {name: _undoubled(tree, name) for name in (*trains, *vals)}
    train = [name for name in trains if _has_classes(tree, inner[name])]
    found = bool(train) or not others
    val = [
        n for n in vals
        if _has_classes(tree, inner[n]) or (found and flat_layout(folder / inner[n]))
    ]  # fmt: skip
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
        train=folder / inner[train[0]] if train else None,
        val=folder / inner[val[0]] if val else None,
        notes=tuple(_unused(tree, others, vals, val)),
    )


def _named_like_splits(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of splits to train on, and to test on, the first one first.

    Names such as `dev` count only where there are both kinds.
    """
    trains = [name for name in names if split_of(name) == "train"]
    vals = sorted((name for name in names if split_of(name) in ("val", "test")), key=rank)
    if trains and vals:
        return trains, vals
    return [*filter(means_a_split_alone, trains)], [*filter(means_a_split_alone, vals)]


def _undoubled(tree: _LenientTree, name: str) -> str:
    """The innermost folder of a doubled split, such as Kaggle's `test_set/test_set`."""
    while not _any_own_image(tree.folder / name):
        names = tree.folders(name)
        if len(names) != 1 or names[0].lower() != Path(name).name.lower():
            break
        name = f"{name}/{names[0]}"
    return name


def _refuse_two_levels(tree: _LenientTree) -> None:
    """Raise `UserError` if the folders may be the classes, or the folders in each of them.

    So it is if two of them hold no images of their own, but folders of the same names, two or
    more: `fold1/cat`, `fold1/dog`, `fold2/cat`, `fold2/dog`. What lies in `train` is a class.
    """
    folder = tree.folder
    if split_of(Path(os.path.abspath(folder)).name):  # noqa: PTH100
        return
    inside: dict[str, dict[str, str]] = {}
    for name in tree.folders():
        inner = _undoubled(tree, name)
        if not _any_own_image(folder / inner):
            names = tree.folders(inner)
            if len(names) > 1:
                filled = (one for one in names if _has_images(tree, f"{inner}/{one}"))
                inside[name] = {look_alike(one): one for one in filled}
    for one, other in combinations(inside, 2):
        common = [name for key, name in inside[one].items() if key in inside[other]]
        if len(common) < 2:
            continue
        pair = listed((one, other))
        if all(map(split_of, common)):
            raise UserError(
                f"{pair} hold splits: {listed(common)}",
                str(folder),
                f"put the classes into the splits, as {common[0]}/{one}",
            )
        raise UserError(
            f"{pair} hold the same folders, {listed(common)}: either level may be the classes",
            str(folder),
            f"if {pair} are splits or data sets, name them train and val, or give one of them; "
            f"if they are classes, move all classes into a folder called train",
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
        if len(names) != 1 or means_a_split_alone(names[0]) or label_files.find_any(folder):
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
    """Whether a folder holds an image, not counting those of its folders."""
    try:
        with os.scandir(folder) as entries:
            return any(excluded(entry) is None and is_image(entry) for entry in entries)
    except OSError:  # whoever lists it reports it
        return False
