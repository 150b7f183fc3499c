"""Installs this project's CPU kernels into a network that is trained.

`use_cpu_kernels` replaces the `operations` of the network, its stages and its blocks. Whatever the
kernels do not support (evaluation, other devices, modules with hooks, ...) is left to PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from resnets.kernels import block as block_kernels
from resnets.kernels import norm as norm_kernels
from resnets.models.blocks import (
    PYTORCH,
    Block,
    Operations,
    Stage,
    ZeroPadShortcut,
    has_hooks,
)
from resnets.models.residual import ResidualNetwork


def use_cpu_kernels(network: nn.Module) -> None:
    """Have `network`, when trained on a CPU, use this project's kernels where they fit.

    Modules that have been given other `operations` before keep them.

    Args:
        network: a `ResidualNetwork`, or stages and blocks of one.
    """
    for module in network.modules():
        if isinstance(module, Block | Stage | ResidualNetwork) and module.operations is PYTORCH:
            module.operations = _KERNELS


class CpuKernels(Operations):
    """Whole blocks, or else BN with the addition and ReLU after it, as one operation each."""

    def norm_relu(
        self, norm: nn.Module, x: Tensor, shortcut: Tensor | None = None, relu: bool = True
    ) -> Tensor:
        if norm.training and norm_kernels.fits(norm, x, shortcut):
            return norm_kernels.norm_relu(cast(nn.BatchNorm2d, norm), x, shortcut, relu)
        return super().norm_relu(norm, x, shortcut, relu)

    def convolve_and_shortcut(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor | None]:
        first, shortcut = block.convolutions()[0], block.downsample
        if block.training and isinstance(shortcut, ZeroPadShortcut):
            if fits_zero_pad(first, shortcut, x):
                return convolve_and_zero_pad(first, shortcut, x)
        elif block.training and isinstance(shortcut, nn.Sequential) and not has_hooks(shortcut):
            return first(x), self.norm_relu(shortcut[1], shortcut[0](x), relu=False)
        return super().convolve_and_shortcut(block, x)

    def block(self, block: Block, x: Tensor) -> Tensor:
        if _fits(block, x):
            return block_kernels.basic_blocks([_layers(block)], x, block.downsample is not None)
        return super().block(block, x)

    def blocks(self, blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        start = 0
        while start < len(blocks):
            together = _fused_blocks(blocks[start:], x)
            if together:
                adds = together[0].downsample is not None
                x = block_kernels.basic_blocks([_layers(block) for block in together], x, adds)
            else:
                x = blocks[start](x)
            start += len(together) or 1
        return x


_KERNELS = CpuKernels()


def _fits(block: Block, x: Tensor) -> bool:
    """Whether `basic_blocks` supports this block."""
    shortcut = block.downsample
    if not block.training or block.order != "post" or block.gate is not None:
        return False
    if shortcut is not None and has_hooks(shortcut):
        return False
    parameter_free = shortcut is None or isinstance(shortcut, nn.Identity | ZeroPadShortcut)
    return parameter_free and block_kernels.fits(block.convolutions(), block.norms(), x)


def _layers(block: Block) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Each convolution of a block with the BN after it."""
    norms = cast(list[nn.BatchNorm2d], block.norms())
    return list(zip(block.convolutions(), norms, strict=True))


def _fused_blocks(blocks: Sequence[nn.Module], x: Tensor) -> list[Block]:
    """The leading blocks that `basic_blocks` computes in one call.

    They have the same kind of shortcut; a block with stride 2 stands alone.
    """
    found: list[Block] = []
    for block in blocks:
        if not isinstance(block, Block) or has_hooks(block) or not _fits(block, x):
            break
        halves = block.convolutions()[0].stride != (1, 1)
        if found and (halves or (block.downsample is None) != (found[0].downsample is None)):
            break
        found.append(block)
        if halves:
            break
    return found


def fits_zero_pad(convolution: nn.Conv2d, shortcut: ZeroPadShortcut, x: Tensor) -> bool:
    """Whether `convolve_and_zero_pad` supports these arguments.

    x must be on the CPU, channels_last, and of the type that the convolution computes in.
    """
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else convolution.weight.dtype
    return (
        x.device.type == "cpu"
        and x.dtype == dtype
        and x.is_contiguous(memory_format=torch.channels_last)
        and convolution.stride == (shortcut.stride, shortcut.stride)
        and convolution.bias is None
        and not has_hooks(convolution)
        and not has_hooks(shortcut)
    )


def convolve_and_zero_pad(
    convolution: nn.Conv2d, shortcut: ZeroPadShortcut, x: Tensor
) -> tuple[Tensor, Tensor]:
    """convolution(x) and shortcut(x), whose backward pass adds both gradients of x in place.

    PyTorch would allocate a map of zeros for the shortcut's gradients, in another memory order, and
    add it to the convolution's: a twentieth of a step of 20 layers.
    """
    filters = x.shape[1] + shortcut.extra_channels
    both: tuple[Tensor, Tensor] = _ConvolveAndZeroPad.apply(
        x, convolution.weight, shortcut.stride, filters
    )
    return both


class _ConvolveAndZeroPad(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, filters: int
    ) -> tuple[Tensor, Tensor]:
        w = weight.to(x.dtype)
        padding = w.shape[-1] // 2
        maps = F.conv2d(x, w, stride=stride, padding=padding)
        kept = x[:, :, ::stride, ::stride]
        padded = x.new_zeros(len(x), filters, *kept.shape[2:]).to(memory_format=torch.channels_last)
        padded[:, : x.shape[1]] = kept
        ctx.stride, ctx.padding, ctx.dtype = stride, padding, weight.dtype
        ctx.save_for_backward(x, w)
        return maps, padded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_maps: Tensor, to_padded: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        stride, padding = [ctx.stride] * 2, [ctx.padding] * 2
        needed = [*ctx.needs_input_grad[:2], False]  # parts of the network may be frozen
        to_x, to_w, _ = torch.ops.aten.convolution_backward(
            to_maps, x, w, None, stride, padding, [1, 1], False, [0, 0], 1, needed
        )
        if to_x is not None:
            to_x[:, :, :: ctx.stride, :: ctx.stride] += to_padded[:, : x.shape[1]]
        return to_x, None if to_w is None else to_w.to(ctx.dtype), None, None
