"""RoI pooling in operators that every engine has: the maxima are torchvision's, bit for bit.

ONNX and OpenVINO have RoI pooling of their own. OpenVINO's rounds some bins otherwise than
torchvision's, so that their maxima are of other cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MaxPooling(nn.Module):
    """The features of regions by RoI pooling, as `detection.pooling.pool_regions` has them.

    A bin is a rectangle of cells. Its maximum is that of four overlapping rectangles whose sides
    are powers of two; their maxima are computed once for all cells of the map.

    Args:
        stride: pixels between the cells of the map.
        bins: along each side of a region.
        every: only every such bin along each side is computed, from the first.
        longest: the longer side of the largest image, in pixels.
    """

    starts: Tensor
    ends: Tensor
    powers: Tensor

    def __init__(self, stride: int, bins: int, every: int, longest: int) -> None:
        super().__init__()
        self.stride, self.count = stride, -(-bins // every)
        # By the length of a region in cells, so that no engine rounds these fractions anew.
        bin_size = torch.arange(longest // stride + 3).float()[:, None] / bins
        first = torch.arange(0, bins, every)
        self.register_buffer("starts", (first * bin_size).floor().long(), persistent=False)
        self.register_buffer("ends", ((first + 1) * bin_size).ceil().long(), persistent=False)
        most = int((self.ends - self.starts).max())
        self.levels = int(math.log2(most)) + 1
        powers = [0, *(int(math.log2(cells)) for cells in range(1, most + 1))]
        self.register_buffer("powers", torch.tensor(powers), persistent=False)

    def forward(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """Maps (1, C, H, W) and regions (r, 4) in pixels to (r, C, b, b)."""
        channels, height, width = maps.shape[1:]
        corners = _rounded(boxes / self.stride)
        x, to_x, x_level = self._ranges(corners[:, 0], corners[:, 2], width)
        y, to_y, y_level = self._ranges(corners[:, 1], corners[:, 3], height)
        table = self._maxima(maps[0].permute(1, 2, 0)).reshape(-1, channels)
        level = (y_level[:, :, None] * self.levels + x_level[:, None, :]) * height
        found = None
        for row in (y, to_y - 2**y_level):
            for column in (x, to_x - 2**x_level):
                inside = row.clamp(min=0)[:, :, None]
                cells = (level + inside) * width + column.clamp(min=0)[:, None, :]
                maxima = table.index_select(0, cells.reshape(-1))
                found = maxima if found is None else torch.maximum(found, maxima)
        assert found is not None
        filled = (to_y > y)[:, :, None] & (to_x > x)[:, None, :]
        found = torch.where(filled.reshape(-1, 1), found, torch.zeros_like(found))
        return found.reshape(-1, self.count, self.count, channels).permute(0, 3, 1, 2)

    def _ranges(self, first: Tensor, last: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
        """First cell, last + 1, and level of each bin along one axis, (r, b); an empty bin begins
        where it ends, with a first cell that exists."""
        length = (last - first + 1).clamp(1, len(self.starts) - 1)
        start = (self.starts[length] + first[:, None]).clamp(min=0)
        end = (self.ends[length] + first[:, None]).clamp(max=cells)
        inside = start.clamp(max=cells - 1)
        level = self.powers[(end - start).clamp(min=0)]
        return inside, torch.where(end > start, end, inside), level

    def _maxima(self, one: Tensor) -> Tensor:
        """The maxima of the rectangles that begin at each cell of a map (H, W, C), by height and
        width: (levels, levels, H, W, C). Rectangles end at the border."""
        rows = [one]
        for level in range(1, self.levels):
            rows.append(_joined(rows[-1], 0, 2 ** (level - 1)))
        found = [torch.stack(rows)]
        for level in range(1, self.levels):
            found.append(_joined(found[-1], 2, 2 ** (level - 1)))
        return torch.stack(found, 1)


def _joined(one: Tensor, axis: int, step: int) -> Tensor:
    """The maxima of each entry and the one `step` further along an axis."""
    cells = one.shape[axis]
    further = (torch.arange(cells, device=one.device) + step).clamp(max=cells - 1)
    return torch.maximum(one, one.index_select(axis, further))


def _rounded(values: Tensor) -> Tensor:
    """The nearest whole numbers; halves are rounded up, as C's `round` does from 0 on."""
    down = values.floor()
    return (down + (values - down >= 0.5)).long()
