"""A detector for other engines: uint8 pixels of any size to detections, NMS included."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from resnets.data.preprocessing import Preprocessing
from resnets.detection.detector import BINS, Detector
from resnets.detection.pooling import align, pool_regions
from resnets.detection.proposals import PROPOSAL_NMS
from resnets.detection.proposals import SMALLEST as SMALLEST_PROPOSAL
from resnets.detection.regions import SMALLEST
from resnets.inference.deployable import scale_and_offset
from resnets.inference.deployable_pooling import MaxPooling
from resnets.models.batch_norm import fold_batch_norm
from resnets.models.blocks import PYTORCH

LEAST_SCORE = 0.001
"""Lowest score of any detection, so that regions that do not exist are none."""


class DeployableDetector(nn.Module):
    """Scaling, normalisation, detector and NMS in one module, with BN folded.

    It computes what `Detector.detect` does, but with as few sizes that depend on the content as
    possible, which other engines understand: a fixed number of regions, of which those that NMS
    did not leave are never detections.

    Args:
        detector: in evaluation mode; it is copied.
        preprocessing: from the model's card.
    """

    scale: Tensor
    offset: Tensor
    cell_anchors: Tensor

    def __init__(self, detector: Detector, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.settings = detector.settings
        self.stride, self.every = detector.stride, detector.every
        self.shared, self.last = detector.shared, detector.last
        self.network = fold_batch_norm(detector.network)
        for _, block in self.network.blocks():  # type: ignore[operator]
            block.operations = PYTORCH  # there is no BN left to fold
        self.rpn = copy.deepcopy(detector.rpn)
        self.siblings = copy.deepcopy(detector.siblings)
        self.masks = copy.deepcopy(detector.masks)
        self.max_pooling = (
            MaxPooling(self.stride, BINS, self.every, self.settings.max_size)
            if self.settings.pool == "max"
            else None
        )
        scale, offset = scale_and_offset(preprocessing)
        self.register_buffer("scale", scale)
        self.register_buffer("offset", offset)
        one_cell = torch.zeros(1, 1, 1, 1)
        self.register_buffer("cell_anchors", detector.rpn.anchors(one_cell, detector.stride))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detections in one image, best first.

        Args:
            images: uint8 RGB (1, 3, H, W), any size.

        Returns:
            Boxes (k, 4), x1, y1, x2, y2 in pixels of the image; scores (k,); categories from 0,
            int64 (k,). With a mask head also masks (k, 14, 14), the probability of the object in
            the cells of its box.
        """
        height, width = images.shape[2:]
        size = self.scaled(height, width)
        maps = self.maps(images, size)
        limit = _numbers(size[1], size[0], size[1], size[0])
        objectness, codes = self.rpn(maps)
        proposals, exist = self.propose(objectness, codes, maps, limit)
        logits, codes = self.siblings(self.features(maps, proposals, limit))
        boxes, scores, categories = self.detect(logits, codes, proposals, exist, limit)
        in_image = boxes * (_numbers(width, height, width, height) / limit)
        if self.masks is None:
            return in_image, scores, categories
        return in_image, scores, categories, self.find_masks(maps, boxes, categories)

    def last_stage(self, pooled: Tensor) -> Tensor:
        """The last stage's maps of pooled regions."""
        found: Tensor = self.network.end(self.network.get_submodule(self.last)(pooled))  # type: ignore[operator]
        return found

    def find_masks(self, maps: Tensor, boxes: Tensor, categories: Tensor) -> Tensor:
        """The masks of detections in the scaled image, (k, 14, 14)."""
        assert self.masks is not None
        # One region more, as engines may not take a batch of none.
        boxes, categories = (
            torch.cat((one, torch.zeros_like(one[:1]))) for one in (boxes, categories)
        )
        if self.max_pooling is not None:
            pooled: Tensor = self.max_pooling(maps, boxes)
        else:
            pooled = align(maps[0], boxes / self.stride, BINS, self.every).permute(0, 3, 1, 2)
        return self.masks.probabilities(self.last_stage(pooled), categories)[:-1]

    def scaled(self, height: Any, width: Any) -> tuple[Any, Any]:
        """Height and width of the scaled image, as `Rescaling.scaled` has them."""
        shorter, longer = _least(height, width), _most(height, width)

        def side(length: Any) -> Any:
            by_shorter = _rounded(length * self.settings.size, shorter)
            by_longer = _rounded(length * self.settings.max_size, longer)
            return _most(_least(by_shorter, by_longer), 1)

        return side(height), side(width)

    def maps(self, images: Tensor, size: tuple[Any, Any]) -> Tensor:
        """The shared maps of a scaled image, padded to whole cells of the map.

        Args:
            images: uint8 (1, 3, H, W).
            size: height and width of the scaled image.
        """
        pixels, inside = self.resampled(images, size)
        x: Tensor = (pixels * self.scale + self.offset) * inside
        x = self.network.stem(x)  # type: ignore[operator]
        for name in self.shared:
            x = self.network.get_submodule(name)(x)
        return x

    def resampled(self, images: Tensor, size: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
        """Pixels of the scaled image, whole numbers (3, H, W), with padding; and what is not
        padding, 0 or 1 (H, W). `images` and `size` are as for `maps`."""
        padded = [(side + self.stride - 1) // self.stride * self.stride for side in size]
        rows, inside = resampling(images.shape[2], size[0], padded[0])
        columns, across = resampling(images.shape[3], size[1], padded[1])
        pixels = _whole(images[0].float() @ columns.T)  # Pillow rounds after each direction
        return _whole(rows @ pixels), inside[:, None] * across

    def propose(
        self, objectness: Tensor, codes: Tensor, maps: Tensor, limit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A fixed number of proposals (r, 4), and whether they exist (r,)."""
        height, width = maps.shape[2:]
        x = torch.arange(width, device=maps.device) * float(self.stride)
        y = torch.arange(height, device=maps.device) * float(self.stride)
        corner = torch.stack(
            (x.expand(height, width), y[:, None].expand(height, width)), -1
        ).reshape(-1, 1, 2)
        anchors = (torch.cat((corner, corner), -1) + self.cell_anchors).reshape(-1, 4)
        few = self.settings.test_candidates  # a small image may have fewer anchors
        scores = torch.cat((objectness[0], objectness.new_full((few,), -torch.inf)))
        best = scores.topk(few)
        rows = best.indices.clamp(max=anchors.shape[0] - 1)
        boxes = self.rpn.coder.decode_single(codes[0][rows], anchors[rows])
        boxes = _clipped(boxes, limit)
        sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
        exist = (sides >= SMALLEST_PROPOSAL) & (best.values > -torch.inf)
        # Those that do not exist become points at the corner, which suppress no other box.
        boxes = boxes * exist[:, None]
        ranks = torch.arange(few, 0, -1, device=maps.device).float()
        kept = nms(boxes, ranks, PROPOSAL_NMS)
        left = torch.zeros_like(ranks).scatter(0, kept, torch.ones_like(kept).float()) * exist
        chosen = (ranks * left).topk(min(self.settings.test_proposals, few))
        return boxes[chosen.indices], chosen.values > 0

    def features(self, maps: Tensor, boxes: Tensor, limit: Tensor) -> Tensor:
        """What the siblings see of regions (r, 4), as from `Detector.features`."""
        if not self.settings.context:
            return self.last_stage(self.pool(maps, boxes)).mean((2, 3))
        whole = torch.cat((torch.zeros(2), limit[:2]))[None]
        each = self.last_stage(self.pool(maps, torch.cat((boxes, whole)))).mean((2, 3))
        count = boxes.shape[0]
        return torch.cat((each[:count], each[count:].expand(count, -1)), 1)

    def pool(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """Features of regions (r, 4), as from `pool_regions`."""
        if self.max_pooling is not None:
            pooled: Tensor = self.max_pooling(maps, boxes)
            return pooled
        return pool_regions(maps, [boxes], self.stride, BINS, self.every)

    def detect(
        self, logits: Tensor, codes: Tensor, proposals: Tensor, exist: Tensor, limit: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Detections in the scaled image: boxes, scores, categories."""
        count = codes.shape[1]
        decoded = self.siblings.coder.decode_single(codes.flatten(1), proposals).reshape(-1, 4)
        boxes = _clipped(decoded, limit)
        scores = (logits.softmax(1)[:, 1:] * exist[:, None]).flatten()
        categories = torch.arange(count, device=logits.device).repeat(len(proposals))
        large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= SMALLEST
        kept = torch.nonzero((scores > max(self.settings.score, LEAST_SCORE)) & large)[:, 0]
        boxes, scores, categories = boxes[kept], scores[kept], categories[kept]
        # Categories lie side by side, so that boxes of different ones do not overlap.
        apart = (limit.max() + 1) * categories[:, None].float()
        best = nms(boxes + apart, scores, self.settings.nms)[: self.settings.detections]
        return boxes[best], scores[best], categories[best]


def _numbers(*sizes: Any) -> Tensor:
    """Sizes, which may depend on the image, as float32 (n,)."""
    return torch.cat([torch.zeros(1) + size for size in sizes])


def _least(a: Any, b: Any) -> Any:
    """The smaller of two sizes: numbers, torch.export's symbols or, in a trace, tensors."""
    if isinstance(a, Tensor):
        return torch.minimum(a, torch.as_tensor(b))
    return torch.sym_min(a, b)


def _most(a: Any, b: Any) -> Any:
    """The larger of two sizes."""
    if isinstance(a, Tensor):
        return torch.maximum(a, torch.as_tensor(b))
    return torch.sym_max(a, b)


def _rounded(numerator: Any, denominator: Any) -> Any:
    """The nearest whole number to a fraction."""
    return (2 * numerator + denominator) // (2 * denominator)


def _whole(pixels: Tensor) -> Tensor:
    return torch.floor(pixels + 0.5)


def _clipped(boxes: Tensor, limit: Tensor) -> Tensor:
    """Boxes (k, 4) inside the image; `limit` is its width, height, width, height."""
    return torch.minimum(boxes.clamp(min=0), limit)


def resampling(old: Any, new: Any, padded: Any) -> tuple[Tensor, Tensor]:
    """Weights (padded, old) of Pillow's bilinear filter from `old` to `new` pixels along one side,
    with zeros in the padding, and whether a pixel is not padding (padded,)."""
    outputs, inputs = torch.arange(padded), torch.arange(old)
    step = _numbers(old) / _numbers(new)
    width = step.clamp(min=1)
    centres = (outputs + 0.5) * step
    weights = (1 - ((inputs + 0.5) - centres[:, None]).abs() / width).clamp(min=0)
    inside = (outputs < new).float()
    total = weights.sum(1, keepdim=True).clamp(min=1e-6)
    return weights / total * inside[:, None], inside
