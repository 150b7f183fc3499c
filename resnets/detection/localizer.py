"""The localizer of appendix C: an RPN with a box for every class, and the classifier that names
them.

"Per-class regression": two sibling 1x1 convolutions on the last map of a network (linear layers at
every location) give each class its own scores, each a logistic regression, and its own box codes,
for every anchor. Only the true class of an image is trained. The classes that a test locates come
from a classifier, which is the network that the training began with, unchanged.

The paper does not say which map the convolutions see: here the last one, of stride 32 for the
networks of Table 1, as it replaces the classifier of a network that was trained to classify.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import clip_boxes_to_image

from resnets.data.boxes.batches import Target
from resnets.detection.detector import STEM_STRIDES
from resnets.detection.metrics.localization_error import CORRECT_IOU
from resnets.detection.proposals import BETA, NEW_STD
from resnets.detection.sampling import choose, label_boxes
from resnets.models.batch_norm import FOLDED, evaluating
from resnets.models.residual import ResidualNetwork
from resnets.training.recipe import Localization

LOSSES = ("objectness", "boxes")
"""Names of the losses, in the order of a forward pass."""


class Chosen(NamedTuple):
    """Anchors of images that are trained on: `sampled` for each, fewer where `used` is false.

    Args:
        anchors: their indices, int64 (n, sampled).
        used: bool (n, sampled).
        objects: whether they are on an object, bool (n, sampled).
        codes: of the objects from the anchors, float32 (n, sampled, 4); zeros for the others.
    """

    anchors: Tensor
    used: Tensor
    objects: Tensor
    codes: Tensor


class Localizer(nn.Module):
    """A network as a localizer, with a classifier.

    Args:
        network: becomes part of the localizer: its own classifier is removed.
        classifier: a network of the same classes, which is never trained.
        settings: everything else.

    Attributes:
        stride: pixels between the cells of the last map.
    """

    def __init__(
        self, network: ResidualNetwork, classifier: ResidualNetwork, settings: Localization
    ) -> None:
        super().__init__()
        row = network.architecture
        self.classes, self.settings = row.classes, settings
        network.fc = nn.Identity()  # type: ignore[assignment]
        self.network, self.classifier = network, classifier.requires_grad_(False)
        for part in (network, classifier):
            for _, block in part.blocks():
                block.operations = FOLDED
        self.stride = STEM_STRIDES[row.stem] * 2 ** (len(row.depths) - 1)
        self._anchors = AnchorGenerator((settings.anchors,), (settings.ratios,))
        self.per_cell = len(settings.anchors) * len(settings.ratios)
        channels = row.widths[-1] * row.expansion
        self.objectness = nn.Linear(channels, self.classes * self.per_cell)
        self.codes = nn.Linear(channels, self.classes * self.per_cell * 4)
        self.coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(
            settings.object_iou, settings.background_iou, allow_low_quality_matches=True
        )

    def reset_parameters(self) -> None:
        """Gaussian weights of the two new layers, no biases."""
        for layer in (self.objectness, self.codes):
            nn.init.normal_(layer.weight, std=NEW_STD)
            nn.init.zeros_(layer.bias)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The localizer in named parts: those of its network, `classifier`, and `siblings`."""
        parts = self.network.parts()
        del parts["fc"]
        siblings: list[nn.Module] = [self.objectness, self.codes]
        return {**parts, "classifier": [self.classifier], "siblings": siblings}

    def maps(self, images: Tensor) -> Tensor:
        """Images (n, 3, H, W) to their last maps (n, C, H/stride, W/stride)."""
        return self.network.features(images)[self.network.stage_names[-1]]

    def anchors(self, maps: Tensor) -> Tensor:
        """The anchors of a map on the CPU, float32 (A, 4), in pixels: centred at i * stride."""
        self._anchors.set_cell_anchors(torch.float32, torch.device("cpu"))
        step = torch.tensor(self.stride)
        grid: list[Tensor] = self._anchors.grid_anchors([list(maps.shape[-2:])], [[step, step]])
        return grid[0]

    def siblings(self, maps: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and codes of some classes for all anchors.

        Args:
            maps: (n, C, H, W).
            classes: m of each image, int64 (n, m).

        Returns:
            Logits (n, m, A) and codes (n, m, A, 4), float32.
        """
        cells = maps.flatten(2)
        logits = _outputs(self.objectness, cells, classes, self.classes)
        codes = _outputs(self.codes, cells, classes, self.classes)
        return (
            logits.transpose(2, 3).flatten(2).float(),
            codes.transpose(2, 3).reshape(*classes.shape, -1, 4).float(),
        )

    def choose(self, anchors: Tensor, targets: Sequence[Target]) -> Chosen:
        """The anchors that images are trained on, on the CPU.

        Up to half of them overlap the object (Faster R-CNN's rule, which appendix C takes over);
        where these are fewer, more are of the background. Anchors across the image's border are
        trained on, which Faster R-CNN ignores: most anchors on the last map of a crop are such.
        """
        count = self.settings.sampled
        made = Chosen(
            torch.zeros(len(targets), count, dtype=torch.int64),
            torch.zeros(len(targets), count, dtype=torch.bool),
            torch.zeros(len(targets), count, dtype=torch.bool),
            torch.zeros(len(targets), count, 4),
        )
        for row, target in enumerate(targets):
            labels, objects = label_boxes(anchors, target, self.matcher)[:2]
            generator = torch.Generator().manual_seed(target.key)
            chosen = choose(labels, count, 0.5, generator)
            positive = labels[chosen] > 0
            made.anchors[row, : len(chosen)] = chosen
            made.used[row, : len(chosen)] = True
            made.objects[row, : len(chosen)] = positive
            made.codes[row, : len(chosen)][positive] = self.coder.encode_single(
                objects[chosen[positive]], anchors[chosen[positive]]
            )
        return made

    def forward(
        self, images: Tensor, classes: Tensor, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """The losses of training images.

        Args:
            images: (n, 3, H, W).
            classes: the true class of each, int64 (n,).
            targets: their objects, on the CPU.

        Returns:
            Sums over the images: each of `LOSSES`, with gradient, a mean over an image's anchors;
            and `wrong`, the images whose best box is not on the object, if that is visible.
        """
        maps = self.maps(images)
        anchors = self.anchors(maps)
        logits, codes = (one[:, 0] for one in self.siblings(maps, classes[:, None]))
        chosen = Chosen(*(one.to(images.device) for one in self.choose(anchors, targets)))
        share = chosen.used.sum(1).clamp(min=1)
        scores = F.binary_cross_entropy_with_logits(
            logits.gather(1, chosen.anchors), chosen.objects.float(), reduction="none"
        )
        own = codes.gather(1, chosen.anchors[..., None].expand(-1, -1, 4))
        boxes = F.smooth_l1_loss(own, chosen.codes, beta=BETA, reduction="none").sum(2)
        with torch.no_grad():
            best = self._best(logits[:, None], codes[:, None], anchors, images.shape[-2:])[1]
            wrong = _misses(best[:, 0], targets)
        return {
            "objectness": ((scores * chosen.used).sum(1) / share).sum(),
            "boxes": ((boxes * chosen.objects).sum(1) / share).sum(),
            "wrong": wrong,
        }

    def _best(
        self, logits: Tensor, codes: Tensor, anchors: Tensor, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The highest score of each class (n, m), and its box (n, m, 4) within the image."""
        scores, best = logits.max(2)
        rows = anchors.to(logits.device)[best].flatten(0, 1)
        own = codes.gather(2, best[..., None, None].expand(-1, -1, 1, 4)).flatten(0, 2)
        boxes = clip_boxes_to_image(self.coder.decode_single(own, rows), (size[0], size[1]))
        return scores, boxes.view(*best.shape, 4)

    @torch.no_grad()
    def locate(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """A box for some classes of each image: that of the anchor with the highest score.

        Args:
            images: (n, 3, H, W), of any size.
            classes: m of each, int64 (n, m).

        Returns:
            Scores as logits (n, m), and boxes (n, m, 4) in pixels of the image.
        """
        with evaluating(self):
            maps = self.maps(images)
            logits, codes = self.siblings(maps, classes)
            return self._best(logits, codes, self.anchors(maps), images.shape[-2:])


def _outputs(layer: nn.Linear, cells: Tensor, chosen: Tensor, classes: int) -> Tensor:
    """The outputs of a layer, at every cell, that belong to some classes.

    Args:
        layer: its outputs are those of the first class, then of the second, and so on.
        cells: (n, C, cells).
        chosen: m classes of each image, int64 (n, m).
        classes: their number.

    Returns:
        (n, m, outputs of a class, cells).
    """
    weights = layer.weight.view(classes, -1, layer.in_features)[chosen]
    biases = layer.bias.view(classes, -1, 1)[chosen]
    found: Tensor = weights.flatten(1, 2) @ cells
    return found.view(biases.shape[0], biases.shape[1], biases.shape[2], -1) + biases


def _misses(boxes: Tensor, targets: Sequence[Target]) -> Tensor:
    """How many of the boxes (n, 4) of images with a visible object are not on one."""
    visible = [target.boxes[~target.ignore] for target in targets]
    most = max((len(one) for one in visible), default=0)
    if not most:
        return boxes.new_zeros(())
    padded = torch.zeros(len(visible), most, 4)
    for row, one in enumerate(visible):
        padded[row, : len(one)] = one
    padded = padded.to(boxes.device)
    hit = paired_iou(boxes[:, None], padded).amax(1) >= CORRECT_IOU
    seen = (padded[:, 0, 2:] > padded[:, 0, :2]).all(1)
    return (seen & ~hit).float().sum()


def paired_iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU of boxes (..., 4) in pairs, broadcast, on their device; 0 for two boxes without area."""
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (one, other)]
    iou: Tensor = common / (areas[0] + areas[1] - common).clamp(min=1e-9)
    return iou
