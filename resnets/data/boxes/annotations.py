"""Images with boxes: what every reader gives, and every writer, metric and detector takes.

Boxes are x1, y1, x2, y2 in pixels of the upright image, in continuous coordinates as COCO's: the
left edge of the first pixel is 0, its right edge 1, and the width is x2 - x1.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""


@dataclass(frozen=True)
class Object:
    """One annotated object.

    Args:
        box: x1, y1, x2, y2.
        category: index into the categories of its `BoxSet`, from 0; there is no background.
        crowd: COCO's `iscrowd`: a region with many objects, ignored in training.
        difficult: VOC's `difficult`: neither required nor counted as false.
        area: pixels of the segment, by which COCO sorts objects into sizes; None: the box's.
        polygons: outlines of the segment as x, y, x, y, ...
        rle: the segment in COCO's run-length encoding, `{"size": [height, width], "counts": ...}`.
    """

    box: Box
    category: int
    crowd: bool = False
    difficult: bool = False
    area: float | None = None
    polygons: tuple[tuple[float, ...], ...] | None = None
    rle: dict[str, Any] | None = None


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its objects.

    Args:
        path: the image's file.
        name: the file's path below its data folder, with forward slashes.
        width, height: pixels of the upright image, after its EXIF orientation.
        objects: its objects; may be empty.
        id: the source's id, which COCO results refer to.
    """

    path: Path
    name: str
    width: int
    height: int
    objects: tuple[Object, ...]
    id: int | str | None = None


@dataclass(frozen=True)
class BoxSet:
    """The images of one split.

    Args:
        images: in a fixed order.
        categories: names of the categories.
        split: `train` or `test`.
        source: the format's name, such as "COCO JSON".
        category_ids: COCO's id of each category; None where the format has none.
    """

    images: tuple[AnnotatedImage, ...]
    categories: tuple[str, ...]
    split: str
    source: str
    category_ids: tuple[int, ...] | None = None

    @property
    def folder(self) -> Path:
        """The data folder; raises `IndexError` if there are no images."""
        first = self.images[0]
        return first.path.parents[first.name.count("/")]

    def __len__(self) -> int:
        return len(self.images)


def fingerprint(boxes: BoxSet, segments: bool = False) -> str:
    """A hash of the images' names and sizes, of their objects and, if wanted, of their segments."""
    digest = hashlib.sha256(json.dumps(boxes.categories).encode())
    for image in boxes.images:
        facts: list[Any] = [
            (one.box, one.category, one.crowd, one.difficult) for one in image.objects
        ]
        facts += [(one.polygons, one.rle) for one in image.objects if segments]
        digest.update(json.dumps([image.name, image.width, image.height, facts]).encode())
    return digest.hexdigest()[:16]
