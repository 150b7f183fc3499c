"""Files that say which class each image of a flat folder has."""

from __future__ import annotations

import csv
from pathlib import Path

from resnets.data.images import EXTENSIONS
from resnets.support.errors import UserError

NUMBERED = ("labels.tsv",)
"""Columns `file` and `class_index`: the number of a model's output."""

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
parted by tabs, blanks or commas, or one column of classes in the order of the sorted images."""


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
        UserError: if a column is missing or a class is no number.
    """
    names: list[str] = []
    numbers: list[int] = []
    lines: list[int] = []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        for needed in ("file", "class_index"):
            if needed not in (rows.fieldnames or ()):
                raise UserError(f"has no column {needed!r}", str(path))
        for row in rows:
            line = rows.line_num
            try:
                number = int(row["class_index"])
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{row['class_index']!r} is not a class number", f"{path}, line {line}"
                ) from error
            if number < 0:
                raise UserError(f"class number {number} is negative", f"{path}, line {line}")
            names.append(row["file"])
            numbers.append(number)
            lines.append(line)
    if not names:
        raise UserError("lists no images", str(path))
    return names, numbers, lines


def read_classes(path: Path, folder: Path) -> tuple[list[str], list[str], list[int]]:
    """Images, their classes' names, and the lines on which they stand.

    Raises:
        UserError: if the file lists nothing, or not as many classes as there are images.
    """
    rows = []
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        words = text.replace(",", " ").split()
        if words and words[0] not in ("ImageId", "file", "image", "filename"):
            rows.append((words, line))
    if not rows:
        raise UserError("lists no images", str(path))
    if all(len(words) == 1 for words, _ in rows):
        return _in_order(path, folder, [(words[0], line) for words, line in rows])
    names, classes, lines = [], [], []
    images = {p.stem: p.name for p in folder.iterdir() if not p.name.startswith(".")}
    for words, line in rows:
        if len(words) < 2:
            raise UserError("needs an image and its class", f"{path}, line {line}")
        names.append(images.get(words[0], words[0]))  # Kaggle's file leaves the ending out
        classes.append(words[1])
        lines.append(line)
    return names, classes, lines


def _in_order(
    path: Path, folder: Path, rows: list[tuple[str, int]]
) -> tuple[list[str], list[str], list[int]]:
    images = sorted(
        p.name
        for p in folder.iterdir()
        if p.suffix.lower() in EXTENSIONS and not p.name.startswith(".")
    )
    if len(images) != len(rows):
        raise UserError(f"has {len(rows)} classes for {len(images)} images", str(path))
    return images, [word for word, _ in rows], [line for _, line in rows]
