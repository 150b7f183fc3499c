"""Which anchors and regions are trained on: labels by IoU, and a random choice of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_area, box_iou

from resnets.data.boxes.batches import Target

BACKGROUND, UNUSED = 0, -1
"""Labels of boxes without an object, and of boxes that are not trained on."""
IGNORED_SHARE = 0.5
"""A box without an object is unused if more of its area lies on an ignored object."""


class Labels(NamedTuple):
    """What some boxes are trained for.

    Args:
        labels: int64 (r,): 1 + category, `BACKGROUND` or `UNUSED`.
        objects: float32 (r, 4): the boxes of their objects; of others any box.
        matches: int64 (r,): the numbers of their objects among those that are not ignored; of
            others any number.
    """

    labels: Tensor
    objects: Tensor
    matches: Tensor


def label_boxes(boxes: Tensor, target: Target, matcher: Matcher, lowest: float = 0.0) -> Labels:
    """Match boxes (r, 4) with an image's objects.

    Crowds and difficult objects are not matched; boxes on them are unused.

    Args:
        boxes: anchors or regions.
        target: the image's objects; without any, all boxes are background.
        matcher: its thresholds decide.
        lowest: background has at least this IoU with an object, in images with objects.
    """
    wanted, others = target.boxes[~target.ignore], target.boxes[target.ignore]
    labels = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    objects, numbers = torch.zeros_like(boxes), torch.zeros_like(labels)
    if len(wanted) and len(boxes):
        overlaps = box_iou(wanted, boxes)
        best, matches = overlaps.max(0)[0], matcher(overlaps)
        found = (matches >= 0) & (best > 0)  # an object that overlaps no box matches all of them
        numbers = matches.clamp(min=0)
        objects = wanted[numbers]
        categories = target.labels[~target.ignore][numbers]
        labels = torch.where(found, categories + 1, labels)
        between = matches == matcher.BETWEEN_THRESHOLDS
        labels[between | (~found & (best < lowest))] = UNUSED
    if len(others) and len(boxes):
        covered = _covered(boxes, others).amax(1) > IGNORED_SHARE
        labels[covered & (labels == BACKGROUND)] = UNUSED
    return Labels(labels, objects, numbers)


def _covered(boxes: Tensor, regions: Tensor) -> Tensor:
    """The share of each box's area that lies in each region, (boxes, regions)."""
    low = torch.maximum(boxes[:, None, :2], regions[:, :2])
    high = torch.minimum(boxes[:, None, 2:], regions[:, 2:])
    common = (high - low).clamp(min=0).prod(2)
    share: Tensor = common / box_area(boxes)[:, None].clamp(min=1e-6)
    return share


def choose(labels: Tensor, count: int, foreground: float, generator: torch.Generator) -> Tensor:
    """Indices of `count` boxes at most, objects first: at most the share `foreground` of them.

    Args:
        labels: as in `Labels`.
        generator: on the CPU; decides the choice.
    """
    objects = torch.nonzero(labels > BACKGROUND)[:, 0]
    others = torch.nonzero(labels == BACKGROUND)[:, 0]
    objects = _some(objects, int(count * foreground), generator)
    return torch.cat((objects, _some(others, count - len(objects), generator)))


def _some(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(indices), generator=generator)[:count]
    return indices[order.to(indices.device)]
