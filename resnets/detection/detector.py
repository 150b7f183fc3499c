"""The detector of appendix A: Faster R-CNN whose shared layers and region head are one network.

The stem and all stages but the last make the map that the region proposal network and all
regions share; the last stage and a global average pool follow the pooling of each region
("Networks on Conv feature maps", conv5_x of a ResNet). BN is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from resnets.data.boxes.batches import Target
from resnets.detection.masks import MaskHead
from resnets.detection.pooling import pool_regions
from resnets.detection.proposals import Limits, ProposalNetwork
from resnets.detection.regions import Found, Scored, Siblings, candidates, suppress
from resnets.models.batch_norm import FOLDED, evaluating
from resnets.models.blocks import Block, ZeroPadShortcut
from resnets.models.residual import ResidualNetwork
from resnets.training.recipe import Detection

LOSSES = ("rpn_objectness", "rpn_boxes", "categories", "boxes")
"""Names of the losses, in the order of a forward pass."""
MASKS = "masks"
"""Name of the mask head and of its loss, the last one."""
Part = Literal["both", "proposals", "regions"]
"""Whose losses a forward pass computes."""
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
        self.siblings = Siblings(widths[-1] * (2 if settings.context else 1), categories)
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

    def features(
        self, maps: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """What the siblings see of regions, (regions of all images, C); see `described`."""
        return self.described(maps, boxes, sizes)[0]

    def described(
        self, maps: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """What the siblings see of regions, and the last stage's maps of them.

        The siblings see the averages of these maps. With `context`, those of the whole image,
        pooled like a region, follow them (appendix B, "global context").

        Args:
            maps, boxes: as for `region_maps`.
            sizes: height and width of each image without padding.
        """
        if not self.settings.context:
            found = self.region_maps(maps, boxes)
            return found.mean((2, 3)), found
        with_whole = [
            torch.cat((one, one.new_tensor([[0, 0, width, height]])))
            for one, (height, width) in zip(boxes, sizes, strict=True)
        ]
        counts = [len(one) for one in with_whole]
        each = torch.split(self.region_maps(maps, with_whole), counts)
        means = [one.mean((2, 3)) for one in each]
        features = [torch.cat((one[:-1], one[-1:].expand(len(one) - 1, -1)), 1) for one in means]
        return torch.cat(features), torch.cat([one[:-1] for one in each])

    def forward(
        self,
        images: Tensor,
        targets: Sequence[Target],
        smoothing: float = 0.0,
        part: Part = "both",
        proposer: Detector | None = None,
    ) -> dict[str, Tensor]:
        """The losses of training images.

        Args:
            images: (n, 3, H, W), padded on the right and below.
            targets: their objects.
            smoothing: label smoothing of the categories.
            part: of `proposals` or of `regions` alone, or of both; the others are zero.
            proposer: another detector, which proposes the regions instead of this one.

        Returns:
            Sums over the images: each of `LOSSES`, with gradient, that of `MASKS` if there is a
            mask head, and `wrong`, the share of an image's regions that are given a wrong category.
        """
        maps = self.maps(images)
        generators = [torch.Generator().manual_seed(target.key) for target in targets]
        proposals = maps.new_zeros(2, dtype=torch.float32)
        of_regions, wrong = maps.new_zeros(2 if self.masks is None else 3).float(), proposals[0]
        if part == "regions":
            with torch.no_grad():
                proposing = self if proposer is None else proposer
                shown = maps if proposer is None else proposer.maps(images)
                objectness, codes = proposing.rpn(shown)
                regions = proposing.training_proposals(objectness, codes, shown, targets)
        else:
            objectness, codes = self.rpn(maps)
            proposals = self._proposal_losses(objectness, codes, maps, targets, generators)
            if part == "both":
                regions = self.training_proposals(objectness, codes, maps, targets)
        if part != "proposals":
            of_regions, wrong = self._region_losses(maps, regions, targets, generators, smoothing)
        names = LOSSES if self.masks is None else (*LOSSES, MASKS)
        sums = torch.cat((proposals, of_regions))
        return {**dict(zip(names, sums, strict=True)), "wrong": wrong.detach()}

    def _proposal_losses(
        self,
        objectness: Tensor,
        codes: Tensor,
        maps: Tensor,
        targets: Sequence[Target],
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """The RPN's losses, summed over the images: (2,)."""
        settings, anchors = self.settings, self.rpn.anchors(maps, self.stride)
        losses = [
            torch.stack(
                self.rpn.loss(
                    scores, deltas, anchors, target,
                    count=settings.rpn_batch, border=settings.border_anchors, generator=generator,
                )
            )
            for scores, deltas, target, generator in zip(
                objectness, codes, targets, generators, strict=True
            )
        ]  # fmt: skip
        return torch.stack(losses).sum(0)

    def training_proposals(
        self, objectness: Tensor, codes: Tensor, maps: Tensor, targets: Sequence[Target]
    ) -> list[Tensor]:
        """The proposals (r, 4) in each training image, from the RPN's outputs."""
        limits = Limits(self.settings.candidates, self.settings.proposals)
        anchors = self.rpn.anchors(maps, self.stride)
        return [
            self.rpn.propose(scores.detach(), deltas.detach(), anchors, target.size, limits)
            for scores, deltas, target in zip(objectness, codes, targets, strict=True)
        ]

    def _region_losses(
        self,
        maps: Tensor,
        proposals: Sequence[Tensor],
        targets: Sequence[Target],
        generators: Sequence[torch.Generator],
        smoothing: float,
    ) -> tuple[Tensor, Tensor]:
        """Losses of categories, boxes and masks, (2,) or (3,), and shares of wrong regions, summed
        over the images."""
        settings = self.settings
        regions = [
            self.siblings.choose_regions(
                own, target,
                count=settings.rois, foreground=settings.foreground,
                background=settings.background, generator=generator,
            )
            for own, target, generator in zip(proposals, targets, generators, strict=True)
        ]  # fmt: skip
        counts = [len(one.boxes) for one in regions]
        features, region_maps = self.described(
            maps, [one.boxes for one in regions], [target.size for target in targets]
        )
        logits, codes = self.siblings(features)
        losses, wrong = [], logits.new_zeros(())
        for one, found, boxes in zip(
            regions, torch.split(logits, counts), torch.split(codes, counts), strict=True
        ):
            losses.append(torch.stack(self.siblings.loss(found, boxes, one, smoothing)))
            wrong += (found.argmax(1) != one.labels).float().sum() / max(1, len(found))
        sums = torch.stack(losses).sum(0)
        if self.masks is not None:
            parts = zip(torch.split(region_maps, counts), regions, targets, strict=True)
            masks = torch.stack([self.masks.loss(*of_image) for of_image in parts])
            sums = torch.cat((sums, masks.sum(0, keepdim=True)))
        return sums, wrong

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
            boxes = self.propose(maps, sizes)
            found = self.score(self.features(maps, boxes, sizes), boxes, sizes)
        kept = [
            suppress(candidates(one, settings.score), settings.nms, settings.detections)
            for one in found
        ]
        return self.with_masks(kept, maps)

    def with_masks(self, found: Sequence[Found], maps: Tensor) -> list[Found]:
        """Detections with their masks, if there is a mask head: the last stage sees their boxes,
        too."""
        if self.masks is None:
            return list(found)
        with evaluating(self):
            region_maps = self.region_maps(maps, [one.boxes for one in found])
            categories = torch.cat([one.categories for one in found])
            masks = self.masks.probabilities(region_maps, categories)
        parts = torch.split(masks, [len(one.boxes) for one in found])
        return [one._replace(masks=part) for one, part in zip(found, parts, strict=True)]

    def propose(self, maps: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """The proposals (r, 4) in each image of a test, best first; see `detect`."""
        limits = Limits(self.settings.test_candidates, self.settings.test_proposals)
        objectness, codes = self.rpn(maps)
        anchors = self.rpn.anchors(maps, self.stride)
        return [
            self.rpn.propose(scores, deltas, anchors, size, limits)
            for scores, deltas, size in zip(objectness, codes, sizes, strict=True)
        ]

    def score(
        self, features: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Scored]:
        """Scores and boxes of regions, for each image.

        Args:
            features: of the regions of all images.
            boxes: the regions.
            sizes: height and width of each image, to which boxes are clipped.
        """
        logits, codes = self.siblings(features)
        counts = [len(one) for one in boxes]
        return [
            self.siblings.score(*of_image)
            for of_image in zip(
                torch.split(logits, counts), torch.split(codes, counts), boxes, sizes, strict=True
            )
        ]


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
