"""Small objects in large images: detections in overlapping tiles, merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.detection.metrics.detections import Detections, Floats, Thresholds, areas, overlaps

OVERLAP = 0.25
"""Share of a tile's side that its neighbour has, too."""
EDGE = 1.0
"""Pixels from a tile's edge within which a box counts as cut off by it."""
COVERED = 0.5
"""A box that was cut off is left out if a whole one has this share of it."""
Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of the whole image."""


def windows(width: int, height: int, side: int) -> list[Window]:
    """Square tiles that cover an image, row by row; smaller only where the image is."""
    return [
        (x, y, min(x + side, width), min(y + side, height))
        for y, x in product(_starts(height, side), _starts(width, side))
    ]


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin: evenly spread, overlapping by `OVERLAP` at least."""
    if length <= side:
        return [0]
    count = 1 + -(-(length - side) // max(1, int(side * (1 - OVERLAP))))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def detect(
    find: Callable[[Image.Image], Detections],
    image: Image.Image,
    side: int,
    thresholds: Thresholds,
) -> Detections:
    """Detections in tiles of an image and in the whole of it, merged.

    The whole image has the objects that are larger than a tile. Boxes that the edge of a tile cuts
    off are left out where a whole box of their category has most of them; the rest is merged by
    non-maximum suppression.

    Args:
        find: gives detections in an image or a part of one, in its pixels.
        image: upright RGB.
        side: of a tile, in pixels.
        thresholds: of the merged detections.
    """
    width, height = image.size
    tiles = windows(width, height, side)
    parts = [find(image)]
    cut = [np.zeros(len(parts[0]), bool)]
    for window in tiles if len(tiles) > 1 else ():
        found = find(image.crop(window))
        x, y, right, below = window
        boxes = found.boxes + np.array([x, y, x, y], np.float32)
        inner = np.array([x > 0, y > 0, right < width, below < height])
        at_edge = np.abs(boxes - np.array(window, np.float32)) <= EDGE
        cut.append((at_edge & inner).any(1))
        parts.append(replace(found, boxes=boxes))
    return _merged(_joined(parts), np.concatenate(cut), thresholds)


def _joined(parts: list[Detections]) -> Detections:
    masks = [one.masks for one in parts if one.masks is not None]
    return Detections(
        np.concatenate([one.boxes for one in parts]),
        np.concatenate([one.scores for one in parts]),
        np.concatenate([one.categories for one in parts]),
        np.concatenate(masks) if masks else None,
    )


def _merged(found: Detections, cut: NDArray[np.bool_], thresholds: Thresholds) -> Detections:
    kept = ~cut
    for at in np.flatnonzero(cut).tolist():
        whole = ~cut & (found.categories == found.categories[at])
        kept[at] = not _is_covered(found.boxes[at], found.boxes[whole])
    found = found.where(kept)
    found = found.best(len(found))
    left = np.ones(len(found), bool)
    for at in range(len(found)):  # greedy: the best suppresses those that it overlaps
        if left[at]:
            shared = overlaps(found.boxes[at : at + 1], found.boxes)[0]
            same = found.categories == found.categories[at]
            left[at + 1 :] &= ~(same & (shared > thresholds.nms))[at + 1 :]
    return found.where(left).best(thresholds.limit)


def _is_covered(box: Floats, others: Floats) -> bool:
    """Whether one of the other boxes has at least `COVERED` of this one."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0, None).prod(1)
    return bool((shared >= COVERED * areas(box[None])).any())
