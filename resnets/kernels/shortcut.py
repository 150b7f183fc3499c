"""The way back through option A: what the shortcut brings is added where it belongs, in place.

Left to itself, PyTorch makes a map of zeros with the shortcut's gradients in it, in another order
of memory, and adds that to the convolution's: a twentieth of a step of 20 layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from resnets.kernels.norm import watched


def fits(convolution: nn.Conv2d, shortcut: nn.Module, stride: int, x: Tensor) -> bool:
    """Whether both, of this stride, can be done together on x.

    x must be on the CPU, channels_last, and of the type that the convolution would compute in.
    """
    half = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if half else convolution.weight.dtype
    return (
        x.device.type == "cpu"
        and x.dtype == dtype
        and x.is_contiguous(memory_format=torch.channels_last)
        and convolution.stride == (stride, stride)
        and convolution.bias is None
        and not watched(convolution)
        and not watched(shortcut)
    )


def convolution_and_zero_pad(
    convolution: nn.Conv2d, x: Tensor, filters: int
) -> tuple[Tensor, Tensor]:
    """conv(x), and every stride-th pixel of x with zeros for channels up to `filters`."""
    both: tuple[Tensor, Tensor] = _Both.apply(x, convolution.weight, convolution.stride[0], filters)
    return both


class _Both(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, filters: int
    ) -> tuple[Tensor, Tensor]:
        w = weight.to(x.dtype)
        side = w.shape[-1] // 2
        maps = F.conv2d(x, w, stride=stride, padding=side)
        seen = x[:, :, ::stride, ::stride]
        padded = x.new_zeros(len(x), filters, *seen.shape[2:]).to(memory_format=torch.channels_last)
        padded[:, : x.shape[1]] = seen
        ctx.stride, ctx.side, ctx.dtype = stride, side, weight.dtype
        ctx.save_for_backward(x, w)
        return maps, padded

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_maps: Tensor, to_padded: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        stride, side = [ctx.stride] * 2, [ctx.side] * 2
        to_x, to_w, _ = torch.ops.aten.convolution_backward(
            to_maps, x, w, None, stride, side, [1, 1], False, [0, 0], 1, [True, True, False]
        )
        to_x[:, :, :: ctx.stride, :: ctx.stride] += to_padded[:, : x.shape[1]]
        return to_x, to_w.to(ctx.dtype), None, None
