"""The region head of Faster R-CNN: a network's last stage for every region (appendix A)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from resnets.data.boxes.batches import Target
from resnets.detection.proposals import BETA, NEW_STD
from resnets.detection.sampling import choose, label_boxes

OBJECT_IOU = 0.5
CODE_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Inverse deviations of the codes, by which they are normalised (Fast R-CNN)."""
BOX_STD = 0.001
SMALLEST = 1e-2


class RegionLabels(NamedTuple):
    """Regions that are trained on, as in `sampling.Labels`."""

    boxes: Tensor
    labels: Tensor
    objects: Tensor
    matches: Tensor


class Found(NamedTuple):
    """Detections in one image, best first: boxes (k, 4), scores (k,), categories (k,) from 0, and
    masks (k, 14, 14), the probability of the object in the cells of its box, if they are found."""

    boxes: Tensor
    scores: Tensor
    categories: Tensor
    masks: Tensor | None = None


class Scored(NamedTuple):
    """Regions of one image as they are classified: boxes (r, k, 4) and scores (r, k) for each
    category."""

    boxes: Tensor
    scores: Tensor


class Siblings(nn.Module):
    """The two layers after the last stage: probabilities of the categories, and their boxes.

    Args:
        channels: of the features of a region.
        categories: without the background.
    """

    def __init__(self, channels: int, categories: int) -> None:
        super().__init__()
        self.categories = nn.Linear(channels, 1 + categories)
        self.boxes = nn.Linear(channels, 4 * categories)
        self.coder = BoxCoder(CODE_WEIGHTS)
        self.matcher = Matcher(OBJECT_IOU, OBJECT_IOU)

    def reset_parameters(self) -> None:
        """Gaussian weights, no biases."""
        nn.init.normal_(self.categories.weight, std=NEW_STD)
        nn.init.normal_(self.boxes.weight, std=BOX_STD)
        for layer in (self.categories, self.boxes):
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(r, channels) to logits (r, 1 + categories), background first, and codes
        (r, categories, 4), float32."""
        codes = self.boxes(features).float()
        return self.categories(features).float(), codes.unflatten(1, (-1, 4))

    @torch.no_grad()
    def choose_regions(
        self,
        proposals: Tensor,
        target: Target,
        *,
        count: int,
        foreground: float,
        background: float,
        generator: torch.Generator,
    ) -> RegionLabels:
        """Regions to train on: of the proposals and the objects themselves.

        Args:
            proposals: (r, 4).
            target: the image's objects.
            count: regions at most.
            foreground: largest share of regions on objects.
            background: smallest IoU of the others with an object.
            generator: decides the choice.
        """
        boxes = torch.cat((proposals, target.boxes[~target.ignore]))
        labels, objects, matches = label_boxes(boxes, target, self.matcher, background)
        chosen = choose(labels, count, foreground, generator)
        return RegionLabels(boxes[chosen], labels[chosen], objects[chosen], matches[chosen])

    def loss(
        self, logits: Tensor, codes: Tensor, regions: RegionLabels, smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Losses of categories and boxes of one image, means over its regions."""
        share = max(1, len(logits))
        scores = F.cross_entropy(logits, regions.labels, reduction="sum", label_smoothing=smoothing)
        rows = torch.nonzero(regions.labels > 0)[:, 0]
        wanted = self.coder.encode_single(regions.objects[rows], regions.boxes[rows])
        own = codes[rows, regions.labels[rows] - 1]
        boxes = F.smooth_l1_loss(own, wanted, beta=BETA, reduction="sum")
        return scores / share, boxes / share

    @torch.no_grad()
    def score(
        self, logits: Tensor, codes: Tensor, proposals: Tensor, size: tuple[int, int]
    ) -> Scored:
        """Scores and boxes of regions.

        Args:
            logits, codes: of the proposals, as from `forward`.
            proposals: (r, 4).
            size: height and width of the image, to which boxes are clipped.
        """
        decoded = self.coder.decode_single(codes.flatten(1), proposals).view(*codes.shape)
        return Scored(clip_boxes_to_image(decoded, size), logits.softmax(1)[:, 1:])


@torch.no_grad()
def candidates(scored: Scored, score: float) -> Found:
    """All detections of an image, before non-maximum suppression, in no order.

    Args:
        scored: its regions.
        score: detections with a lower score are left out.
    """
    count = scored.scores.shape[1]
    boxes, scores = scored.boxes.reshape(-1, 4), scored.scores.flatten()
    categories = torch.arange(count, device=scores.device).repeat(len(scored.scores))
    kept = torch.nonzero(scores > score)[:, 0]
    kept = kept[remove_small_boxes(boxes[kept], SMALLEST)]
    return Found(boxes[kept], scores[kept], categories[kept])


@torch.no_grad()
def suppress(found: Found, overlap: float, most: int) -> Found:
    """The detections that non-maximum suppression leaves, best first.

    Args:
        found: as from `candidates`.
        overlap: IoU of two detections of a category above which the lower one is left out.
        most: number of detections.
    """
    best = batched_nms(found.boxes, found.scores, found.categories, overlap)[:most]
    return Found(found.boxes[best], found.scores[best], found.categories[best])
