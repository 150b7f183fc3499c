"""Boxes in the frame of the upright image.

Images are always turned upright by their EXIF orientation. Boxes may have been drawn on the image
as it is stored, or on the upright one. Which, shows where the two differ in size: the annotation
file's width and height are those of one or of the other. Where the file has no size, and where
both have the same (a square, or a half turn), boxes are those of the upright image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from resnets.data.boxes.annotations import Object
from resnets.data.boxes.run_lengths import decode, encode
from resnets.data.boxes.source import BoxError, Entry, bounds, malformed
from resnets.data.images import Header


def upright_objects(entry: Entry, header: Header) -> tuple[Object, ...]:
    """The objects of an image in pixels of the upright image.

    Args:
        entry: the image by its annotation file.
        header: of the image's file.

    Raises:
        BoxError: if the file's size of the image is neither that of the stored image nor that of
            the upright one.
    """
    width, height = header.upright_size
    if entry.fractions:
        return tuple(_scaled(one, width, height) for one in entry.objects)
    if entry.size in (None, (width, height)):
        return entry.objects
    if entry.size == (header.width, header.height):
        return tuple(_turned(one, header, entry.location) for one in entry.objects)
    assert entry.size is not None
    raise BoxError(
        "image-size",
        f"{entry.image} is {entry.size[0]} x {entry.size[1]} by its annotations, "
        f"but {width} x {height} by its file",
        entry.location,
        "annotate the image as it is, or scale its boxes",
    )


def undecided(entry: Entry, header: Header) -> bool:
    """Whether it does not show which frame the boxes of a turned image have."""
    if header.orientation == 1 or not entry.objects or entry.fractions:
        return False
    return entry.size is None or (header.width, header.height) == header.upright_size


def _scaled(one: Object, width: int, height: int) -> Object:
    """An object in fractions of the image, in pixels."""
    x1, y1, x2, y2 = one.box
    polygons = None
    if one.polygons is not None:
        polygons = tuple(
            tuple(v * (height if i % 2 else width) for i, v in enumerate(polygon))
            for polygon in one.polygons
        )
    return replace(one, box=(x1 * width, y1 * height, x2 * width, y2 * height), polygons=polygons)


def _turned(one: Object, header: Header, location: str) -> Object:
    """An object of an image that is stored on its side, in the frame of the upright image.

    Raises:
        BoxError: if its run-length encoding is not that of an image of this size.
    """
    x1, y1, x2, y2 = one.box
    corners = _turn_points((x1, y1, x2, y2), header)
    polygons = rle = None
    if one.polygons is not None:
        polygons = tuple(_turn_points(polygon, header) for polygon in one.polygons)
    if one.rle is not None:
        try:
            if one.rle["size"] != [header.height, header.width]:
                raise ValueError("its size is not the image's")
            rle = _turn_mask(one.rle, header.orientation)
        except (ValueError, TypeError, LookupError) as error:
            raise malformed(f"a segmentation cannot be decoded ({error})", location) from error
    return replace(one, box=bounds(corners), polygons=polygons, rle=rle)


def _turn_points(outline: tuple[float, ...], header: Header) -> tuple[float, ...]:
    """Points x, y, x, y, ... of the stored image in the upright one; orientations 5 to 8."""
    points: list[float] = []
    for x, y in zip(outline[::2], outline[1::2], strict=True):
        right, down = header.height - y, header.width - x
        points += {5: (y, x), 6: (right, x), 7: (right, down), 8: (y, down)}[header.orientation]
    return tuple(points)


def _turn_mask(rle: dict[str, Any], orientation: int) -> dict[str, Any]:
    """A run-length encoding of the stored image as one of the upright image."""
    mask = decode(rle)
    quarters = {5: 0, 6: -1, 7: 2, 8: 1}[orientation]
    turned = np.rot90(mask, quarters)
    if orientation in (5, 7):
        turned = turned.T
    return encode(turned)
