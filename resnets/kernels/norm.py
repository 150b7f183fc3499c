"""BN, the addition of a shortcut and ReLU as one operation, for training on CPUs.

PyTorch computes them one by one, and each reads and writes the maps once more. Between the
convolutions of a small network that takes a third of a step or more (docs/log.md).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnets.kernels import native
from resnets.models.blocks import has_hooks

LANES = 64  # values that the kernels process together
DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def available() -> bool:
    """Whether the kernels can be used; compiles them on first use."""
    return native.library("norm") is not None


def fits(norm: nn.Module, x: Tensor, shortcut: Tensor | None) -> bool:
    """Whether `norm_relu` supports these arguments."""
    channels = x.shape[1]
    if not available() or not is_plain_norm(norm, channels):
        return False
    whole_lanes = channels % LANES == 0 or (LANES % channels == 0 and channels >= 16)
    return (
        x.device.type == "cpu"
        and x.dtype in DTYPE_NAMES
        and whole_lanes
        and x.numel() % LANES == 0
        and x.numel() > channels
        and x.is_contiguous(memory_format=torch.channels_last)
        and (shortcut is None or (shortcut.shape == x.shape and shortcut.dtype == x.dtype))
    )


def is_plain_norm(norm: nn.Module, channels: int) -> bool:
    """Whether `norm` is BN of `channels` channels in training mode, in float32, without hooks."""
    if type(norm) is not nn.BatchNorm2d or not norm.training or norm.momentum is None:
        return False
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    plain = norm.num_features == channels and all(map(is_cpu_float32, tensors))
    return plain and not has_hooks(norm)


def is_cpu_float32(tensor: Tensor | None) -> bool:
    """Whether `tensor` is not None, is of type float32 and on the CPU."""
    return tensor is not None and tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def norm_relu(
    norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None = None, relu: bool = True
) -> Tensor:
    """ReLU(norm(x) + shortcut), or without ReLU, for arguments that `fits` accepts.

    Args:
        norm: BN in training mode; its running statistics are updated.
        x: maps (N, C, H, W), float32 or bf16, channels_last.
        shortcut: added before ReLU; of x's shape and type.

    Returns:
        Maps of x's shape and type.
    """
    if shortcut is not None:
        shortcut = shortcut.contiguous(memory_format=torch.channels_last)
    count_batch(norm)
    out: Tensor = _NormRelu.apply(x, norm.weight, norm.bias, shortcut, norm, relu)
    return out


@torch.no_grad()
def count_batch(norm: nn.BatchNorm2d) -> None:
    """Add one to the number of batches that a BN layer has seen."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1


class _NormRelu(torch.autograd.Function):
    """The two passes of norm.cpp, and what the forward pass keeps for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        shortcut: Tensor | None,
        norm: nn.BatchNorm2d,
        relu: bool,
    ) -> Tensor:
        out, state = torch.empty_like(x), torch.empty(4, x.shape[1])
        _function("norm_forward", x.dtype)(
            x.data_ptr(), pointer(shortcut), out.data_ptr(), *_rows_and_channels(x), relu,
            weight.data_ptr(), bias.data_ptr(), pointer(norm.running_mean),
            pointer(norm.running_var), norm.momentum, norm.eps, state.data_ptr(),
        )  # fmt: skip
        ctx.relu, ctx.adds = relu, shortcut is not None
        ctx.save_for_backward(x, out if relu and ctx.adds else None, state)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, out, state = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_x, to_norm = torch.empty_like(x), torch.empty(2, x.shape[1])
        to_shortcut = torch.empty_like(x) if out is not None else None
        _function("norm_backward", x.dtype)(
            gradient.data_ptr(), x.data_ptr(), pointer(out), to_x.data_ptr(),
            pointer(to_shortcut), *_rows_and_channels(x), ctx.relu, state.data_ptr(),
            to_norm[0].data_ptr(), to_norm[1].data_ptr(),
        )  # fmt: skip
        if ctx.adds and not ctx.relu:
            to_shortcut = gradient
        return to_x, to_norm[0], to_norm[1], to_shortcut, None, None


def pointer(tensor: Tensor | None) -> int | None:
    """The address of a tensor's first element; None for None."""
    return None if tensor is None else tensor.data_ptr()


def _rows_and_channels(x: Tensor) -> tuple[int, int]:
    """Maps as a matrix: pixels of all images, and channels."""
    return x.numel() // x.shape[1], x.shape[1]


@cache
def _function(name: str, dtype: torch.dtype) -> Any:
    library = native.library("norm")
    assert library is not None
    function = library[f"{name}_{DTYPE_NAMES[dtype]}"]
    p, size, flag, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float
    maps = [p, p, p] if name == "norm_forward" else [p, p, p, p, p]
    rest = [p, p, p, p, real, real, p] if name == "norm_forward" else [p, p, p]
    function.argtypes, function.restype = [*maps, size, size, flag, *rest], None
    return function
