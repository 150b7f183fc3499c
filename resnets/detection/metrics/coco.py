"""COCO's average precision and recall, by faster-coco-eval.

https://cocodataset.org/#detection-eval. Difficult objects, which COCO does not know, count as any
others; crowds are ignored as COCO says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnets.data.boxes.annotations import BoxSet
from resnets.data.boxes.coco import image_ids, to_json
from resnets.detection import mask_pixels
from resnets.detection.metrics.detections import Detections, checked

NUMBERS = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip
"""COCO's twelve numbers in its order: average precision at IoU 0.50:0.95, 0.50 and 0.75; of small
(below 32x32 pixels), medium and large (96x96 or more) objects; average recall with at most 1, 10
and 100 detections an image, and by size."""


MASK = "mask_"
"""Begins the names of the same numbers of masks."""
Kind = Literal["bbox", "segm"]
"""What overlaps: boxes or masks."""


@dataclass(frozen=True)
class CocoResult:
    """COCO's numbers, from 0 to 1.

    Args:
        numbers: the twelve of `NUMBERS`; None where there is no object to measure.
        categories: AP and AP50 of each category, by name; None likewise.
        precision: (10, 101, categories), the precision at IoU 0.50, 0.55, ... 0.95 and recall 0,
            0.01, ... 1; NaN for categories without objects.
    """

    numbers: dict[str, float | None]
    categories: dict[str, tuple[float | None, float | None]]
    precision: NDArray[np.float64]


def evaluate(boxes: BoxSet, detections: Sequence[Detections], kind: Kind = "bbox") -> CocoResult:
    """COCO's numbers for detections.

    Args:
        boxes: the test images.
        detections: what was found in each, in the order of `boxes`; the best 100 count.
        kind: what is compared; for masks all objects have segments, and all detections masks.

    Raises:
        ValueError: if the detections do not fit the images.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    checked(boxes, detections)
    names = [image.name for image in boxes.images]
    truth = COCO(to_json(boxes, names, segments=kind == "segm"))
    rows = results(boxes, detections)
    if kind == "segm":  # with a box it would take the box's area for the mask's
        rows = [{key: one[key] for key in one if key != "bbox"} for one in rows]
    found = truth.loadRes(rows)
    evaluation = COCOeval_faster(truth, found, kind, print_function=lambda *_: None)
    evaluation.run()
    numbers = {name: _measured(evaluation.stats[i]) for i, name in enumerate(NUMBERS)}
    ids = category_ids(boxes)
    order = [sorted(ids).index(one) for one in ids]  # it sorts categories by their ids
    precision = evaluation.eval["precision"][:, :, :, 0, 2][:, :, order].astype(np.float64)
    precision[precision < 0] = np.nan
    each = {
        name: (_mean(precision[:, :, i]), _mean(precision[:1, :, i]))
        for i, name in enumerate(boxes.categories)
    }
    return CocoResult(numbers, each, precision)


def _measured(value: Any) -> float | None:
    """None for COCO's -1."""
    return None if value < 0 else float(value)


def _mean(values: NDArray[np.float64]) -> float | None:
    return None if np.isnan(values).all() else float(values.mean())


def category_ids(boxes: BoxSet) -> tuple[int, ...]:
    """COCO's id of each category: the source's, else 1, 2, ..."""
    return boxes.category_ids or tuple(range(1, len(boxes.categories) + 1))


def results(boxes: BoxSet, detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Detections in COCO's format for results, with the ids of the source.

    Returns:
        For each detection `image_id`, `category_id`, `bbox` (x, y, width, height) and `score`;
        with masks also `segmentation`, run lengths.
    """
    ids = category_ids(boxes)
    found = []
    for image, image_id, one in zip(boxes.images, image_ids(boxes), detections, strict=True):
        segments = segmentations(one, image.width, image.height)
        corners = one.boxes.astype(np.float64)
        sizes = corners[:, 2:] - corners[:, :2]
        rows = np.concatenate([corners[:, :2], sizes], 1).tolist()
        for box, score, category, segment in zip(
            rows, one.scores.tolist(), one.categories.tolist(), segments, strict=True
        ):
            found.append(
                {
                    "image_id": image_id,
                    "category_id": ids[category],
                    "bbox": box,
                    "score": score,
                    **({} if segment is None else {"segmentation": segment}),
                }
            )
    return found


def segmentations(found: Detections, width: int, height: int) -> list[dict[str, Any] | None]:
    """The mask of each detection in COCO's run lengths; None for each without masks.

    Args:
        found: the detections of an image.
        width, height: of the image.
    """
    if found.masks is None:
        return [None] * len(found)
    if found.masks.dtype == object:
        return list(found.masks)
    return [
        mask_pixels.encoded(cells, box, width, height)
        for cells, box in zip(found.masks, found.boxes.tolist(), strict=True)
    ]
