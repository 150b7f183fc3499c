"""Files that list the class of each image of a flat folder."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from resnets.data.images import has_image_ending
from resnets.support.errors import UserError

CLASS_INDEX_FILE = "labels.tsv"
"""Columns `file` and `class_index`: the index of a model's output."""

CLASS_NAME_FILES = (
    "val_annotations.txt",
    "LOC_val_solution.csv",
    "val_map.txt",
    "val_labels.txt",
    "labels.txt",
    "labels.csv",
    "ILSVRC2012_validation_synsets.txt",
)
"""Files with two columns (image, class), separated by tabs, commas or blanks, or with one column:
the classes in the order of the sorted images."""

MAX_CLASSES = 1_000_000

_HEADINGS = ("imageid", "image_id", "id", "file", "image", "filename", "path", "name")
_CLASS_AND_BOXES = re.compile(r"\S+( \d+){4}( \S+( \d+){4})*")

Label = TypeVar("Label", str, int)


class Entry(NamedTuple, Generic[Label]):
    """One line of a label file.

    Args:
        image: the image's path below its folder.
        label: the name of its class, or the index of a model's output.
        line: the line's number, from 1.
    """

    image: str
    label: Label
    line: int


def find_class_indices(folder: Path) -> Path | None:
    """The file `labels.tsv` in `folder`, if there is one."""
    return _first_file([folder / CLASS_INDEX_FILE])


def find_class_names(folder: Path) -> Path | None:
    """The first of `CLASS_NAME_FILES` in `folder` or in its parent folder."""
    return _first_file(p / name for p in (folder, folder.parent) for name in CLASS_NAME_FILES)


def _first_file(paths: Iterable[Path]) -> Path | None:
    return next((p for p in paths if os.path.isfile(p)), None)  # noqa: PTH113 (never raises)


def image_exists(folder: Path, name: str) -> bool:
    """Whether a listed image exists; false for names that the system refuses."""
    try:
        return (folder / name).exists()
    except (OSError, ValueError):
        return False


def read_class_indices(path: Path) -> list[Entry[int]]:
    """The images of a `labels.tsv` with the indices of their classes.

    Raises:
        UserError: if the file cannot be read, a column is missing, a class index is not a number
            from 0 to `MAX_CLASSES`, or an image is listed twice.
    """
    text = io.StringIO(_read(path, newline=""), newline="")
    rows = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        for column in ("file", "class_index"):
            if column not in (rows.fieldnames or ()):
                raise UserError(f"has no column {column!r}", str(path))
        entries = [_class_index(row, path, rows.line_num) for row in rows]
    except csv.Error as error:  # a cell of more than 128 kB
        location = f"{path}, line {rows.reader.line_num}"
        raise UserError(f"cannot be read ({error})", location) from error
    _check(entries, path)
    return entries


def _class_index(row: dict[str | Any, str | Any], path: Path, line: int) -> Entry[int]:
    name, text, location = row["file"], row["class_index"], f"{path}, line {line}"
    try:
        index = int(text)
    except (TypeError, ValueError) as error:
        raise UserError(f"{text!r} is not a class index", location) from error
    if index < 0:
        raise UserError(f"class index {index} is negative", location)
    if index > MAX_CLASSES:
        raise UserError(f"class index {index} is too large", location)
    if not name:
        raise UserError("the column 'file' is empty", location)
    return Entry(name, index, line)


def read_class_names(path: Path, files: Iterable[str]) -> list[Entry[str]]:
    """The images of one of `CLASS_NAME_FILES` with the names of their classes.

    Args:
        path: the label file.
        files: names of the files in the folder of the images.

    Raises:
        UserError: if the label file cannot be read, or lists no images, an image twice, or not
            as many classes as there are images.
    """
    files = [name for name in files if not name.startswith(".")]
    rows = []
    for line, row in enumerate(_read(path).split("\n"), 1):
        try:
            cells = _cells(row.rstrip("\r"))
        except csv.Error as error:
            raise UserError(f"cannot be read ({error})", f"{path}, line {line}") from error
        if cells and not (line == 1 and cells[0].lower() in _HEADINGS):
            rows.append((cells, line))
    if rows and all(len(cells) == 1 for cells, _ in rows):
        return _one_column(path, files, [(cells[0], line) for cells, line in rows])
    by_stem = {Path(name).stem: name for name in files}
    entries = []
    for cells, line in rows:
        if len(cells) < 2 or not cells[1]:
            raise UserError("needs an image and its class", f"{path}, line {line}")
        # Kaggle's file lists images without their extension.
        entries.append(Entry(by_stem.get(cells[0], cells[0]), cells[1], line))
    _check(entries, path)
    return entries


def _read(path: Path, newline: str | None = None) -> str:
    """The text of a file; names of images may have bytes that are not UTF-8."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", str(path)) from error


def _cells(row: str) -> list[str]:
    """The cells of a line, separated by tabs, else commas, else blanks."""
    if "\t" in row:
        return [cell.strip() for cell in row.split("\t")]
    if "," in row:
        cells = [cell.strip() for cell in next(csv.reader([row]))]
        # Kaggle's "id,class left top right bottom ..."; other class names may contain blanks.
        if len(cells) > 1 and _CLASS_AND_BOXES.fullmatch(cells[1]):
            cells[1] = cells[1].split()[0]
        return cells
    return row.split()


def _one_column(path: Path, files: list[str], rows: list[tuple[str, int]]) -> list[Entry[str]]:
    images = sorted(name for name in files if has_image_ending(name))
    if len(images) != len(rows):
        raise UserError(f"has {len(rows)} classes for {len(images)} images", str(path))
    return [Entry(image, name, line) for image, (name, line) in zip(images, rows, strict=True)]


def _check(entries: Sequence[Entry[Any]], path: Path) -> None:
    """Raise `UserError` if there are no entries, or two for one image."""
    if not entries:
        raise UserError("lists no images", str(path))
    first: dict[str, int] = {}
    for image, _, line in entries:
        if first.setdefault(image, line) != line:
            location = f"{path}, line {line}"
            raise UserError(f"lists {image} again, after line {first[image]}", location)
