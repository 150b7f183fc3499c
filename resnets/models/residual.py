"""Residual networks, their plain twins and their relatives, from one definition.

An `Architecture` is a row of orthogonal choices; `ResidualNetwork` builds the
network that the row describes. He et al. 2016, sections 3.1 to 3.4 and 4.2; Srivastava et al.
2015 (highway networks); He et al. 2016b, "Identity Mappings in Deep Residual Networks".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnets.models.blocks import (
    GATE_BIAS,
    PYTORCH,
    Block,
    Convolution,
    Operations,
    Order,
    ShortcutKind,
    Stage,
)

BlockKind = Literal["single", "alternating", "basic", "bottleneck"]
StrideIn = Literal["1x1", "3x3"]
StemKind = Literal["imagenet", "cifar", "small"]
PoolKind = Literal["padded", "ceil"]

BOTTLENECK_EXPANSION = 4  # Table 1: the last 1x1 has four times the filters of the 3x3


@dataclass(frozen=True)
class Architecture:
    """Everything that distinguishes one network of the paper from another.

    Args:
        block: `basic` (two 3x3) or `bottleneck` (1x1, 3x3, 1x1), Figure 5; `single` (one 3x3:
            y = W1 x + x of section 3.2), or `alternating` (one 3x3, then one 1x1, and so on).
        shortcut: `none` (a plain network), option `A`, `B`, `C` of section 3.3, or `highway`:
            an identity with a gate, and nothing where the size changes.
        depths: number of blocks in each stage.
        widths: filters of the 3x3 convolutions in each stage.
        stem: `imagenet` (7x7/2 and a 3x3/2 max pool), `cifar` (one 3x3), or `small` (one 3x3/2),
            which gives images of 64 pixels maps of 32, 16, 8 and 4.
        stride_in: the bottleneck convolution that carries the stride: `1x1` as in
            the paper (v1) or `3x3` (v1.5). Basic blocks ignore it.
        classes: number of outputs.
        pool: how the `imagenet` stem's 3x3/2 max pool halves the map: `padded` by one pixel
            on every side, or `ceil` as in the authors' framework, without padding and with the
            last window cut off at the border. The maps have the same size, shifted by one pixel.
        order: where BN and ReLU are: `post`, after each convolution as in the paper, or `pre`,
            before each convolution and once more after the last block (He et al. 2016b).

    Raises:
        ValueError: if a choice is unknown, a size is not positive, or choices exclude each
            other.
    """

    block: BlockKind
    shortcut: ShortcutKind
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: StemKind
    stride_in: StrideIn = "1x1"
    classes: int = 1000
    pool: PoolKind = "padded"
    order: Order = "post"

    def __post_init__(self) -> None:
        for field, kinds in (
            ("block", BlockKind),
            ("shortcut", ShortcutKind),
            ("stem", StemKind),
            ("stride_in", StrideIn),
            ("pool", PoolKind),
            ("order", Order),
        ):
            if getattr(self, field) not in get_args(kinds):
                raise ValueError(
                    f"{field} must be one of {', '.join(get_args(kinds))}, "
                    f"not {getattr(self, field)!r}"
                )
        if not self.depths or len(self.depths) != len(self.widths):
            raise ValueError("depths and widths need one entry per stage")
        if min(*self.depths, *self.widths, self.classes) < 1:
            raise ValueError("depths, widths and classes must be positive")
        if self.shortcut == "highway" and self.order == "pre":
            raise ValueError(
                "shortcut 'highway' must be of order 'post': order 'pre' does not define its gate"
            )

    @property
    def layers(self) -> int:
        """Number of weighted layers on the main path, as the paper counts depth."""
        return len(self.convolutions(1, 1, 0)) * sum(self.depths) + 2

    @property
    def expansion(self) -> int:
        """Ratio of a stage's output channels to its width."""
        return BOTTLENECK_EXPANSION if self.block == "bottleneck" else 1

    def convolutions(self, width: int, stride: int, index: int) -> tuple[Convolution, ...]:
        """The convolutions of a block, from input to output.

        Args:
            width: filters of the 3x3 convolutions.
            stride: the block's.
            index: number of the block in its stage, from 0.
        """
        if self.block == "single" or self.block == "alternating":
            size = 1 if self.block == "alternating" and index % 2 else 3
            return (Convolution(size, width, stride),)
        if self.block == "basic":
            return Convolution(3, width, stride), Convolution(3, width, 1)
        first, second = (stride, 1) if self.stride_in == "1x1" else (1, stride)
        return (
            Convolution(1, width, first),
            Convolution(3, width, second),
            Convolution(1, BOTTLENECK_EXPANSION * width, 1),
        )

    def with_classes(self, classes: int) -> Architecture:
        """The same network with another number of outputs."""
        return replace(self, classes=classes)


