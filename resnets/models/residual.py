"""Residual networks and their plain twins, from one definition.

An `Architecture` is a row of orthogonal choices; `ResidualNetwork` builds the
network that the row describes. He et al. 2016, sections 3.1 to 3.4 and 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

BlockKind = Literal["basic", "bottleneck"]
ShortcutKind = Literal["none", "A", "B", "C"]
StrideIn = Literal["1x1", "3x3"]
StemKind = Literal["imagenet", "cifar"]
PoolKind = Literal["padded", "ceil"]

BOTTLENECK_EXPANSION = 4  # Table 1: the last 1x1 has four times the filters of the 3x3


@dataclass(frozen=True)
class Architecture:
    """Everything that distinguishes one network of the paper from another.

    Args:
        block: `basic` (two 3x3) or `bottleneck` (1x1, 3x3, 1x1), Figure 5.
        shortcut: `none` (a plain network), or option `A`, `B`, `C` of section 3.3.
        depths: number of blocks in each stage.
        widths: filters of the 3x3 convolutions in each stage.
        stem: `imagenet` (7x7/2 and a 3x3/2 max pool) or `cifar` (one 3x3).
        stride_in: the bottleneck convolution that carries the stride: `1x1` as in
            the paper (v1) or `3x3` (v1.5). Without meaning for basic blocks.
        classes: number of outputs.
        pool: how the `imagenet` stem's 3x3/2 max pool halves the map: `padded` by one pixel
            on every side, or `ceil`, as the authors' framework does it: no padding, the last
            window cut off at the border. The same size, shifted by one pixel.

    Raises:
        ValueError: if a choice is unknown or a size is not positive.
    """

    block: BlockKind
    shortcut: ShortcutKind
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: StemKind
    stride_in: StrideIn = "1x1"
    classes: int = 1000
    pool: PoolKind = "padded"

    def __post_init__(self) -> None:
        for field, kinds in (
            ("block", BlockKind),
            ("shortcut", ShortcutKind),
            ("stem", StemKind),
            ("stride_in", StrideIn),
            ("pool", PoolKind),
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

    @property
    def layers(self) -> int:
        """Weighted layers on the main path, as the paper counts depth."""
        per_block = 2 if self.block == "basic" else 3
        return per_block * sum(self.depths) + 2

    def with_classes(self, classes: int) -> Architecture:
        """The same network with another number of outputs."""
        return replace(self, classes=classes)


class ZeroPadShortcut(nn.Module):
    """Option A: every stride-th pixel, new channels filled with zeros; no parameters.

    The zeros follow the identity channels. The paper leaves their place open; any
    other place is the same network up to a permutation of channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, extra_channels={self.extra_channels}"


def make_shortcut(
    kind: ShortcutKind, in_channels: int, out_channels: int, stride: int
) -> nn.Module | None:
    """The shortcut of one block (section 3.3); None in a plain network."""
    if kind == "none":
        return None
    same_size = in_channels == out_channels and stride == 1
    if same_size and kind != "C":
        return nn.Identity()
    if kind == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class Block(nn.Module):
    """A stack of convolutions with BN, a shortcut added, then ReLU (Equations 1 and 2)."""

    downsample: nn.Module | None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H / stride, W / stride)."""
        out = self.branch(x)
        if self.downsample is not None:
            out = out + self.downsample(x)
        return F.relu(out)

    def branch(self, x: Tensor) -> Tensor:
        """F(x) of Equation 1: after the last BN, before the addition."""
        raise NotImplementedError


class BasicBlock(Block):
    """Two 3x3 convolutions (Figure 5, left)."""

    def __init__(
        self, in_channels: int, width: int, stride: int, shortcut: ShortcutKind, stride_in: StrideIn
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = make_shortcut(shortcut, in_channels, width, stride)

    def branch(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return out


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions (Figure 5, right)."""

    def __init__(
        self, in_channels: int, width: int, stride: int, shortcut: ShortcutKind, stride_in: StrideIn
    ) -> None:
        super().__init__()
        out_channels = width * BOTTLENECK_EXPANSION
        stride1, stride2 = (stride, 1) if stride_in == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride)

    def branch(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out


class Stage(nn.Sequential):
    """The blocks that share one size of map.

    With `save_memory` set, training keeps the input of every few blocks only and computes
    what lies between again in the backward pass: memory for the square root of the depth.
    """

    save_memory = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H / stride, W / stride)."""
        if not (self.save_memory and self.training and torch.is_grad_enabled()):
            for block in self:
                x = block(x)
            return x
        blocks = list(self)
        several = math.isqrt(len(blocks))
        for start in range(0, len(blocks), several):
            segment = blocks[start : start + several]
            x = checkpoint(
                nn.Sequential(*segment),
                x,
                use_reentrant=False,
                preserve_rng_state=False,
                context_fn=partial(_contexts, segment),
            )
        return x


def _contexts(
    blocks: Sequence[nn.Module],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds the computation of some blocks, and its repetition."""
    return nullcontext(), _still(blocks)


