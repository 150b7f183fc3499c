"""COCO's JSON: one file a split, with images, annotations and categories.

https://cocodataset.org/#format-data
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resnets.data.boxes.annotations import BoxSet, Object
from resnets.data.boxes.files import Tree, read_json
from resnets.data.boxes.source import (
    BoxError,
    Entry,
    OnFault,
    Part,
    corners,
    image_size,
    malformed,
    number,
    split_of,
)
from resnets.support.errors import UserError
from resnets.support.names import composed

NAME = "COCO JSON"
_OTHER_TASKS = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
"""Files that COCO distributes beside `instances_*.json`."""


def find(tree: Tree) -> list[str]:
    """The annotation files below a folder."""
    names = [name for name in tree.files(".json") if tree.json_kind(name) == "coco"]
    boxes = [n for n in names if not n.rpartition("/")[2].startswith(_OTHER_TASKS)]
    return boxes or names


def read(tree: Tree, names: list[str], on_fault: OnFault) -> list[Part]:
    """Read annotation files, one for each split.

    Raises:
        UserError: if there are two for a split, or one is malformed as a whole.
    """
    splits: dict[str | None, str] = {}
    for name in names:
        split = split_of(name)
        if split in splits:
            which = f"for {split}" if split else "without a split in their names"
            raise UserError(
                f"two annotation files {which}: {splits[split]} and {name}",
                str(tree.root),
                "keep one, or name them after their splits: train, val, test",
            )
        splits[split] = name
    return [_File(tree, name, split, on_fault).part() for split, name in splits.items()]


class _File:
    """One annotation file."""

    def __init__(self, tree: Tree, name: str, split: str | None, on_fault: OnFault) -> None:
        self.tree, self.name, self.split, self.on_fault = tree, name, split, on_fault
        self.path = tree.path(name)
        self.location = str(self.path)

    def part(self) -> Part:
        content = read_json(self.path)
        if not isinstance(content, dict):
            raise malformed("is not a JSON object with images and annotations", self.location)
        lists: list[list[Any]] = []
        for key in ("images", "annotations", "categories"):
            value = content.get(key)
            if not isinstance(value, list):
                message = f"{key!r} is not a list" if key in content else f"has no {key!r}"
                raise malformed(message, self.location, "is it COCO's format for instances?")
            lists.append(value)
        images, annotations, categories = lists
        ids = self._categories(categories)
        entries = self._images(images)
        objects: dict[int | str, list[Object]] = {one: [] for one in entries}
        for index, annotation in enumerate(annotations):
            try:
                image, found = self._annotation(annotation, index, ids, objects)
            except BoxError as error:
                self.on_fault(error)
            else:
                objects[image].append(found)
        done = [
            Entry(file, image, size, tuple(objects[one]), self.location, one)
            for one, (file, image, size) in entries.items()
        ]
        names = tuple(str(one["name"]) for one in categories)
        return Part(self.split, tuple(done), names, tuple(ids), self.location)

    def _categories(self, categories: list[Any]) -> dict[int, int]:
        """Each id with its index."""
        ids: dict[int, int] = {}
        names: set[str] = set()
        for index, one in enumerate(categories):
            location = f"{self.location}, categories[{index}]"
            if not isinstance(one, dict) or not isinstance(one.get("name"), str):
                raise malformed("has no name", location)
            if type(one.get("id")) is not int:
                raise malformed("has no id that is a whole number", location)
            if one["id"] in ids or composed(one["name"]) in names:
                raise malformed(f"category {one['name']!r}, id {one['id']}: again", location)
            ids[one["id"]] = index
            names.add(composed(one["name"]))
        return ids

    def _images(
        self, images: list[Any]
    ) -> dict[int | str, tuple[Path | None, str, tuple[int, int] | None]]:
        """Each id with the image's file, its name and its size."""
        found: dict[int | str, tuple[Path | None, str, tuple[int, int] | None]] = {}
        for index, one in enumerate(images):
            location = f"{self.location}, images[{index}]"
            try:
                if not isinstance(one, dict) or not isinstance(one.get("file_name"), str):
                    raise malformed("has no file_name", location)
                if type(one.get("id")) not in (int, str):
                    raise malformed("has no id that is a number or text", location)
                if one["id"] in found:
                    raise malformed(f"two images have the id {one['id']!r}", location)
                sides = [number(one.get(k) or 0, k, location) for k in ("width", "height")]
                size = image_size(sides, location)
                file = self.tree.image(one["file_name"], self.split, self.name)
            except UserError as error:
                self.on_fault(error)
            else:
                found[one["id"]] = (file, one["file_name"], size)
        return found

    def _annotation(
        self,
        one: Any,
        index: int,
        ids: dict[int, int],
        images: dict[int | str, list[Object]],
    ) -> tuple[int | str, Object]:
        """The image's id and the object."""
        location = f"{self.location}, annotations[{index}]"
        if not isinstance(one, dict):
            raise malformed("is not a JSON object", location)
        if "id" in one:
            location = f"{self.location}, annotation {one['id']}"
        image, category, box = (one.get(k) for k in ("image_id", "category_id", "bbox"))
        if type(image) not in (int, str) or image not in images:
            raise malformed(f"image_id {image!r} is not the id of an image", location)
        if type(category) is not int or category not in ids:
            message = f"category_id {category!r} is not the id of a category"
            raise BoxError("unknown-category", message, location)
        if not isinstance(box, list) or len(box) != 4:
            raise malformed("has no bbox of four numbers", location)
        x, y, width, height = (number(v, "a number of bbox", location) for v in box)
        polygons, rle = _segment(one.get("segmentation"), location)
        area = one.get("area")
        return image, Object(
            corners(x, y, x + width, y + height, location),
            ids[category],
            crowd=_flag(one, "iscrowd", location),
            difficult=_flag(one, "difficult", location),
            area=None if area is None else _area(area, location),
            polygons=polygons,
            rle=rle,
        )


