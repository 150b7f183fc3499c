"""labelme's JSON: one file an image, with shapes. https://github.com/wkentaro/labelme"""

from __future__ import annotations

import math
from typing import Any

from resnets.data.boxes.annotations import Box, Object
from resnets.data.boxes.files import Tree, read_json, stem_of
from resnets.data.boxes.per_image import image_of, read_by_image
from resnets.data.boxes.source import (
    Entry,
    NamedObject,
    OnFault,
    Part,
    bounds,
    image_size,
    malformed,
    number,
)
from resnets.support.errors import UserError

NAME = "labelme JSON"


def find(tree: Tree) -> list[str]:
    """The annotation files below a folder: every JSON in a folder in which one is labelme's."""
    kinds = {name: tree.json_kind(name) for name in tree.files(".json")}
    folders = {name.rpartition("/")[0] for name, kind in kinds.items() if kind == "labelme"}
    return [n for n, kind in kinds.items() if n.rpartition("/")[0] in folders and kind != "coco"]


def read(tree: Tree, names: list[str], on_fault: OnFault) -> list[Part]:
    """Read annotation files; splits are lists as VOC's, else folders."""
    return read_by_image(tree, names, on_fault, _read_file)


def _read_file(
    tree: Tree, name: str, split: str | None, on_fault: OnFault
) -> tuple[Entry, list[NamedObject]]:
    location = str(tree.path(name))
    content = read_json(tree.path(name))
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise malformed("has no list of shapes", location)
    stem = stem_of(name.rpartition("/")[2])
    image = content.get("imagePath") or stem
    if not isinstance(image, str):
        raise malformed("imagePath is no text", location)
    sides = (number(content.get(key) or 0, key, location) for key in ("imageWidth", "imageHeight"))
    size = image_size(sides, location)
    file = image_of(tree, name, image, split)
    objects = []
    for index, shape in enumerate(content["shapes"], 1):
        try:
            objects.append(_object(shape, f"{location}, shape {index}"))
        except UserError as error:
            on_fault(error)
    return Entry(file, image, size, (), location, stem), objects


def _object(shape: Any, location: str) -> NamedObject:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise malformed("has no label", location)
    points = shape.get("points")
    if not isinstance(points, list) or not all(
        isinstance(point, list) and len(point) == 2 for point in points
    ):
        raise malformed("points is no list of points x, y", location)
    outline = tuple(number(value, "a coordinate", location) for point in points for value in point)
    kind = shape.get("shape_type", "polygon")
    if kind == "polygon" and len(points) >= 3:
        return NamedObject(shape["label"], Object(bounds(outline), 0, polygons=(outline,)))
    if len(points) != 2 or kind not in ("rectangle", "circle", "mask"):
        raise malformed(
            f"a {kind} of {len(points)} points has no box",
            location,
            "draw rectangles, polygons, circles or masks",
        )
    box = _circle(outline) if kind == "circle" else bounds(outline)
    return NamedObject(shape["label"], Object(box, 0))


def _circle(outline: tuple[float, ...]) -> Box:
    """The box around a circle, of which the centre and a point are given."""
    x, y, edge_x, edge_y = outline
    radius = math.hypot(edge_x - x, edge_y - y)
    return x - radius, y - radius, x + radius, y + radius
