"""The detector of appendix A: Faster R-CNN whose shared layers and region head are one network.

The stem and all stages but the last make the map that the region proposal network and all
regions share; the last stage and a global average pool follow the pooling of each region
("Networks on Conv feature maps", conv5_x of a ResNet). BN is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resnets.data.boxes.batches import Target
from resnets.detection.masks import MaskHead
from resnets.detection.pooling import pool_regions
from resnets.detection.proposals import Limits, ProposalNetwork
from resnets.detection.regions import Found, Siblings
from resnets.models.batch_norm import FOLDED, evaluating
from resnets.models.blocks import Block, ZeroPadShortcut
from resnets.models.residual import ResidualNetwork
from resnets.training.recipe import Detection

LOSSES = ("rpn_objectness", "rpn_boxes", "categories", "boxes")
"""Names of the losses, in the order of a forward pass."""
MASKS = "masks"
"""Name of the mask head and of its loss, the last one."""
STEM_STRIDES = {"imagenet": 4, "small": 2, "cifar": 1}
BINS = 14
"""Bins along each side of a region; the last stage halves them to 7, as in the paper's 224-pixel
images."""


class Detector(nn.Module):
    """A network as a detector.

    Args:
        network: becomes part of the detector: its classifier is removed.
        categories: number of categories, without the background.
        settings: everything else.

    Attributes:
        stride: pixels between the cells of the shared map.
        every: the last stage uses only every such bin along each side of a region.
    """

    def __init__(self, network: ResidualNetwork, categories: int, settings: Detection) -> None:
        super().__init__()
        row, self.settings = network.architecture, settings
        self.shared, self.last = network.stage_names[:-1], network.stage_names[-1]
        network.fc = nn.Identity()  # type: ignore[assignment]
        self.network = network
        for _, block in network.blocks():
            block.operations = FOLDED
        self.stride = STEM_STRIDES[row.stem] * 2 ** (len(self.shared) - 1)
        self.every = _move_stride_to_pooling(network)
        widths = [width * row.expansion for width in row.widths]
        self.rpn = ProposalNetwork(
            widths[-2], settings.rpn_width, settings.anchors, settings.ratios
        )
        self.siblings = Siblings(widths[-1], categories)
        self.masks = MaskHead(widths[-1], categories) if settings.masks else None

    def parts(self) -> dict[str, list[nn.Module]]:
        """The detector in named parts: those of its network, `rpn`, `siblings` and `masks`."""
        parts = self.network.parts()
        del parts["fc"]
        parts |= {"rpn": [self.rpn], "siblings": [self.siblings]}
        return parts if self.masks is None else {**parts, MASKS: [self.masks]}

    def maps(self, images: Tensor) -> Tensor:
        """Images (n, 3, H, W) to the maps that all regions share, (n, C, H/stride, W/stride)."""
        x = self.network.stem(images)
        for name in self.shared:
            x = self.network.get_submodule(name)(x)
        return x

    def region_maps(self, maps: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The last stage's maps of regions: (regions of all images, C, 7, 7).

        Args:
            maps: as from `maps`.
            boxes: for each image its regions (r, 4).
        """
        pooled = pool_regions(maps, boxes, self.stride, BINS, self.every, self.settings.pool)
        found: Tensor = self.network.end(self.network.get_submodule(self.last)(pooled))
        return found

    def features(self, maps: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The same, averaged: (regions of all images, C)."""
        return self.region_maps(maps, boxes).mean((2, 3))

    def forward(
        self, images: Tensor, targets: Sequence[Target], smoothing: float = 0.0
    ) -> dict[str, Tensor]:
        """The losses of training images.

        Args:
            images: (n, 3, H, W), padded on the right and below.
            targets: their objects.
            smoothing: label smoothing of the categories.

        Returns:
            Sums over the images: each of `LOSSES`, with gradient, that of `MASKS` if there is a
            mask head, and `wrong`, the share of an image's regions that are given a wrong category.
        """
        settings, maps = self.settings, self.maps(images)
        objectness, codes = self.rpn(maps)
        anchors = self.rpn.anchors(maps, self.stride)
        limits = Limits(settings.candidates, settings.proposals)
        losses: list[list[Tensor]] = []
        regions = []
        for scores, deltas, target in zip(objectness, codes, targets, strict=True):
            generator = torch.Generator().manual_seed(target.key)
            losses.append([
                *self.rpn.loss(
                    scores, deltas, anchors, target,
                    count=settings.rpn_batch, border=settings.border_anchors, generator=generator,
                )
            ])  # fmt: skip
            proposals = self.rpn.propose(
                scores.detach(), deltas.detach(), anchors, target.size, limits
            )
            regions.append(
                self.siblings.choose_regions(
                    proposals, target,
                    count=settings.rois, foreground=settings.foreground,
                    background=settings.background, generator=generator,
                )
            )  # fmt: skip
        counts = [len(one.boxes) for one in regions]
        region_maps = self.region_maps(maps, [one.boxes for one in regions])
        logits, deltas = self.siblings(region_maps.mean((2, 3)))
        wrong = logits.new_zeros(())
        for own, one, found, boxes in zip(
            losses, regions, torch.split(logits, counts), torch.split(deltas, counts), strict=True
        ):
            own += self.siblings.loss(found, boxes, one, smoothing)
            wrong += (found.argmax(1) != one.labels).float().sum() / max(1, len(found))
        names: tuple[str, ...] = LOSSES
        if self.masks is not None:
            names = (*LOSSES, MASKS)
            parts = torch.split(region_maps, counts)
            for own, one, part, target in zip(losses, regions, parts, targets, strict=True):
                own.append(self.masks.loss(part, one, target))
        sums = torch.stack([torch.stack(own) for own in losses]).sum(0)
        return {**dict(zip(names, sums, strict=True)), "wrong": wrong.detach()}

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Found]:
        """Detections in images.

        Args:
            images: (n, 3, H, W), padded on the right and below.
            sizes: height and width of each image without padding.

        Returns:
            For each image its detections, in pixels of the image.
        """
        settings = self.settings
        with evaluating(self):
            maps = self.maps(images)
            objectness, codes = self.rpn(maps)
            anchors = self.rpn.anchors(maps, self.stride)
            limits = Limits(settings.test_candidates, settings.test_proposals)
            boxes = [
                self.rpn.propose(scores, deltas, anchors, size, limits)
                for scores, deltas, size in zip(objectness, codes, sizes, strict=True)
            ]
            counts = [len(one) for one in boxes]
            logits, deltas = self.siblings(self.features(maps, boxes))
        found = [
            self.siblings.detect(
                scores, codes, proposals, size,
                score=settings.score, overlap=settings.nms, most=settings.detections,
            )
            for scores, codes, proposals, size in zip(
                torch.split(logits, counts), torch.split(deltas, counts), boxes, sizes, strict=True
            )
        ]  # fmt: skip
        return found if self.masks is None else self._with_masks(found, maps)

    def _with_masks(self, found: Sequence[Found], maps: Tensor) -> list[Found]:
        """Detections with their masks: the last stage sees their boxes, too."""
        assert self.masks is not None
        with evaluating(self):
            region_maps = self.region_maps(maps, [one.boxes for one in found])
            categories = torch.cat([one.categories for one in found])
            masks = self.masks.probabilities(region_maps, categories)
        parts = torch.split(masks, [len(one.boxes) for one in found])
        return [one._replace(masks=part) for one, part in zip(found, parts, strict=True)]


def _move_stride_to_pooling(network: ResidualNetwork) -> int:
    """Have the last stage keep the size of its input, if it would skip pixels: 2, else 1.

    A first convolution of 1x1 with stride 2 sees every second bin along each side. The others
    need not be pooled, and the result is the same.
    """
    first = network.get_submodule(network.stage_names[-1])[0]  # type: ignore[index]
    assert isinstance(first, Block)
    convolution, shortcut = first.convolutions()[0], first.downsample
    if convolution.kernel_size != (1, 1) or convolution.stride != (2, 2):
        return 1
    convolution.stride = (1, 1)
    if isinstance(shortcut, ZeroPadShortcut):
        shortcut.stride = 1
    elif isinstance(shortcut, nn.Sequential):
        assert isinstance(shortcut[0], nn.Conv2d)
        shortcut[0].stride = (1, 1)
    return 2
