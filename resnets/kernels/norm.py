"""BN, the addition of a shortcut and ReLU as one operation of a training on CPUs.

PyTorch does them one by one, each reading and writing the maps once more; between the
convolutions of a small network that is a third of a step or more (docs/log.md).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnets.kernels import native

LANES = 64  # values that the kernels handle together
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def available() -> bool:
    """Whether the kernels are here, compiling them if this is the first time."""
    return native.library("norm") is not None


def fits(norm: nn.Module, x: Tensor, shortcut: Tensor | None) -> bool:
    """Whether the kernels can do what `norm`, an addition and ReLU would do."""
    channels = x.shape[1]
    if not available() or not plain_norm(norm, channels):
        return False
    whole = channels % LANES == 0 or (LANES % channels == 0 and channels >= 16)
    return (
        x.device.type == "cpu"
        and x.dtype in NAMES
        and whole
        and x.numel() % LANES == 0
        and x.numel() > channels
        and x.is_contiguous(memory_format=torch.channels_last)
        and (shortcut is None or (shortcut.shape == x.shape and shortcut.dtype == x.dtype))
    )


def plain_norm(norm: nn.Module, channels: int) -> bool:
    """Whether `norm` is BN of so many channels, in training, float32, and watched by nothing."""
    if type(norm) is not nn.BatchNorm2d or not norm.training or norm.momentum is None:
        return False
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return norm.num_features == channels and all(map(usual, tensors)) and not watched(norm)


def usual(tensor: Tensor | None) -> bool:
    """Whether it is there, in float32, on the CPU."""
    return tensor is not None and tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def watched(module: nn.Module) -> bool:
    """Whether hooks wait for the module's own call."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def norm_relu(
    norm: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None = None, relu: bool = True
) -> Tensor:
    """ReLU(norm(x) + shortcut), or without ReLU, where it `fits`.

    Args:
        norm: BN in training; its moving averages take the batch in.
        x: maps (N, C, H, W), float32 or bf16, channels_last.
        shortcut: what is added before ReLU, of x's shape and type.

    Returns:
        Maps of x's shape and type.
    """
    if shortcut is not None:
        shortcut = shortcut.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
    out: Tensor = _NormRelu.apply(x, norm.weight, norm.bias, shortcut, norm, relu)
    return out


class _NormRelu(torch.autograd.Function):
    """The two passes of norm.cpp and what they leave for the way back."""

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
        _call("norm_forward", x.dtype)(
            x.data_ptr(), pointer(shortcut), out.data_ptr(), *_size(x), relu,
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
        _call("norm_backward", x.dtype)(
            gradient.data_ptr(), x.data_ptr(), pointer(out), to_x.data_ptr(),
            pointer(to_shortcut), *_size(x), ctx.relu, state.data_ptr(),
            to_norm[0].data_ptr(), to_norm[1].data_ptr(),
        )  # fmt: skip
        if ctx.adds and not ctx.relu:
            to_shortcut = gradient
        return to_x, to_norm[0], to_norm[1], to_shortcut, None, None


def pointer(tensor: Tensor | None) -> int | None:
    """The address of a tensor's first number, null where there is none."""
    return None if tensor is None else tensor.data_ptr()


def _size(x: Tensor) -> tuple[int, int]:
    """Rows and channels."""
    return x.numel() // x.shape[1], x.shape[1]


@cache
def _call(name: str, dtype: torch.dtype) -> Any:
    library = native.library("norm")
    assert library is not None
    function = library[f"{name}_{NAMES[dtype]}"]
    p, size, flag, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_float
    maps = [p, p, p] if name == "norm_forward" else [p, p, p, p, p]
    rest = [p, p, p, p, real, real, p] if name == "norm_forward" else [p, p, p]
    function.argtypes, function.restype = [*maps, size, size, flag, *rest], None
    return function
