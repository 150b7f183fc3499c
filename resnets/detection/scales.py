"""Multi-scale testing (appendix B): regions pooled from two adjacent scales of an image pyramid.

Proposals are those of the detector's own scale. "RoI pooling and subsequent layers are performed
on the feature maps of these two scales, which are merged by maxout": the larger of both for each
element of the features in front of the siblings.

The paper does not say which scales a region has. In SPP-net it is the scale in which the region is
closest to 224 x 224 pixels, the size of the images that the network was trained on; here it is the
two between which this size lies, or the outermost two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def lower_scales(boxes: Tensor, size: float, scales: Sequence[int], wanted: float) -> Tensor:
    """The lower one of each region's two adjacent scales, int64 (r,), from 0 to scales - 2.

    Args:
        boxes: regions (r, 4), in pixels of the image whose shorter side is `size`.
        size: see `boxes`.
        scales: shorter sides of the pyramid, rising.
        wanted: root of a region's area, in pixels, at which two scales meet.
    """
    root = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    best = size * wanted / root.clamp(min=1e-6)
    sides = torch.tensor(scales, dtype=best.dtype, device=best.device)
    above = torch.searchsorted(sides, best, right=True)
    return (above - 1).clamp(0, len(scales) - 2)


def maxout(lower: Tensor, scales: int, features: Callable[[int, Tensor], Tensor]) -> Tensor:
    """The features of regions (r, C): the elementwise maximum of those of two scales.

    Args:
        lower: as from `lower_scales`.
        scales: number of scales.
        features: gives the features (n, C) of some regions, by their numbers (n,), in a scale.
    """
    merged: Tensor | None = None
    for scale in range(scales):
        rows = torch.nonzero((lower == scale) | (lower == scale - 1))[:, 0]
        if not len(rows) and (merged is not None or scale < scales - 1):
            continue
        found = features(scale, rows)
        if merged is None:
            merged = found.new_full((len(lower), found.shape[1]), -torch.inf)
        merged[rows] = torch.maximum(merged[rows], found)
    assert merged is not None
    return merged