def _flag(one: dict[str, Any], key: str, location: str) -> bool:
    value = one.get(key, 0)
    if value not in (0, 1):
        raise malformed(f"{key} is {value!r}, not 0 or 1", location)
    return bool(value)


def _area(value: Any, location: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e12:
        return float(value)
    raise malformed(f"area is {value!r}, not a number of pixels", location)


def _segment(
    value: Any, location: str
) -> tuple[tuple[tuple[float, ...], ...] | None, dict[str, Any] | None]:
    """Polygons, or a run-length encoding, or neither."""
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        if (
            not isinstance(size, list)
            or [type(side) for side in size] != [int, int]
            or not isinstance(counts, list | str)
        ):
            raise malformed("segmentation has no size and counts", location)
        return None, {"size": size, "counts": counts}
    if not value:
        return None, None
    if not isinstance(value, list) or not all(isinstance(p, list) for p in value):
        raise malformed("segmentation is no list of polygons", location)
    polygons = tuple(tuple(number(v, "a coordinate", location) for v in p) for p in value)
    if any(len(polygon) % 2 or len(polygon) < 6 for polygon in polygons):
        raise malformed("a polygon of segmentation has no three points x, y", location)
    return polygons, None


def to_json(boxes: BoxSet, file_names: list[str], *, segments: bool = True) -> dict[str, Any]:
    """A `BoxSet` as COCO's JSON.

    Ids are those of the source where every image has a whole number of its own, else 1, 2, ...
    An object of VOC keeps `difficult`, a key of ours.

    Args:
        boxes: the images.
        file_names: the name of each image's file.
        segments: whether to write polygons and run lengths.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    category_ids = boxes.category_ids or tuple(range(1, len(boxes.categories) + 1))
    for name, image, image_id in zip(file_names, boxes.images, image_ids(boxes), strict=True):
        images.append(
            {"id": image_id, "file_name": name, "width": image.width, "height": image.height}
        )
        for one in image.objects:
            x1, y1, x2, y2 = one.box
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": category_ids[one.category],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1) if one.area is None else one.area,
                "iscrowd": int(one.crowd),
            }
            if segments:
                polygons = [list(polygon) for polygon in one.polygons or ()]
                annotation["segmentation"] = one.rle or polygons
            annotations.append(annotation | ({"difficult": 1} if one.difficult else {}))
    categories = [
        {"id": number, "name": name}
        for number, name in zip(category_ids, boxes.categories, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def image_ids(boxes: BoxSet) -> list[int]:
    """COCO's id of each image: the source's if all are different whole numbers, else 1, 2, ..."""
    ids = [image.id for image in boxes.images]
    if all(type(one) is int for one in ids) and len(set(ids)) == len(ids):
        return [int(one) for one in ids if one is not None]
    return list(range(1, len(ids) + 1))
