"""One CSV with a line for each box: the image, the corners or a corner and the size, the class.

The columns are found by their headings, in upper or lower case. Coordinates are pixels from 0.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from resnets.data.boxes.annotations import Object
from resnets.data.boxes.files import Tree, read_text
from resnets.data.boxes.source import (
    Entry,
    NamedObject,
    OnFault,
    Part,
    corners,
    image_size,
    malformed,
    number_of_text,
    numbered,
    split_of,
)
from resnets.support.errors import UserError
from resnets.support.names import composed

NAME = "CSV"
_HEADINGS = {
    "image": ("filename", "file_name", "file", "image", "image_name", "image_path", "path",
              "image_id", "imageid"),
    "category": ("class", "label", "category", "class_name", "label_name", "labelname",
                 "category_name", "name"),
    "x1": ("xmin", "x1", "x_min", "left", "bbox_x", "x", "bbox_x1"),
    "y1": ("ymin", "y1", "y_min", "top", "bbox_y", "y", "bbox_y1"),
    "x2": ("xmax", "x2", "x_max", "right", "bbox_x2"),
    "y2": ("ymax", "y2", "y_max", "bottom", "bbox_y2"),
    "box_width": ("w", "bbox_width", "box_width", "bbox_w"),
    "box_height": ("h", "bbox_height", "box_height", "bbox_h"),
    "image_width": ("image_width", "img_width", "width"),
    "image_height": ("image_height", "img_height", "height"),
    "split": ("split", "set", "subset"),
}  # fmt: skip


def find(tree: Tree) -> list[str]:
    """The CSV files below a folder that have columns of boxes."""
    return [name for name in tree.files(".csv") if _is_table(tree, name)]


def _is_table(tree: Tree, name: str) -> bool:
    try:
        with tree.path(name).open(encoding="utf-8-sig", errors="replace") as file:
            line = file.readline(4096)
    except OSError:
        return False
    columns = _columns(next(csv.reader([line], delimiter=_delimiter(line)), []))
    return {"image", "x1", "y1"} <= columns.keys()


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _columns(headings: list[str]) -> dict[str, int]:
    """The position of each column that is known."""
    lower = [heading.strip().lower() for heading in headings]
    found = {}
    for column, names in _HEADINGS.items():
        position = next((lower.index(name) for name in names if name in lower), None)
        if position is not None:
            found[column] = position
    if "x2" not in found and "box_width" not in found:  # then "width" is the box's
        for side in ("width", "height"):
            if side in lower:
                found[f"box_{side}"] = lower.index(side)
                if found.get(f"image_{side}") == lower.index(side):
                    del found[f"image_{side}"]
    return found


def read(tree: Tree, names: list[str], on_fault: OnFault) -> list[Part]:
    """Read the files: one, or one for each split.

    Raises:
        UserError: if there are two for a split, or one is malformed as a whole.
    """
    parts: list[Part] = []
    for name in names:
        for part in _Table(tree, name, on_fault).parts():
            if any(other.split == part.split for other in parts):
                raise UserError(
                    f"two tables of boxes for the same split: {names[0]} and {name}",
                    str(tree.root),
                    "keep one, or name them after their splits: train, val, test",
                )
            parts.append(part)
    return parts


class _Table:
    """One CSV file."""

    def __init__(self, tree: Tree, name: str, on_fault: OnFault) -> None:
        self.tree, self.name, self.on_fault = tree, name, on_fault
        self.location = str(tree.path(name))
        self.columns: dict[str, int] = {}
        self._width = 0  # number of headings

    def parts(self) -> list[Part]:
        images: dict[str | None, dict[str, tuple[Entry, list[NamedObject]]]] = {}
        corner_values: list[float] = []
        for cells, location in self._lines():
            try:
                split, entry, found = self._row(cells, location)
            except UserError as error:
                self.on_fault(error)
                continue
            members = images.setdefault(split, {})
            first, objects = members.setdefault(composed(entry.image), (entry, []))
            if first.size != entry.size:
                message = f"the size of {entry.image} is not that of an earlier line"
                self.on_fault(malformed(message, location))
            elif found is not None:
                objects.append(found)
                corner_values += found.object.box
        if corner_values and max(corner_values) <= 1:
            raise malformed(
                "all coordinates are at most 1",
                self.location,
                "give pixels, not fractions of the image",
            )
        return [numbered(m.values(), split, self.location) for split, m in images.items()]

    def _lines(self) -> Iterator[tuple[list[str], str]]:
        """The lines after the headings and where they are."""
        text = read_text(self.tree.path(self.name))
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text.split("\n")[0]))
        try:
            headings = next(rows)
            self.columns, self._width = _columns(headings), len(headings)
            self._require_columns()
            self._refuse_repeated([heading.strip().lower() for heading in headings])
            for cells in rows:
                if any(cell.strip() for cell in cells):
                    yield cells, f"{self.location}, line {rows.line_num}"
        except csv.Error as error:
            location = f"{self.location}, line {rows.line_num}"
            raise malformed(f"cannot be read ({error})", location) from error

    def _require_columns(self) -> None:
        ends = {"x2", "y2"} if "x2" in self.columns else {"box_width", "box_height"}
        for column in sorted(ends | {"category"}):
            if column not in self.columns:
                names = ", ".join(_HEADINGS[column][:4])
                message = f"has no column for the {column.replace('_', ' ')} of a box"
                raise malformed(message, self.location, f"call it one of {names}")

    def _refuse_repeated(self, headings: list[str]) -> None:
        for position in self.columns.values():
            if headings.count(headings[position]) > 1:
                message = f"has two columns {headings[position]!r}"
                raise malformed(message, self.location, "remove or rename one of them")

    def _row(self, cells: list[str], location: str) -> tuple[str | None, Entry, NamedObject | None]:
        if any(cell.strip() for cell in cells[self._width :]):
            message = f"has {len(cells)} cells, but there are {self._width} headings"
            raise malformed(message, location, "put names with commas into quotes")
        row = {
            column: cells[position].strip() if position < len(cells) else ""
            for column, position in self.columns.items()
        }
        if not row["image"]:
            raise malformed("names no image", location)
        split = split_of(self.name)
        if row.get("split"):
            split = split_of(row["split"])
            if split is None:
                hint = "write train, val or test"
                raise malformed(f"{row['split']!r} is no split", location, hint)
        size = None
        if row.get("image_width") and row.get("image_height"):
            sides = (number_of_text(row[k], k, location) for k in ("image_width", "image_height"))
            size = image_size(sides, location)
        file = self.tree.image(row["image"], split, self.name)
        entry = Entry(file, row["image"], size, (), self.location)
        return split, entry, _box(row, location)


def _box(row: Mapping[str, Any], location: str) -> NamedObject | None:
    """The object of a row; None if an image without objects is listed by empty cells."""
    ends = ("x2", "y2") if "x2" in row else ("box_width", "box_height")
    values = [row[column] for column in ("x1", "y1", *ends)]
    if not any(values) and not row["category"]:
        return None
    if not row["category"]:
        raise malformed("has no class", location)
    numbers = [number_of_text(v, "a coordinate", location) for v in values]
    if "x2" not in row:
        numbers[2:] = [numbers[0] + numbers[2], numbers[1] + numbers[3]]
    x1, y1, x2, y2 = numbers
    return NamedObject(row["category"], Object(corners(x1, y1, x2, y2, location), 0))
