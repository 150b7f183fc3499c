"""Formats with one annotation file an image: VOC and labelme."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from resnets.data.boxes.files import Tree, listed_names, lists, stem_of, without_ending
from resnets.data.boxes.source import (
    Entry,
    NamedObject,
    OnFault,
    Part,
    malformed,
    numbered,
    split_of_folder,
)
from resnets.support.errors import UserError
from resnets.support.names import composed

Reader = Callable[[Tree, str, str | None, OnFault], tuple[Entry, Sequence[NamedObject]]]
"""Reads one annotation file, given its name and split."""


def read_by_image(tree: Tree, names: list[str], on_fault: OnFault, reader: Reader) -> list[Part]:
    """Read the annotation files of a folder; splits are lists as VOC's, else folders.

    Args:
        tree: the data folder.
        names: its annotation files.
        on_fault: called with each fault.
        reader: reads one of them.
    """
    parts = []
    for split, members in _splits(tree, names, on_fault).items():
        entries = []
        for name in members:
            try:
                entries.append(reader(tree, name, split, on_fault))
            except UserError as error:
                on_fault(error)
        parts.append(numbered(entries, split, str(tree.path(members[0]).parent)))
    return parts


def image_of(tree: Tree, name: str, image: str, split: str | None) -> Path | None:
    """The image of an annotation file.

    It is named like the file. Of several (VOC has segments of the same name) the one counts that
    ends like the image that the file names. Only if there is none, the file names the image.

    Args:
        tree: the data folder.
        name: the annotation file.
        image: the image's name in the file; may be empty.
        split: of the file.

    Raises:
        UserError: if more than one image could be meant.
    """
    stem, ending = _stem(name), PurePosixPath(image.replace("\\", "/")).suffix
    for candidate in (f"{stem}{ending}", stem, image):
        if file := tree.image(candidate, split, name):
            return file
    return None


def _stem(name: str) -> str:
    return stem_of(name.rpartition("/")[2])


def _splits(tree: Tree, names: list[str], on_fault: OnFault) -> dict[str | None, list[str]]:
    """The annotation files of each split."""
    found: dict[str | None, list[str]] = {}
    listed = lists(tree)
    for split, files in listed.items():
        for file in files:
            root = file.removesuffix(f"{split}.txt").removesuffix("ImageSets/Main/")
            stems = {composed(_stem(name)): name for name in names if name.startswith(root)}
            for line in listed_names(tree.path(file)):
                stem = composed(line.replace("\\", "/").rpartition("/")[2])
                name = stems.get(stem) or stems.get(without_ending(stem))
                if name is not None:
                    found.setdefault(split, []).append(name)
                else:
                    message = f"lists {line!r}, for which there is no annotation file"
                    on_fault(malformed(message, str(tree.path(file))))
    if not listed:
        for name in names:
            found.setdefault(split_of_folder(name), []).append(name)
    return found