@contextmanager
def _still(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Keep BN's running statistics from counting the same batch a second time."""
    kind = nn.modules.batchnorm._BatchNorm  # of one process or of several
    norms = [m for block in blocks for m in block.modules() if isinstance(m, kind)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


class ResidualNetwork(nn.Module):
    """The network that an `Architecture` describes, He-initialised (section 3.4).

    Parameter names equal torchvision's `resnet`. Input (N, 3, H, W); output logits
    (N, classes).
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        channels = architecture.widths[0]
        if architecture.stem == "imagenet":
            self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
            ceil = architecture.pool == "ceil"
            self.maxpool: nn.Module = nn.MaxPool2d(
                3, stride=2, padding=0 if ceil else 1, ceil_mode=ceil
            )
        else:
            self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
            self.maxpool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(channels)
        block = BasicBlock if architecture.block == "basic" else Bottleneck
        expansion = 1 if architecture.block == "basic" else BOTTLENECK_EXPANSION
        self.stage_names = tuple(f"layer{i}" for i in range(1, len(architecture.depths) + 1))
        for stage, (name, depth, width) in enumerate(
            zip(self.stage_names, architecture.depths, architecture.widths, strict=True)
        ):
            blocks = []
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(
                    block(channels, width, stride, architecture.shortcut, architecture.stride_in)
                )
                channels = width * expansion
            self.add_module(name, Stage(*blocks))
        self.fc = nn.Linear(channels, architecture.classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation, std sqrt(2 / fan-in); BN starts as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                # The paper leaves the classifier's start open: unit-variance logits.
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)

    def blocks(self) -> list[tuple[str, Block]]:
        """Every block with its name, from input to output."""
        return [
            (f"{stage}.{i}", block)
            for stage in self.stage_names
            for i, block in enumerate(self.get_submodule(stage).children())
            if isinstance(block, Block)
        ]

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Output maps (N, C, H, W) of the stem and of every stage, in order."""
        maps = {}
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        maps["stem"] = x
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
            maps[name] = x
        return maps

    def head(self, x: Tensor) -> Tensor:
        """Global average pooling and classifier: (N, C, H, W) to logits (N, classes)."""
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits

    def dense_head(self, x: Tensor, window: int | tuple[int, int] = 1) -> Tensor:
        """The head applied at every location, for fully convolutional testing.

        Args:
            x: last feature map, (N, C, H, W).
            window: side of the average pool in front of the classifier; the training
                crop's last map (7 for a 224 crop) gives the paper's dense test (section
                3.4), 1 the logits of single locations.

        Returns:
            Logits (N, classes, H - window + 1, W - window + 1).
        """
        pooled = F.avg_pool2d(x, window, stride=1)
        return F.conv2d(pooled, self.fc.weight[:, :, None, None], self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) to logits (N, classes)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
        return self.head(x)
