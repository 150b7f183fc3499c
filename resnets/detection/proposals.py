"""The region proposal network of Faster R-CNN: where objects may be, of any category."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import clip_boxes_to_image, nms, remove_small_boxes

from resnets.data.boxes.batches import Target
from resnets.detection.sampling import choose, label_boxes

NEW_STD = 0.01
"""Deviation of the initial weights of new layers (Faster R-CNN, section 3.1.3)."""
BETA = 1 / 9
"""Where smooth L1 turns from a square into a line."""
OBJECT_IOU, BACKGROUND_IOU = 0.7, 0.3
PROPOSAL_NMS = 0.7
SMALLEST = 1e-3
"""Pixels a side below which a proposal is left out."""


@dataclass(frozen=True)
class Limits:
    """How many proposals there are: `candidates` by score, of which NMS leaves `proposals`."""

    candidates: int
    proposals: int


class ProposalNetwork(nn.Module):
    """A 3x3 convolution, and for each anchor at each cell an objectness and four codes.

    Args:
        channels: of the map.
        width: filters of the 3x3 convolution.
        sides: of the square anchors, in pixels.
        ratios: height to width of the anchors.
    """

    def __init__(
        self, channels: int, width: int, sides: tuple[float, ...], ratios: tuple[float, ...]
    ) -> None:
        super().__init__()
        self._anchors = AnchorGenerator((sides,), (ratios,))
        count = len(sides) * len(ratios)
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.objectness = nn.Conv2d(width, count, 1)
        self.codes = nn.Conv2d(width, 4 * count, 1)
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(OBJECT_IOU, BACKGROUND_IOU, allow_low_quality_matches=True)

    def reset_parameters(self) -> None:
        """Gaussian weights, no biases."""
        for layer in (self.conv, self.objectness, self.codes):
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=NEW_STD)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (n, C, H, W) to objectness (n, A) and codes (n, A, 4), float32, of all anchors."""
        hidden = F.relu(self.conv(maps))
        objectness, codes = self.objectness(hidden), self.codes(hidden)
        return (
            objectness.permute(0, 2, 3, 1).flatten(1).float(),
            codes.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)).float(),
        )

    def anchors(self, maps: Tensor, stride: int) -> Tensor:
        """The anchors of a map, float32 (A, 4), in pixels: centred at i * stride."""
        self._anchors.set_cell_anchors(torch.float32, maps.device)
        step = torch.tensor(stride, device=maps.device)
        grid: list[Tensor] = self._anchors.grid_anchors([list(maps.shape[-2:])], [[step, step]])
        return grid[0]

    @torch.no_grad()
    def propose(
        self,
        objectness: Tensor,
        codes: Tensor,
        anchors: Tensor,
        size: tuple[int, int],
        limits: Limits,
    ) -> Tensor:
        """The proposals of one image, best first.

        Args:
            objectness, codes: of its anchors, (A,) and (A, 4).
            anchors: (A, 4).
            size: height and width of the image, to which proposals are clipped.
            limits: how many.

        Returns:
            float32 (r, 4).
        """
        scores, best = objectness.topk(min(limits.candidates, len(objectness)))
        boxes = self.coder.decode_single(codes[best], anchors[best])
        boxes = clip_boxes_to_image(boxes, size)
        large = remove_small_boxes(boxes, SMALLEST)
        boxes = boxes[large]
        kept: Tensor = boxes[nms(boxes, scores[large], PROPOSAL_NMS)[: limits.proposals]]
        return kept

    def loss(
        self,
        objectness: Tensor,
        codes: Tensor,
        anchors: Tensor,
        target: Target,
        *,
        count: int,
        border: bool,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Losses of objectness and of codes of one image, means over the chosen anchors.

        Args:
            objectness, codes, anchors: as for `propose`.
            target: the image's objects.
            count: anchors that are chosen, at most half of them on objects.
            border: whether to train on anchors that cross the image's border.
            generator: decides the choice.
        """
        if not border:
            height, width = target.size
            limit = anchors.new_tensor([width, height])
            inside = ((anchors[:, :2] >= 0) & (anchors[:, 2:] <= limit)).all(1)
            if inside.any():  # else the image is smaller than all anchors
                objectness, codes, anchors = objectness[inside], codes[inside], anchors[inside]
        labels, objects, _ = label_boxes(anchors, target, self.matcher)
        chosen = choose(labels, count, 0.5, generator)
        positive = chosen[labels[chosen] > 0]
        wanted = self.coder.encode_single(objects[positive], anchors[positive])
        share = max(1, len(chosen))
        truth = (labels[chosen] > 0).float()
        scores = F.binary_cross_entropy_with_logits(objectness[chosen], truth, reduction="sum")
        boxes = F.smooth_l1_loss(codes[positive], wanted, beta=BETA, reduction="sum")
        return scores / share, boxes / share
