"""What is wrong with the segments of objects: polygons and run lengths."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from resnets.data.boxes.annotations import AnnotatedImage, Box, BoxSet, Object
from resnets.data.boxes.cleaning import fault_of_box
from resnets.data.boxes.segments import FEWEST_POINTS, has_segment, mask_of
from resnets.data.boxes.source import bounds
from resnets.doctor.report import Report

_BEYOND = 2.0  # pixels by which a segment may reach beyond its box: corners are often rounded
_SHOWN = 3


def check_segments(boxes: BoxSet, report: Report) -> None:
    """Check the segments of one split. Without any, masks are not meant to be trained."""
    if not any(has_segment(one) for image in boxes.images for one in image.objects):
        return
    for image in boxes.images:
        found: dict[str, list[Object]] = defaultdict(list)
        for one in image.objects:
            if not fault_of_box(one.box, image.width, image.height) and (
                kind := _fault(one, image, report)
            ):
                found[kind].append(one)
        for kind, objects in found.items():
            shown = ", ".join(
                f"{boxes.categories[one.category]} {' '.join(f'{side:g}' for side in one.box)}"
                for one in objects[:_SHOWN]
            )
            more = f" and {len(objects) - _SHOWN:,} more" if len(objects) > _SHOWN else ""
            report.add(kind, f"{shown}{more} (x1 y1 x2 y2)", image.name)


def _fault(one: Object, image: AnnotatedImage, report: Report) -> str | None:
    """The kind of fault of an object's segment; None if it has none, or is reported here."""
    if not has_segment(one):
        return "no-segment"
    if one.rle is not None:
        try:
            inner = _bounds_of_runs(one, image)
        except (ValueError, TypeError, LookupError) as error:
            report.add("box-file", f"a segmentation cannot be decoded ({error})", image.name)
            return None
    else:
        polygons = [np.array(polygon).reshape(-1, 2) for polygon in one.polygons or ()]
        if any(len(np.unique(polygon, axis=0)) < FEWEST_POINTS for polygon in polygons):
            return "few-points"
        inner = bounds([value for polygon in one.polygons or () for value in polygon])
    outer = (
        max(one.box[0], 0), max(one.box[1], 0),
        min(one.box[2], image.width), min(one.box[3], image.height),
    )  # fmt: skip
    beyond = max(outer[0] - inner[0], outer[1] - inner[1], inner[2] - outer[2], inner[3] - outer[3])
    return "outside-segment" if beyond > _BEYOND else None


def _bounds_of_runs(one: Object, image: AnnotatedImage) -> Box:
    """The smallest box around a mask; around an empty one its own."""
    size = image.width, image.height
    rows, columns = np.nonzero(mask_of(one, size, size))
    if not len(rows):
        return one.box
    return (
        float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1
    )  # fmt: skip
