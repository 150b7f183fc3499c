"""Files that say which class each image of a flat folder has."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnets.data.images import EXTENSIONS
from resnets.support.errors import UserError

NUMBERED = ("labels.tsv",)
"""Columns `file` and `class_index`: the number of a model's output."""

MOST_CLASSES = 1_000_000

MAPPINGS = (
    "val_annotations.txt",
    "LOC_val_solution.csv",
    "val_map.txt",
    "val_labels.txt",
    "labels.txt",
    "labels.csv",
    "ILSVRC2012_validation_synsets.txt",
)
"""Names of files that give a class folder's name for each image: two columns (image, class)
parted by tabs, commas or blanks, or one column of classes in the order of the sorted images."""

_HEADINGS = ("imageid", "image_id", "id", "file", "image", "filename", "path", "name")
_BOXES = re.compile(r"\S+( \d+){4}( \S+( \d+){4})*")


def find(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these files in `folder`, or beside it."""
    for place in (folder, folder.parent):
        for name in names:
            if (place / name).is_file() and (place == folder or names is MAPPINGS):
                return place / name
    return None


def read_numbers(path: Path) -> tuple[list[str], list[int], list[int]]:
    """Images, class numbers, and the lines on which they stand.

    Raises:
        UserError: if a column is missing, a class is no number or beyond `MOST_CLASSES`, or an
            image is listed twice.
    """
    names: list[str] = []
    numbers: list[int] = []
    lines: list[int] = []
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        for line, row in _rows(rows, path):
            try:
                number = int(row["class_index"])
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{row['class_index']!r} is not a class number", f"{path}, line {line}"
                ) from error
            if number < 0:
                raise UserError(f"class number {number} is negative", f"{path}, line {line}")
            if number > MOST_CLASSES:
                raise UserError(f"class number {number} is too large", f"{path}, line {line}")
            if not row["file"]:
                raise UserError("names no file", f"{path}, line {line}")
            names.append(row["file"])
            numbers.append(number)
            lines.append(line)
    if not names:
        raise UserError("lists no images", str(path))
    refuse_twice(path, names, lines)
    return names, numbers, lines


def _rows(
    rows: csv.DictReader[str], path: Path
) -> Iterator[tuple[int, dict[str | Any, str | Any]]]:
    """The rows with their lines; raises `UserError` if a column is missing or a cell endless."""
    try:
        for needed in ("file", "class_index"):
            if needed not in (rows.fieldnames or ()):
                raise UserError(f"has no column {needed!r}", str(path))
        for row in rows:
            yield rows.line_num, row
    except csv.Error as error:
        raise UserError(
            f"cannot be read ({error})", f"{path}, line {rows.reader.line_num}"
        ) from error


def is_there(folder: Path, name: str) -> bool:
    """Whether a listed image exists; no file has a name that the system refuses."""
    try:
        return (folder / name).exists()
    except (OSError, ValueError):
        return False


def read_classes(path: Path, folder: Path) -> tuple[list[str], list[str], list[int]]:
    """Images, their classes' names, and the lines on which they stand.

    Args:
        path: the mapping.
        folder: where the images lie.

    Raises:
        UserError: if the file lists nothing, an image twice, or not as many classes as there
            are images.
    """
    rows = []
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    for line, row in enumerate(text.split("\n"), 1):
        try:
            words = _columns(row.rstrip("\r"))
        except csv.Error as error:
            raise UserError(f"cannot be read ({error})", f"{path}, line {line}") from error
        if words and not (line == 1 and words[0].lower() in _HEADINGS):
            rows.append((words, line))
    if not rows:
        raise UserError("lists no images", str(path))
    if all(len(words) == 1 for words, _ in rows):
        return _in_order(path, folder, [(words[0], line) for words, line in rows])
    names, classes, lines = [], [], []
    with os.scandir(folder) as entries:
        images = {Path(e.name).stem: e.name for e in entries if not e.name.startswith(".")}
    for words, line in rows:
        if len(words) < 2 or not words[1]:
            raise UserError("needs an image and its class", f"{path}, line {line}")
        names.append(images.get(words[0], words[0]))  # Kaggle's file leaves the ending out
        classes.append(words[1])
        lines.append(line)
    refuse_twice(path, names, lines)
    return names, classes, lines


def _columns(row: str) -> list[str]:
    """The cells of a line parted by tabs, else commas, else blanks."""
    if "\t" in row:
        return [cell.strip() for cell in row.split("\t")]
    if "," in row:
        cells = [cell.strip() for cell in next(csv.reader([row]))]
        # Kaggle's "id,class left top right bottom ..."; other classes may hold blanks.
        if len(cells) > 1 and _BOXES.fullmatch(cells[1]):
            cells[1] = cells[1].split()[0]
        return cells
    return row.split()


def refuse_twice(path: Path, names: list[str], lines: list[int]) -> None:
    """Raise `UserError` if a name is listed twice."""
    first: dict[str, int] = {}
    for name, line in zip(names, lines, strict=True):
        if first.setdefault(name, line) != line:
            raise UserError(f"lists {name} again, after line {first[name]}", f"{path}, line {line}")


def _in_order(
    path: Path, folder: Path, rows: list[tuple[str, int]]
) -> tuple[list[str], list[str], list[int]]:
    with os.scandir(folder) as entries:
        images = sorted(
            e.name
            for e in entries
            if Path(e.name).suffix.lower() in EXTENSIONS and not e.name.startswith(".")
        )
    if len(images) != len(rows):
        raise UserError(f"has {len(rows)} classes for {len(images)} images", str(path))
    return images, [word for word, _ in rows], [line for _, line in rows]
