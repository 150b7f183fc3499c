"""Tiny ImageNet's boxes as one table, `boxes.tsv`: a line for each image of a folder of classes.

Its columns are split, wnid, file, x0, y0, x1, y1; the image is `split/wnid/file`. Corners count
pixels from 0 and belong to the box, so that in continuous coordinates it is x0, y0, x1 + 1, y1 + 1.
"""

from __future__ import annotations

from pathlib import Path

from resnets.data.boxes.annotations import Object
from resnets.data.boxes.files import Tree, read_text
from resnets.data.boxes.source import (
    Entry,
    NamedObject,
    OnFault,
    Part,
    corners,
    malformed,
    number_of_text,
    numbered,
    split_of,
)
from resnets.support.errors import UserError

NAME = "boxes.tsv"
COLUMNS = ("split", "wnid", "file", "x0", "y0", "x1", "y1")


def find(tree: Tree) -> list[str]:
    """The tables below a folder, by their name and headings."""
    return [n for n in tree.files(".tsv") if n.rpartition("/")[2] == NAME and _fits(tree.path(n))]


def _fits(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return tuple(file.readline(4096).split()) == COLUMNS
    except OSError:
        return False


def read(tree: Tree, names: list[str], on_fault: OnFault) -> list[Part]:
    """Read the table.

    Raises:
        UserError: if there are two.
    """
    if len(names) > 1:
        message = f"two tables of boxes: {names[0]} and {names[1]}"
        raise UserError(message, str(tree.root), "keep one of them")
    (name,) = names
    location, images = str(tree.path(name)), set(tree.images)
    found: dict[str, dict[str, tuple[Entry, list[NamedObject]]]] = {}
    for line, text in enumerate(read_text(tree.path(name)).splitlines()[1:], 2):
        if not text.strip():
            continue
        try:
            split, image, one = _row(text, f"{location}, line {line}")
        except UserError as error:
            on_fault(error)
            continue
        below = f"{name.removesuffix(NAME)}{image}"
        file = tree.path(below) if below in images else None
        first = Entry(file, image, None, (), location)
        found.setdefault(split, {}).setdefault(image, (first, []))[1].append(one)
    return [numbered(entries.values(), split, location) for split, entries in found.items()]


def _row(text: str, location: str) -> tuple[str, str, NamedObject]:
    """Split, image and object of a line."""
    cells = [cell.strip() for cell in text.split("\t")]
    if len(cells) != len(COLUMNS) or not all(cells):
        message = f"has {sum(map(bool, cells))} cells instead of {len(COLUMNS)}"
        raise malformed(message, location, f"the columns are {', '.join(COLUMNS)}")
    folder, wnid, file, *ends = cells
    split = split_of(folder)
    if split is None:
        raise malformed(f"{folder!r} is no split", location, "write train, val or test")
    x0, y0, x1, y1 = (
        number_of_text(end, key, location) for end, key in zip(ends, COLUMNS[3:], strict=True)
    )
    box = corners(x0, y0, x1 + 1, y1 + 1, location)
    return split, f"{folder}/{wnid}/{file}", NamedObject(wnid, Object(box, 0))
