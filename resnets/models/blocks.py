"""Blocks of a network: convolutions with BN, a shortcut around them, and stages of such blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from resnets.kernels import block
from resnets.kernels import norm as fused
from resnets.kernels import shortcut as strided
from resnets.kernels.norm import watched

ShortcutKind = Literal["none", "A", "B", "C", "highway"]
Order = Literal["post", "pre"]

GATE_BIAS = -2.0  # the start of every gate's bias in the authors' Caffe network for CIFAR-10


class Convolution(NamedTuple):
    """A convolution of a block, padded by half its size: kernel side, filters, stride."""

    size: int
    filters: int
    stride: int


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
    kind: ShortcutKind, order: Order, in_channels: int, out_channels: int, stride: int
) -> nn.Module | None:
    """The shortcut of one block (section 3.3); None where there is none.

    A projection carries BN behind it in the original order and nothing in the
    pre-activation order, where BN and ReLU come before it. Highway networks have ordinary
    layers without a shortcut where the size changes.
    """
    same_size = in_channels == out_channels and stride == 1
    if kind == "none" or (kind == "highway" and not same_size):
        return None
    if same_size and kind != "C":
        return nn.Identity()
    if kind == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    if order == "pre":
        return projection
    return nn.Sequential(projection, nn.BatchNorm2d(out_channels))


class Block(nn.Module):
    """A stack of convolutions with BN, and a shortcut around it.

    With F the convolutions, each with its BN, and ReLU between them:

    - order `post` (Equations 1 and 2): ReLU(F(x) + shortcut(x)), each BN behind its convolution;
    - order `pre` (He et al. 2016b, Figure 1 right): F(x) + shortcut(x), BN and ReLU in front of
      each convolution; a projection shares the first BN and ReLU with F;
    - a `highway` shortcut (Srivastava et al. 2015, Equation 3): T(x) ReLU(F(x)) + (1 - T(x)) x,
      with the gate T(x) a convolution of the size of F's first, with bias, and a sigmoid.

    Args:
        in_channels: channels of the block's input.
        convolutions: F's, from input to output.
        shortcut: `none`, an option of section 3.3, or `highway`.
        order: where BN and ReLU stand.
        activated: whether the input comes from a BN and ReLU, so that order `pre` does not
            repeat them: "the first activation right after conv1" of the paper's appendix.
    """

    downsample: nn.Module | None
    gate: nn.Conv2d | None
    fused = False

    def __init__(
        self,
        in_channels: int,
        convolutions: Sequence[Convolution],
        shortcut: ShortcutKind,
        order: Order = "post",
        activated: bool = False,
    ) -> None:
        super().__init__()
        self.order = order
        self.length = len(convolutions)
        channels = in_channels
        for number, (size, filters, stride) in enumerate(convolutions, 1):
            conv = nn.Conv2d(channels, filters, size, stride, padding=size // 2, bias=False)
            norm: nn.Module = nn.BatchNorm2d(filters if order == "post" else channels)
            if order == "pre" and activated and number == 1:
                norm = nn.Identity()
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", norm)
            channels = filters
        stride = math.prod(convolution.stride for convolution in convolutions)
        self.downsample = make_shortcut(shortcut, order, in_channels, channels, stride)
        self.gate = None
        if shortcut == "highway" and self.downsample is not None:
            size = convolutions[0].size
            self.gate = nn.Conv2d(channels, channels, size, padding=size // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H / stride, W / stride)."""
        if self.order == "pre":
            return self._forward_pre(x)
        if self.gate is not None:
            opened = torch.sigmoid(self.gate(x))
            return opened * F.relu(self.branch(x)) + (1 - opened) * x
        if self.fits_whole(x):
            return block.basic_blocks([self.layers()], x, self.downsample is not None)
        x, shortcut = self._begin(x)
        return normalize(self._norm(self.length), self._convolve_on(x), shortcut)

    def _begin(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The first convolution and the shortcut, of the block's input."""
        first, down = self._convolutions()[0], self.downsample
        if self.fused and self.training:
            if isinstance(down, ZeroPadShortcut) and strided.fits(first, down, down.stride, x):
                return strided.convolution_and_zero_pad(first, x, x.shape[1] + down.extra_channels)
            if isinstance(down, nn.Sequential) and not watched(down):
                return first(x), normalize(down[1], down[0](x), relu=False)
        return first(x), None if down is None else down(x)

    def _forward_pre(self, x: Tensor) -> Tensor:
        activated = self._activate(x)
        out = self._convolve(activated)
        if self.downsample is None:
            return out
        projects = isinstance(self.downsample, nn.Conv2d)
        shortcut: Tensor = self.downsample(activated if projects else x)
        return out + shortcut

    def branch(self, x: Tensor) -> Tensor:
        """F(x): before the addition, in order `post` after the last BN."""
        if self.order == "pre":
            return self._convolve(self._activate(x))
        out: Tensor = self._norm(self.length)(self._convolve(x))
        return out

    def fits_whole(self, x: Tensor) -> bool:
        """Whether kernels can do the block as one."""
        down = self.downsample
        if not (self.fused and self.training) or (down is not None and watched(down)):
            return False
        simple = down is None or isinstance(down, nn.Identity | ZeroPadShortcut)
        return simple and block.fits(self._convolutions(), self._norms(), x)

    def layers(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Each convolution with the BN behind it, of a block that `fits_whole`."""
        norms = cast(list[nn.BatchNorm2d], self._norms())
        return list(zip(self._convolutions(), norms, strict=True))

    def _convolutions(self) -> list[nn.Conv2d]:
        return [cast(nn.Conv2d, self.get_submodule(f"conv{i + 1}")) for i in range(self.length)]

    def _norms(self) -> list[nn.Module]:
        return [self._norm(i + 1) for i in range(self.length)]

    def _norm(self, number: int) -> nn.Module:
        return self.get_submodule(f"bn{number}")

    def _activate(self, x: Tensor) -> Tensor:
        """The first BN and ReLU of order `pre`; ReLU changes nothing of an activated input."""
        return normalize(self._norm(1), x)

    def _convolve(self, x: Tensor) -> Tensor:
        """All convolutions, with BN and ReLU between them."""
        return self._convolve_on(self._convolutions()[0](x))

    def _convolve_on(self, x: Tensor) -> Tensor:
        """What follows the first convolution."""
        for number in range(2, self.length + 1):
            x = normalize(self._norm(number if self.order == "pre" else number - 1), x)
            x = self.get_submodule(f"conv{number}")(x)
        return x


def normalize(
    norm: nn.Module, x: Tensor, shortcut: Tensor | None = None, relu: bool = True
) -> Tensor:
    """ReLU(norm(x) + shortcut), by one kernel where `fuse` was called and it can be done."""
    if norm.training and getattr(norm, "fused", False) and fused.fits(norm, x, shortcut):
        return fused.norm_relu(cast(nn.BatchNorm2d, norm), x, shortcut, relu)
    out: Tensor = norm(x)
    if shortcut is not None:
        out = out + shortcut
    return F.relu(out) if relu else out


def fuse(network: nn.Module) -> None:
    """Have trainings on CPUs use this project's kernels, for all that those can do."""
    for module in network.modules():
        if isinstance(module, Block | nn.BatchNorm2d):
            module.fused = True


class Stage(nn.Sequential):
    """The blocks that share one size of map.

    With `save_memory` set, training keeps the input of every few blocks only and computes
    what lies between again in the backward pass: memory for the square root of the depth.
    """

    save_memory = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H / stride, W / stride)."""
        if not (self.save_memory and self.training and torch.is_grad_enabled()):
            return _through(list(self), x)
        blocks = list(self)
        several = math.isqrt(len(blocks))
        for start in range(0, len(blocks), several):
            segment = blocks[start : start + several]
            x = checkpoint(
                partial(_through, segment),
                x,
                use_reentrant=False,
                preserve_rng_state=False,
                context_fn=partial(_contexts, segment),
            )
        return x


def _through(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    """x through blocks in a row; those that kernels can do together are done so."""
    place = 0
    while place < len(blocks):
        together = _together(blocks[place:], x)
        if together:
            adds = together[0].downsample is not None
            x = block.basic_blocks([each.layers() for each in together], x, adds)
        else:
            x = blocks[place](x)
        place += len(together) or 1
    return x


def _together(blocks: Sequence[nn.Module], x: Tensor) -> list[Block]:
    """The first blocks that are one operation: a stage's equals; one that halves the maps alone."""
    found: list[Block] = []
    for each in blocks:
        if not isinstance(each, Block) or watched(each) or not each.fits_whole(x):
            break
        halves = each.layers()[0][0].stride != (1, 1)
        if found and (halves or (each.downsample is None) != (found[0].downsample is None)):
            break
        found.append(each)
        if halves:
            break
    return found


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
