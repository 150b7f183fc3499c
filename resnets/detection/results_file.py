"""Files of detections in COCO's format for results: written, and read to be measured.

https://cocodataset.org/#format-results: a list with `image_id`, `category_id`, `bbox` and `score`
of each detection, and `segmentation` of each mask. Files of ours also have `file_name` and
`category`, which come first where they are: ids differ between data sets, names do not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet
from resnets.data.boxes.coco import image_ids
from resnets.data.boxes.files import read_json, stem_of
from resnets.data.boxes.run_lengths import decode, encode
from resnets.data.boxes.source import malformed, number
from resnets.detection.metrics.coco import category_ids, results
from resnets.detection.metrics.detections import Detections
from resnets.support.errors import UserError, valid_utf8
from resnets.support.files import write_bytes

Row = tuple[float, float, float, float, float, int, Any]
"""x1, y1, x2, y2, score, category, run lengths or None."""


def write(path: Path, boxes: BoxSet, detections: Sequence[Detections]) -> None:
    """Write detections with the ids of the source of `boxes`, and with names.

    Raises:
        UserError: if the file cannot be written.
    """
    names = dict(zip(image_ids(boxes), (image.name for image in boxes.images), strict=True))
    categories = dict(zip(category_ids(boxes), boxes.categories, strict=True))
    rows = [
        {
            **one,
            "file_name": valid_utf8(names[one["image_id"]]),
            "category": valid_utf8(categories[one["category_id"]]),
        }
        for one in results(boxes, detections)
    ]
    text = ",\n".join(map(json.dumps, rows))
    write_bytes(path, f"[\n{text}\n]\n".encode() if rows else b"[]\n")


def file_id(name: str) -> int | str:
    """An id for an image without annotations: COCO's, which is its file's number, else its name."""
    stem = stem_of(name.replace("\\", "/").rpartition("/")[2])
    return int(stem) if stem.isascii() and stem.isdigit() else name


class Content(NamedTuple):
    """What a file has of some images.

    Args:
        detections: of each image, best first; with masks if all have one.
        left_out: how many in the file were left out because their image or category is, by its
            name, not one of the images'.
        unmasked: how many have no run lengths, although others have a segmentation; then no masks
            are given.
    """

    detections: list[Detections]
    left_out: int
    unmasked: int


def read(path: Path, boxes: BoxSet) -> Content:
    """The detections that a file has of some images.

    Args:
        path: a JSON file of results.
        boxes: the images; all of the data set, so that no id is unknown.

    Raises:
        UserError: if the file is malformed, an id is unknown, or nothing in it is of these images.
    """
    content = read_json(path)
    if not isinstance(content, list):
        hint = "write one with: resnets eval MODEL DATA --save-scores FILE.json"
        raise malformed("is not a list of detections, as COCO's results are", str(path), hint)
    found: list[list[Row]] = [[] for _ in boxes.images]
    lookup, left_out, segmented = _Lookup(boxes), 0, False
    for index, one in enumerate(content):
        location = f"{path}, [{index}]"
        if not isinstance(one, dict):
            raise malformed("is not a JSON object", location)
        image, category = lookup.image(one, location), lookup.category(one, location)
        box, score = one.get("bbox"), number(one.get("score"), "score", location)
        if not isinstance(box, list) or len(box) != 4:
            raise malformed("has no bbox of four numbers", location)
        x, y, width, height = (number(v, "a number of bbox", location) for v in box)
        if width < 0 or height < 0:
            raise malformed("has a bbox of negative size", location)
        if image is None or category is None:
            left_out += 1
        else:
            segmented = segmented or bool(one.get("segmentation"))
            segment = _segment(one.get("segmentation"), boxes.images[image], location)
            found[image].append((x, y, x + width, y + height, score, category, segment))
    if content and left_out == len(content):
        message = f"none of its {left_out:,} detections is of these images and categories"
        raise UserError(message, str(path), "are they of another data set?")
    unmasked = sum(row[-1] is None for rows in found for row in rows)
    masks = segmented and not unmasked
    detections = [_detections(rows, masks) for rows in found]
    return Content(detections, left_out, unmasked if segmented else 0)


def _segment(value: Any, image: AnnotatedImage, location: str) -> dict[str, Any] | None:
    """Run lengths of a mask, which is that of the image; None if there are none."""
    if not isinstance(value, dict):
        return None
    try:
        if value["size"] != [image.height, image.width]:
            raise ValueError("its size is not the image's")
        mask = decode(value)
    except (ValueError, TypeError, LookupError) as error:
        raise malformed(f"has a segmentation that cannot be decoded ({error})", location) from error
    return encode(mask)  # always compressed, as faster-coco-eval takes it


def _detections(rows: list[Row], masks: bool) -> Detections:
    values = np.array([row[:6] for row in rows], np.float64).reshape(-1, 6)
    segments = np.empty(len(rows), object)
    segments[:] = [row[6] for row in rows]
    made = Detections(
        values[:, :4].astype(np.float32),
        values[:, 4].astype(np.float32),
        values[:, 5].astype(np.int64),
        segments if masks else None,
    )
    return made.best(len(made))


class _Lookup:
    """Finds the numbers of images and categories by their names or ids."""

    def __init__(self, boxes: BoxSet) -> None:
        self._ids: dict[int | str, int] = {}
        self._names: dict[str, list[int]] = defaultdict(list)
        numbered = enumerate(zip(boxes.images, image_ids(boxes), strict=True))
        for index, (image, image_id) in numbered:
            self._ids[image_id] = index
            if isinstance(image.id, str):
                self._ids[image.id] = index
            self._names[valid_utf8(image.name.rpartition("/")[2])].append(index)
        self._paths = ["/" + valid_utf8(image.name) for image in boxes.images]
        ids = enumerate(category_ids(boxes))
        self._category_ids = {category_id: index for index, category_id in ids}
        names = enumerate(boxes.categories)
        self._categories = {valid_utf8(name): index for index, name in names}

    def image(self, one: dict[str, Any], location: str) -> int | None:
        """The image's number; None if no image has its name."""
        name = one.get("file_name")
        if isinstance(name, str):
            parts = name.replace("\\", "/").split("/")
            found = self._names.get(parts[-1], [])
            for depth in range(2, len(parts) + 1):
                if len(found) < 2:
                    break
                end = "/" + "/".join(parts[-depth:])
                found = [at for at in found if self._paths[at].endswith(end)] or found
            if len(found) > 1:
                raise malformed(f"several images are called {name}", location)
            return found[0] if found else None
        image_id = one.get("image_id")
        if type(image_id) not in (int, str) or image_id not in self._ids:
            raise malformed(f"image_id {image_id!r} is not the id of an image", location)
        return self._ids[image_id]

    def category(self, one: dict[str, Any], location: str) -> int | None:
        """The category's number; None if no category has its name."""
        name = one.get("category")
        if isinstance(name, str):
            return self._categories.get(name)
        category_id = one.get("category_id")
        if type(category_id) is not int or category_id not in self._category_ids:
            raise malformed(f"category_id {category_id!r} is not the id of a category", location)
        return self._category_ids[category_id]
