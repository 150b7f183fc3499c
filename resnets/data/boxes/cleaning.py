"""Boxes that no training can use, left out and counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from resnets.data.boxes.annotations import Box, BoxSet, Object
from resnets.support.names import counted

SMALLEST_SIDE = 1.0
"""Pixels within the image that a box needs in each direction."""


@dataclass(frozen=True)
class Dropped:
    """A box that was left out.

    Args:
        image: the image's name.
        object: the object as it was annotated.
        reason: `empty` (no width or no height), `outside` the image, or `small`: less than
            `SMALLEST_SIDE` wide or high within the image.
    """

    image: str
    object: Object
    reason: str


def fault_of_box(box: Box, width: int, height: int) -> str | None:
    """Why a training cannot use a box; None if it can. See `Dropped.reason`."""
    x1, y1, x2, y2 = box
    if x2 <= x1 or y2 <= y1:
        return "empty"
    x1, y1, x2, y2 = clipped(box, width, height)
    if x2 <= x1 or y2 <= y1:
        return "outside"
    return "small" if min(x2 - x1, y2 - y1) < SMALLEST_SIDE else None


def clipped(box: Box, width: int, height: int) -> Box:
    """The part of a box within an image."""
    x1, y1, x2, y2 = box
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def clean(boxes: BoxSet) -> tuple[BoxSet, list[Dropped]]:
    """The images with boxes clipped to them, without boxes that a training cannot use.

    For training only: a test counts every object as it was annotated. Images that lose all their
    boxes stay.

    Returns:
        The clean set, and what was left out.
    """
    images, dropped = [], []
    for image in boxes.images:
        objects = []
        for one in image.objects:
            reason = fault_of_box(one.box, image.width, image.height)
            if reason:
                dropped.append(Dropped(image.name, one, reason))
            else:
                objects.append(replace(one, box=clipped(one.box, image.width, image.height)))
        images.append(replace(image, objects=tuple(objects)))
    return replace(boxes, images=tuple(images)), dropped


def summary(dropped: list[Dropped]) -> str:
    """One line: how many boxes were left out, why, and the first of them; empty for none."""
    if not dropped:
        return ""
    reasons = Counter(one.reason for one in dropped)
    counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    boxes = counted(len(dropped), "box", "boxes")
    return f"{boxes} left out ({counts}), the first in {dropped[0].image}"
