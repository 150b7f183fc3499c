"""The mask head of Mask R-CNN (arXiv 1703.06870, figure 4, left): the shape of a region's object.

It follows the last stage as the two layers for category and box do, but before the average pool:
a deconvolution doubles the 7 x 7 maps to 14 x 14, and a 1x1 convolution gives a mask for each
category. Only the mask of a region's own category is trained, and only in regions on an object.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from resnets.data.boxes.batches import Target
from resnets.detection.regions import RegionLabels

SIDE = 14
"""Cells along each side of a mask."""
WIDTH = 256
"""Filters of the deconvolution."""
NEW_STD = 0.001


class MaskHead(nn.Module):
    """From the last stage's maps of regions to masks.

    Args:
        channels: of the maps.
        categories: without the background.
    """

    def __init__(self, channels: int, categories: int) -> None:
        super().__init__()
        self.deconv = nn.ConvTranspose2d(channels, WIDTH, 2, 2)
        self.logits = nn.Conv2d(WIDTH, categories, 1)

    def reset_parameters(self) -> None:
        """He's weights and nearly empty logits, no biases."""
        nn.init.kaiming_normal_(self.deconv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.logits.weight, std=NEW_STD)
        for layer in (self.deconv, self.logits):
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(r, channels, 7, 7) to logits (r, categories, 14, 14), float32."""
        logits: Tensor = self.logits(F.relu(self.deconv(maps)))
        return logits.float()

    def loss(self, maps: Tensor, regions: RegionLabels, target: Target) -> Tensor:
        """The loss of one image: mean binary cross-entropy of the cells of regions on objects.

        Args:
            maps: (r, channels, 7, 7), of the regions.
            regions: as from `Siblings.choose_regions`.
            target: the image's objects, with masks.
        """
        rows = torch.nonzero(regions.labels > 0)[:, 0]
        logits = self(maps[rows])
        if not len(rows):
            zero: Tensor = logits.sum()
            return zero
        assert target.masks is not None, "the data have masks if the detector has"
        own = _of_category(logits, regions.labels[rows] - 1)
        wanted = cropped(target.masks, regions.matches[rows], regions.boxes[rows])
        return F.binary_cross_entropy_with_logits(own, wanted)

    @torch.no_grad()
    def probabilities(self, maps: Tensor, categories: Tensor) -> Tensor:
        """The mask of one category for each region: float32 (r, 14, 14), from 0 to 1.

        Args:
            maps: (r, channels, 7, 7).
            categories: int64 (r,), from 0.
        """
        return _of_category(self(maps), categories).sigmoid()


def _of_category(logits: Tensor, categories: Tensor) -> Tensor:
    """(r, categories, 14, 14) to (r, 14, 14); without sizes that an export would fix."""
    index = categories[:, None, None, None].expand(-1, 1, SIDE, SIDE)
    return logits.gather(1, index)[:, 0]


@torch.no_grad()
def cropped(masks: Tensor, numbers: Tensor, boxes: Tensor) -> Tensor:
    """The part of a mask in each box, as means over 14 x 14 cells: float32 (r, 14, 14).

    torchvision's detector crops masks half a pixel off: there, pixel i lies at i, here at i + 0.5.

    Args:
        masks: 0 and 1, (n, H, W).
        numbers: which mask each box is of, int64 (r,).
        boxes: (r, 4), in pixels of the masks.
    """
    chosen, which = torch.unique(numbers, return_inverse=True)
    regions = torch.cat((which[:, None].float(), boxes.float()), 1)
    cells: Tensor = roi_align(masks[chosen, None].float(), regions, SIDE, 1.0, aligned=True)
    return cells[:, 0]
