"""Everything that is measured of a detector on test images, as one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from resnets.data.boxes.annotations import BoxSet
from resnets.data.boxes.segments import without_segment
from resnets.detection.metrics import coco, errors, intervals, pairing, voc
from resnets.detection.metrics.detections import Detections
from resnets.detection.metrics.errors import ErrorReport
from resnets.detection.metrics.intervals import Intervals
from resnets.detection.metrics.matching import RECALLS
from resnets.support.errors import UserError, nearest
from resnets.support.names import composed, listed

Metric = Literal["coco", "voc07", "voc12"]
METRICS: tuple[Metric, ...] = get_args(Metric)
YEARS: dict[str, voc.Year] = {"voc07": 2007, "voc12": 2012}


@dataclass(frozen=True)
class CategoryResult:
    """What is measured of one category.

    Args:
        name: of the category.
        objects: that count, in the test images.
        precision: its average precision by name (`AP` and `AP50`, likewise of masks, or `AP`), from
            0 to 1; None without objects.
        curve: of boxes: precision at recall 0, 0.01, ... 1, at IoU 0.5; None without objects.
    """

    name: str
    objects: int
    precision: dict[str, float | None]
    curve: NDArray[np.float64] | None


@dataclass(frozen=True)
class Evaluation:
    """The result of a test.

    Args:
        metric: whose rules were applied.
        images: number of test images.
        numbers: of the metric by name, from 0 to 1; None where there is no object. If masks were
            found in images with segments, COCO's of masks follow as `mask_AP` and so on.
        intervals: 95 % intervals of some of them, none of masks.
        categories: each category.
        errors: false detections and missed objects by type.
        confusion: as from `pairing.confusion`.
    """

    metric: Metric
    images: int
    numbers: dict[str, float | None]
    intervals: Intervals
    categories: list[CategoryResult]
    errors: ErrorReport
    confusion: NDArray[np.int64]

    @property
    def headline(self) -> str:
        """The name of the number that stands for all."""
        return next(iter(self.numbers))

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON; precisions in percent."""
        return {
            "metric": self.metric,
            "images": self.images,
            **{name: _percent(value) for name, value in self.numbers.items()},
            "intervals": {
                name: [_percent(end) for end in ends] for name, ends in self.intervals.items()
            },
            "categories": [
                {
                    "category": one.name,
                    "objects": one.objects,
                    **{key: _percent(value) for key, value in one.precision.items()},
                }
                for one in self.categories
            ],
            "errors": {kind: self.errors.counts[kind] for kind in errors.TYPES},
            "gains_AP50": {kind: _percent(gain) for kind, gain in self.errors.gains.items()},
            "errors_by_size": {
                size: {kind: counts[kind] for kind in errors.TYPES}
                for size, counts in self.errors.by_size.items()
            },
            "confusion": self.confusion.tolist(),
        }


def _percent(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(100 * value, 3)


def check_metric(name: str) -> Metric:
    """The metric of this name; raises `UserError` if there is none."""
    for metric in METRICS:
        if name == metric:
            return metric
    raise UserError(f"unknown metric {name!r}", "--metric", nearest(name, METRICS))


def evaluate(boxes: BoxSet, detections: Sequence[Detections], metric: Metric) -> Evaluation:
    """Measure detections.

    Args:
        boxes: the test images.
        detections: what was found in each, in the order of `boxes`.
        metric: `coco`, or VOC's of 2007 or 2012.

    Raises:
        ValueError: if the detections do not fit the images.
    """
    if metric == "coco":
        measured, categories = _coco(boxes, detections)
        ends = intervals.bootstrap(boxes, detections)
    else:
        measured, categories = _voc(boxes, detections, YEARS[metric])
        ends = intervals.bootstrap_voc(boxes, detections, YEARS[metric])
    return Evaluation(
        metric,
        len(boxes),
        measured,
        ends,
        categories,
        errors.evaluate(boxes, detections),
        pairing.confusion(boxes, detections),
    )


def _coco(
    boxes: BoxSet, detections: Sequence[Detections]
) -> tuple[dict[str, float | None], list[CategoryResult]]:
    result = coco.evaluate(boxes, detections)
    categories = []
    for index, name in enumerate(boxes.categories):
        ap, ap50 = result.categories[name]
        curve = None if ap50 is None else result.precision[0, :, index]
        objects = _objects(boxes, index, difficult=True)
        categories.append(CategoryResult(name, objects, {"AP": ap, "AP50": ap50}, curve))
    if not masks_count(boxes, detections):
        return result.numbers, categories
    masks = coco.evaluate(boxes, detections, "segm")
    numbers = result.numbers | {f"{coco.MASK}{key}": one for key, one in masks.numbers.items()}
    for one in categories:
        ap, ap50 = masks.categories[one.name]
        one.precision.update({f"{coco.MASK}AP": ap, f"{coco.MASK}AP50": ap50})
    return numbers, categories


def masks_count(boxes: BoxSet, detections: Sequence[Detections]) -> bool:
    """Whether masks can be measured: all detections have some, and all objects segments."""
    found = all(one.masks is not None for one in detections)
    return found and not any(without_segment(boxes, ignored=True))


def _voc(
    boxes: BoxSet, detections: Sequence[Detections], year: voc.Year
) -> tuple[dict[str, float | None], list[CategoryResult]]:
    result = voc.evaluate(boxes, detections, year)
    categories = []
    for index, name in enumerate(boxes.categories):
        curve = _at_recalls(*result.curves[name]) if name in result.curves else None
        objects = _objects(boxes, index, difficult=False)
        precision = {"AP": result.categories[name]}
        categories.append(CategoryResult(name, objects, precision, curve))
    return {"mAP": result.map}, categories


def _objects(boxes: BoxSet, category: int, *, difficult: bool) -> int:
    """How many objects of a category are to be found."""
    return sum(
        one.category == category and not one.crowd and (difficult or not one.difficult)
        for image in boxes.images
        for one in image.objects
    )


def _at_recalls(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best precision at each of 101 recalls or a higher one."""
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return np.append(best, 0.0)[np.searchsorted(recall, RECALLS - 1e-12, side="left")]


def category_table(
    classes: Sequence[str], boxes: BoxSet, location: str
) -> tuple[NDArray[np.int64], list[str]]:
    """Which category of test images each category of a detector is, by name.

    Args:
        classes: the detector's categories.
        boxes: the test images.
        location: of the images, for the message.

    Returns:
        The index into `boxes.categories` of each, -1 for those that are not annotated; and the
        names of these.

    Raises:
        UserError: if the detector lacks a category of which there are objects.
    """
    known = {composed(name): index for index, name in enumerate(boxes.categories)}
    table = np.array([known.get(composed(name), -1) for name in classes], np.int64)
    used = {one.category for image in boxes.images for one in image.objects}
    missing = [boxes.categories[index] for index in sorted(used - set(table.tolist()))]
    if missing:
        message = f"the detector knows {listed(classes)}, not {listed(missing)}"
        hint = "train one on these images, or give the categories the same names"
        raise UserError(message, location, hint)
    return table, [name for name, index in zip(classes, table, strict=True) if index < 0]


def with_categories(found: Detections, table: NDArray[np.int64]) -> Detections:
    """Detections with the categories of `category_table`; others are left out."""
    numbers = table[found.categories] if len(found) else found.categories
    return replace(found, categories=numbers).where(numbers >= 0)
