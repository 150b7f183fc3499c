"""Box refinement (appendix B, after Gidaris and Komodakis): each box is pooled and scored anew.

"We pool a new feature from the regressed box and obtain a new classification score and a new
regressed box. We combine these 300 new predictions with the original 300 predictions.
Non-maximum suppression is applied on the union [...] followed by box voting."

A region has a box for each category, and one new prediction; the paper does not say of which box.
Here it is that of the best category.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import box_iou

from resnets.detection.regions import Found, Scored

VOTERS = 0.5
"""IoU from which on a candidate votes on a detection's box (Gidaris and Komodakis)."""


def refined(boxes: Tensor, score: Callable[[Tensor], Scored]) -> Scored:
    """The predictions for regions, followed by those for their regressed boxes.

    Args:
        boxes: regions (r, 4).
        score: pools and classifies regions.

    Returns:
        Boxes (2r, k, 4) and scores (2r, k).
    """
    first = score(boxes)
    second = score(regressed(first))
    return Scored(torch.cat((first.boxes, second.boxes)), torch.cat((first.scores, second.scores)))


def regressed(scored: Scored) -> Tensor:
    """The box (r, 4) of each region's best category."""
    best = scored.scores.argmax(1)
    return scored.boxes[torch.arange(len(best), device=best.device), best]


def vote(kept: Found, voters: Found) -> Found:
    """Detections whose boxes are the means of their category's candidates that overlap them.

    A candidate's weight is its score. Scores stay.

    Args:
        kept: after non-maximum suppression.
        voters: before it; those that were kept are among them.
    """
    if not len(kept.boxes):
        return kept
    near = box_iou(kept.boxes, voters.boxes) >= VOTERS
    same = kept.categories[:, None] == voters.categories
    weights = (near & same) * voters.scores
    with torch.autocast(weights.device.type, enabled=False):  # bf16 is too coarse for pixels
        boxes = (weights @ voters.boxes) / weights.sum(1, keepdim=True)
    return kept._replace(boxes=boxes)
