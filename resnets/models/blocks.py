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
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

ShortcutKind = Literal["none", "A", "B", "C", "highway"]
Order = Literal["post", "pre"]

GATE_BIAS = -2.0  # initial bias of every gate in the authors' Caffe network for CIFAR-10


class Convolution(NamedTuple):
    """A convolution of a block, padded by half its kernel: kernel size, filters, stride."""

    size: int
    filters: int
    stride: int


def has_hooks(module: nn.Module) -> bool:
    """Whether forward or backward hooks are registered on the module."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class Operations:
    """How blocks are computed: here, by PyTorch's operations one after the other.

    `resnets.kernels.fuse.use_cpu_kernels` replaces it, in the attribute `operations` of networks,
    stages and blocks, by a subclass that computes several of them at once.
    """

    def norm_relu(
        self, norm: nn.Module, x: Tensor, shortcut: Tensor | None = None, relu: bool = True
    ) -> Tensor:
        """ReLU(norm(x) + shortcut), without the addition or ReLU where they are left out."""
        out: Tensor = norm(x)
        if shortcut is not None:
            out = out + shortcut
        return F.relu(out) if relu else out

    def convolve_and_shortcut(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Outputs of a block's first convolution and of its shortcut for the block's input x."""
        first = block.convolutions()[0](x)
        return first, None if block.downsample is None else block.downsample(x)

    def block(self, block: Block, x: Tensor) -> Tensor:
        """ReLU(F(x) + shortcut(x)) of one block of order `post` without a gate."""
        first, shortcut = self.convolve_and_shortcut(block, x)
        return self.norm_relu(block.norms()[-1], block.convolve_rest(first), shortcut)

    def blocks(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Output of several blocks in a row for the first one's input x."""
        for block in blocks:
            x = block(x)
        return x


PYTORCH = Operations()


class ZeroPadShortcut(nn.Module):
    """Option A: every stride-th pixel, new channels filled with zeros; no parameters.

    The zeros follow the identity channels. The paper leaves their position open; any
    other position is the same network up to a permutation of channels.
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
    """The shortcut of one block (section 3.3); None if it has none.

    A projection is followed by BN in order `post`. In order `pre` it has none, because BN and
    ReLU come before it. Highway networks have ordinary layers without a shortcut where the size
    changes.
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

    - order `post` (Equations 1 and 2): ReLU(F(x) + shortcut(x)), each BN after its convolution;
    - order `pre` (He et al. 2016b, Figure 1 right): F(x) + shortcut(x), BN and ReLU before
      each convolution; a projection shares the first BN and ReLU with F;
    - a `highway` shortcut (Srivastava et al. 2015, Equation 3): T(x) ReLU(F(x)) + (1 - T(x)) x.
      The gate T(x) is a convolution with bias, of the kernel size of F's first, and a sigmoid.

    Args:
        in_channels: channels of the block's input.
        convolutions: F's, from input to output.
        shortcut: `none`, an option of section 3.3, or `highway`.
        order: whether BN and ReLU come after or before each convolution.
        activated: whether the input has passed a BN and ReLU, those of the stem, so that a block
            of order `pre` has no BN of its own before its first convolution (the appendix of He
            et al. 2016b: "the first activation right after conv1"). Order `post` ignores it.
    """

    downsample: nn.Module | None
    gate: nn.Conv2d | None
    operations: Operations = PYTORCH

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
        return self.operations.block(self, x)

    def _forward_pre(self, x: Tensor) -> Tensor:
        activated = self._activate(x)
        out = self._convolve(activated)
        if self.downsample is None:
            return out
        projects = isinstance(self.downsample, nn.Conv2d)
        shortcut: Tensor = self.downsample(activated if projects else x)
        return out + shortcut

    def branch(self, x: Tensor) -> Tensor:
        """F(x), the summand beside the shortcut; in order `post` the output of the last BN."""
        if self.order == "pre":
            return self._convolve(self._activate(x))
        out: Tensor = self.norms()[-1](self._convolve(x))
        return out

    def convolutions(self) -> list[nn.Conv2d]:
        """F's convolutions, from input to output."""
        return [cast(nn.Conv2d, self.get_submodule(f"conv{i + 1}")) for i in range(self.length)]

    def norms(self) -> list[nn.Module]:
        """The BN after each convolution, in order `pre` before it; an identity if it has none."""
        return [self.get_submodule(f"bn{i + 1}") for i in range(self.length)]

    def convolve_rest(self, x: Tensor) -> Tensor:
        """The output of F's last convolution for that of its first, without F's last BN."""
        norms = self.norms()[1:] if self.order == "pre" else self.norms()[:-1]
        for norm, convolution in zip(norms, self.convolutions()[1:], strict=True):
            x = convolution(self.operations.norm_relu(norm, x))
        return x

    def _activate(self, x: Tensor) -> Tensor:
        """The first BN and ReLU of order `pre`; ReLU does not change an activated input."""
        return self.operations.norm_relu(self.norms()[0], x)

    def _convolve(self, x: Tensor) -> Tensor:
        """All convolutions, with BN and ReLU between them."""
        return self.convolve_rest(self.convolutions()[0](x))


class Stage(nn.Sequential):
    """The blocks whose maps have one size.

    With `save_memory`, training keeps only the input of every few blocks and computes the
    activations between them again in the backward pass: memory grows as the square root of depth.
    """

    save_memory: bool = False
    operations: Operations = PYTORCH

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, H / stride, W / stride)."""
        blocks = list(self)
        if not (self.save_memory and self.training and torch.is_grad_enabled()):
            return self.operations.blocks(blocks, x)
        length = math.isqrt(len(blocks))
        for start in range(0, len(blocks), length):
            segment = blocks[start : start + length]
            x = checkpoint(
                partial(self.operations.blocks, segment),
                x,
                use_reentrant=False,
                preserve_rng_state=False,
                context_fn=partial(_checkpoint_contexts, segment),
            )
        return x


def _checkpoint_contexts(
    blocks: Sequence[nn.Module],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of the first and of the repeated computation of some blocks."""
    return nullcontext(), _no_statistics_update(blocks)


@contextmanager
def _no_statistics_update(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Keep BN's running statistics from counting the same batch a second time."""
    norms = [m for block in blocks for m in block.modules() if isinstance(m, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
