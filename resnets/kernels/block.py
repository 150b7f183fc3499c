"""A basic block of two 3x3 convolutions as one operation of a training in bf16 on CPUs.

The convolutions are this project's own, because only so can BN and ReLU be done where they are
read and summed up where they are written (block.cpp). oneDNN's are as fast where the CPU has
matrix units (AMX), so there the block stays as it is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnets.kernels import native
from resnets.kernels.norm import plain_norm, pointer

CHANNELS = (16, 32, 64)


class _Layer(ctypes.Structure):
    """A convolution with its BN: `Layer` of block.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("w", "weight", "bias", "mean", "variance")),
        ("momentum", ctypes.c_float),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("state", "to_w", "to_weight", "to_bias")),
    ]


def available() -> bool:
    """Whether the kernels are here and this CPU has the instructions."""
    library = native.library("block")
    return library is not None and bool(library.block_available())


def fits(convolutions: Sequence[nn.Conv2d], norms: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether these two layers, on x, are what `basic_block` can do.

    The caller has seen to it that the block keeps channels and size.
    """
    return (
        len(convolutions) == 2
        and x.shape[1] in CHANNELS
        and x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and x.shape[2] % 2 == 0
        and (x.shape[3] % 4 == 0 or x.shape[3] % 6 == 0)
        and x.is_contiguous(memory_format=torch.channels_last)
        and all(map(_plain_convolution, convolutions))
        and all(map(plain_norm, norms))
    )


def _plain_convolution(convolution: nn.Conv2d) -> bool:
    """Whether it is of 3x3 in float32, and nothing else watches it."""
    return (
        convolution.kernel_size == (3, 3)
        and convolution.weight.dtype == torch.float32
        and not convolution._forward_hooks
        and not convolution._forward_pre_hooks
    )


def basic_block(
    convolutions: Sequence[nn.Conv2d], norms: Sequence[nn.BatchNorm2d], x: Tensor, adds: bool
) -> Tensor:
    """ReLU(F(x) + x), or ReLU(F(x)) where `adds` is false, with F the two layers.

    Args:
        x: maps (N, C, H, W), bf16, channels_last, for which it `fits`.
    """
    learned = [
        p for c, n in zip(convolutions, norms, strict=True) for p in (c.weight, n.weight, n.bias)
    ]
    with torch.no_grad():
        for norm in norms:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += 1
    out: Tensor = _BasicBlock.apply(x, adds, norms, *learned)
    return out


class _BasicBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, adds: bool, norms: Sequence[nn.BatchNorm2d], *learned: Tensor
    ) -> Tensor:
        y1, y2, out = (torch.empty_like(x) for _ in range(3))
        state = torch.empty(2, 4, x.shape[1])
        layers = (_Layer * 2)()
        kernels = [_taps_first(w) for w in learned[::3]]  # alive until the call has ended
        for i, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
            layer.w, layer.state = kernels[i].data_ptr(), state[i].data_ptr()
            layer.weight, layer.bias = norm.weight.data_ptr(), norm.bias.data_ptr()
            layer.mean, layer.variance = pointer(norm.running_mean), pointer(norm.running_var)
            layer.momentum, layer.eps = norm.momentum, norm.eps
        _call("block_forward")(
            *_size(x), adds, *(t.data_ptr() for t in (x, y1, y2, out)), ctypes.byref(layers)
        )
        ctx.adds = adds
        ctx.save_for_backward(x, y1, y2, out, state, *learned[::3])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y1, y2, out, state, *weights = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        g1, g2, to_x = (torch.empty_like(x) for _ in range(3))
        layers = (_Layer * 2)()
        kernels = [_taps_first(w) for w in weights]
        to_w, to_norm = [torch.empty_like(w) for w in kernels], torch.empty(2, 2, x.shape[1])
        for i, layer in enumerate(layers):
            layer.w, layer.state = kernels[i].data_ptr(), state[i].data_ptr()
            layer.to_w = to_w[i].data_ptr()
            layer.to_weight, layer.to_bias = to_norm[i, 0].data_ptr(), to_norm[i, 1].data_ptr()
        _call("block_backward")(
            *_size(x), ctx.adds,
            *(t.data_ptr() for t in (gradient, x, y1, y2, out, g1, g2, to_x)), ctypes.byref(layers),
        )  # fmt: skip
        made = [(w.permute(0, 3, 1, 2), *of) for w, of in zip(to_w, to_norm, strict=True)]
        return to_x, None, None, *made[0], *made[1]


def _taps_first(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) as (out, 3, 3, in) in memory: no copy where it is channels_last."""
    return weight.permute(0, 2, 3, 1).contiguous()


def _size(x: Tensor) -> tuple[int, int, int, int]:
    """Channels, images, height, width."""
    return x.shape[1], x.shape[0], x.shape[2], x.shape[3]


@cache
def _call(name: str) -> Any:
    library = native.library("block")
    assert library is not None
    function = library[name]
    maps = 4 if name == "block_forward" else 8
    function.argtypes = [
        *[ctypes.c_int64] * 4, ctypes.c_int32, *[ctypes.c_void_p] * maps, ctypes.c_void_p
    ]  # fmt: skip
    function.restype = None
    return function
