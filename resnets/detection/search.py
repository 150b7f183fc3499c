"""The search of an image with improvements of appendix B, by one detector or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnets.data.boxes.batches import stack_padded
from resnets.data.boxes.rescaling import Rescaling
from resnets.detection import ensemble, refinement, scales
from resnets.detection.detector import BINS, Detector
from resnets.detection.ensemble import Member
from resnets.detection.improvements import Improvements
from resnets.detection.regions import Found, Scored, candidates, suppress
from resnets.models.batch_norm import evaluating

AT_A_TIME = 300
"""Regions that are computed at a time, which bounds the memory of ensembles."""


class _Map(NamedTuple):
    """The shared maps of an image, and its height and width in this scale."""

    maps: Tensor
    size: tuple[int, int]


class _MemberSearch:
    """A detector at work on one image.

    Args:
        member: the detector.
        image: upright RGB.
        sides: shorter sides for multi-scale testing, or none.
        device: where to compute.
    """

    def __init__(
        self, member: Member, image: Image.Image, sides: Sequence[int], device: torch.device
    ) -> None:
        self.detector: Detector = member.detector
        self._member, self._image, self._device = member, image, device
        own = self.detector.settings
        self.own = self._maps(own.size)
        self._sides = sides
        self._pyramid = [self.own if side == own.size else self._maps(side) for side in sides]

    def _maps(self, side: int) -> _Map:
        settings = self.detector.settings
        rescaling = Rescaling(settings.size, settings.max_size).at_side(side)
        pixels = np.asarray(rescaling.apply(self._image))
        batch = stack_padded([pixels], self._member.normalize, self._device, self.detector.stride)
        return _Map(self.detector.maps(batch), (pixels.shape[0], pixels.shape[1]))

    def proposals(self) -> Tensor:
        """Proposals (r, 4) in pixels of the image in the detector's own scale."""
        return self.detector.propose(self.own.maps, [self.own.size])[0]

    def score(self, boxes: Tensor) -> Scored:
        """Scores and boxes of regions (r, 4), in pixels of the detector's own scale."""
        parts = [
            self.detector.score(self._features(part), [part], [self.own.size])[0]
            for part in torch.split(boxes, AT_A_TIME)
        ]
        return Scored(
            torch.cat([one.boxes for one in parts]), torch.cat([one.scores for one in parts])
        )

    def _features(self, boxes: Tensor) -> Tensor:
        if not self._sides:
            return self.detector.features(self.own.maps, [boxes], [self.own.size])
        wanted = self.detector.stride * BINS  # where a bin is a cell of the map
        lower = scales.lower_scales(boxes, self.detector.settings.size, self._sides, wanted)

        def features(scale: int, rows: Tensor) -> Tensor:
            maps, size = self._pyramid[scale]
            return self.detector.features(maps, [between(boxes[rows], self.own.size, size)], [size])

        return scales.maxout(lower, len(self._sides), features)


def between(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Boxes (r, 4) of an image of height and width `old` in the same image of size `new`."""
    if old == new:
        return boxes
    factors = [new[1] / old[1], new[0] / old[0]] * 2
    return boxes * boxes.new_tensor(factors)


@torch.no_grad()
def search(
    members: Sequence[Member],
    image: Image.Image,
    improvements: Improvements,
    device: torch.device,
) -> tuple[Found, tuple[int, int]]:
    """Detections in an image.

    Args:
        members: the detectors, on `device`; the first one's settings say what stays.
        image: upright RGB, of any size.
        improvements: of the search.
        device: where to compute.

    Returns:
        Detections, and height and width of the scaled image in whose pixels they are.
    """
    settings = members[0].detector.settings
    with evaluating(*(one.detector for one in members)):
        searches = [_MemberSearch(one, image, improvements.scales, device) for one in members]
        size = searches[0].own.size
        proposals = [between(one.proposals(), one.own.size, size) for one in searches]

        def score(boxes: Tensor) -> Scored:
            found = []
            for one in searches:
                own = one.score(between(boxes, size, one.own.size))
                found.append(own._replace(boxes=between(own.boxes, one.own.size, size)))
            return ensemble.mean(found, [one.order for one in members])

        regions = torch.cat(proposals)
        scored = refinement.refined(regions, score) if improvements.refine else score(regions)
    found = candidates(scored, settings.score)
    kept = suppress(found, settings.nms, settings.detections)
    if improvements.refine:
        kept = refinement.vote(kept, found)
    # Masks are those of the first member in its own scale.
    return members[0].detector.with_masks([kept], searches[0].own.maps)[0], size
