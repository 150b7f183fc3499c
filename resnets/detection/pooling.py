"""Features of regions: RoIAlign and RoI pooling in front of a network's last stage.

RoIAlign is bilinear, so every bin is a weighted sum over rows and columns of the map, with
separate weights: two matrix products. They run in bf16, on all cores and on channels_last maps,
none of which torchvision's operator does on CPUs, and repeat bit for bit on GPUs. The results are
torchvision's (`aligned=False`: cell i of a map lies at pixel i * stride, which is where padded
convolutions put it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import roi_pool

SAMPLES = 2
"""Samples of RoIAlign along each side of a bin, as in torchvision's detectors."""
CHUNK = 64
"""Regions that are pooled at a time, which bounds the memory."""


def pool_regions(
    maps: Tensor,
    boxes: Sequence[Tensor],
    stride: int,
    bins: int,
    every: int = 1,
    kind: Literal["align", "max"] = "align",
) -> Tensor:
    """Features of regions.

    Args:
        maps: (n, C, H, W).
        boxes: for each image its regions (r, 4), in pixels of the image.
        stride: pixels between the cells of a map.
        bins: along each side of a region.
        every: only every such bin along each side is computed, from the first.
        kind: the operator.

    Returns:
        (regions of all images, C, b, b) with b = ceil(bins / every), in channels_last memory.
    """
    if kind == "max":
        pooled: Tensor = roi_pool(maps.float().contiguous(), list(boxes), bins, 1 / stride)
        kept = pooled[:, :, ::every, ::every].to(maps.dtype)
        return kept.contiguous(memory_format=torch.channels_last)
    found = [
        align(one, chunk / stride, bins, every)
        for one, regions in zip(maps, boxes, strict=True)
        for chunk in torch.split(regions, CHUNK)
    ]
    if not found:
        size = -(-bins // every)
        return maps.new_zeros(0, maps.shape[1], size, size)
    return torch.cat(found).permute(0, 3, 1, 2)


def align(one: Tensor, boxes: Tensor, bins: int, every: int) -> Tensor:
    """RoIAlign of one map (C, H, W) for boxes (r, 4) in its cells, all at once: (r, b, b, C)."""
    channels, height, width = one.shape
    rows = _weights(boxes[:, 1], boxes[:, 3], height, bins, every).to(one.dtype)
    columns = _weights(boxes[:, 0], boxes[:, 2], width, bins, every).to(one.dtype)
    count, size = rows.shape[:2]
    cells = one.permute(1, 2, 0).reshape(height, width * channels)
    by_row = (rows.flatten(0, 1) @ cells).view(count, size, width, channels)
    return columns[:, None] @ by_row


def _weights(first: Tensor, last: Tensor, cells: int, bins: int, every: int) -> Tensor:
    """Weights of the cells along one axis in each bin: float32 (r, b, cells).

    A bin is the mean of samples between cells. As in torchvision, regions are at least one cell
    long, samples up to one cell beyond the border count as on it, and further ones as zero.
    """
    length = (last - first).clamp(min=1) / bins
    chosen = torch.arange(0, bins, every, device=first.device)
    within = (torch.arange(SAMPLES, device=first.device) + 0.5) / SAMPLES
    samples = first[:, None, None] + length[:, None, None] * (chosen[:, None] + within)
    valid = (samples >= -1) & (samples <= cells)
    samples = samples.clamp(0, cells - 1)
    grid = torch.arange(cells, device=first.device)
    near = (1 - (samples[..., None] - grid).abs()).clamp(min=0)
    return (near * valid[..., None]).mean(2)