class ResidualNetwork(nn.Module):
    """The network that an `Architecture` describes, He-initialised (section 3.4).

    Parameter names equal torchvision's `resnet`. Input (N, 3, H, W); output logits
    (N, classes).

    `operations` computes BN and ReLU of the stem; stages and blocks have their own.
    """

    operations: Operations = PYTORCH

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        channels = architecture.widths[0]
        self.maxpool: nn.Module = nn.Identity()
        if architecture.stem == "imagenet":
            self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
            ceil = architecture.pool == "ceil"
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=0 if ceil else 1, ceil_mode=ceil)
        else:
            stride = 2 if architecture.stem == "small" else 1
            self.conv1 = nn.Conv2d(3, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.stage_names = tuple(f"layer{i}" for i in range(1, len(architecture.depths) + 1))
        for stage, name in enumerate(self.stage_names):
            self.add_module(name, self._make_stage(stage, channels))
            channels = architecture.widths[stage] * architecture.expansion
        self.last_bn = nn.BatchNorm2d(channels) if architecture.order == "pre" else None
        self.fc = nn.Linear(channels, architecture.classes)
        self.reset_parameters()

    def _make_stage(self, stage: int, channels: int) -> Stage:
        """Stage number `stage`, from 0, for an input of `channels` channels."""
        row, blocks = self.architecture, []
        width = row.widths[stage]
        for i in range(row.depths[stage]):
            stride = 2 if stage > 0 and i == 0 else 1
            convolutions = row.convolutions(width, stride, i)
            activated = stage == i == 0
            blocks.append(Block(channels, convolutions, row.shortcut, row.order, activated))
            channels = width * row.expansion
        return Stage(*blocks)

    def reset_parameters(self) -> None:
        """He initialisation, std sqrt(2 / fan-in); BN with gamma 1, beta 0; gates nearly closed."""
        if self.fc.weight.is_meta:
            return  # has no values; PyTorch would import its compiler for them, in two seconds
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
                if module.bias is not None:  # a gate's
                    nn.init.constant_(module.bias, GATE_BIAS)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                # The paper does not specify the classifier's initialisation: unit-variance logits.
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)

    def parts(self) -> dict[str, list[nn.Module]]:
        """The network in named parts, from input to output: `stem`, `layer1` and so on, `fc`."""
        parts: dict[str, list[nn.Module]] = {"stem": [self.conv1, self.bn1]}
        parts |= {name: [self.get_submodule(name)] for name in self.stage_names}
        if self.last_bn is not None:
            parts[self.stage_names[-1]].append(self.last_bn)
        return parts | {"fc": [self.fc]}

    def blocks(self) -> list[tuple[str, Block]]:
        """Every block with its name, from input to output."""
        return [
            (f"{stage}.{i}", block)
            for stage in self.stage_names
            for i, block in enumerate(self.get_submodule(stage).children())
            if isinstance(block, Block)
        ]

    def stem(self, x: Tensor) -> Tensor:
        """First convolution and pooling: images (N, 3, H, W) to maps."""
        maps: Tensor = self.maxpool(self.operations.norm_relu(self.bn1, self.conv1(x)))
        return maps

    def end(self, x: Tensor) -> Tensor:
        """BN and ReLU after the last addition, which only order `pre` has."""
        return x if self.last_bn is None else self.operations.norm_relu(self.last_bn, x)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Output maps (N, C, H, W) of the stem and of every stage, in order.

        The last one is the input of `head`: in order `pre` after the last BN and ReLU.
        """
        x = self.stem(x)
        maps = {"stem": x}
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
            maps[name] = x
        maps[self.stage_names[-1]] = self.end(x)
        return maps

    def head(self, x: Tensor) -> Tensor:
        """Global average pooling and classifier: (N, C, H, W) to logits (N, classes)."""
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits

    def dense_head(self, x: Tensor, window: int | tuple[int, int] = 1) -> Tensor:
        """The head applied at every location, for fully convolutional testing.

        Args:
            x: last feature map, (N, C, H, W).
            window: side, or height and width, of the average pool before the classifier. The
                size of the training crop's last map (7 for a crop of 224 pixels) is the paper's
                dense test (section 3.4); 1 gives the logits of single locations.

        Returns:
            Logits (N, classes, H - window + 1, W - window + 1).
        """
        pooled = F.avg_pool2d(x, window, stride=1)
        return F.conv2d(pooled, self.fc.weight[:, :, None, None], self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, classes)."""
        x = self.stem(x)
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return self.head(self.end(x))
