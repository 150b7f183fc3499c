"""Basic blocks, two 3x3 convolutions and a shortcut each, as one operation on CPUs.

The convolutions are this project's own, so that BN and ReLU are applied when their inputs are read,
and BN's sums are collected when their outputs are written (block.h). Winograd's algorithm saves
three quarters of the multiplications (winograd.h). CPUs with matrix units (AMX) use PyTorch's
blocks in bf16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnets.kernels import native
from resnets.kernels.norm import (
    DTYPE_NAMES,
    count_batch,
    is_cpu_float32,
    is_plain_norm,
    pointer,
)
from resnets.models.blocks import has_hooks
from resnets.support.devices import cores

CHANNELS = {1: (16, 32, 64), 2: (16, 32)}
"""Supported input channels for each stride of the first convolution; stride 2 doubles them."""


class _Layer(ctypes.Structure):
    """A convolution with its BN: `Layer` of block.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("w", "weight", "bias", "mean", "variance")),
        ("momentum", ctypes.c_float),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("state", "to_w", "to_weight", "to_bias")),
    ]


class _Tensors(ctypes.Structure):
    """Maps by their addresses: `Tensors` of block.h."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "y1", "y2", "out", "g1", "g2", "to_x")]


@cache
def available(dtype: torch.dtype) -> bool:
    """Whether the kernels for maps of this type can be used; compiles them on first use."""
    if dtype not in DTYPE_NAMES:
        return False
    with ThreadPoolExecutor(cores()) as pool:  # each library may have to be compiled
        found = list(pool.map(lambda macros: native.library(_name(dtype), **macros), _libraries()))
    return all(library is not None and bool(library.block_available()) for library in found)


def unavailable_reason(dtype: torch.dtype) -> str:
    """Why the kernels for this type could not be compiled; empty if they were compiled."""
    reasons = (native.unavailable_reason(_name(dtype), **macros) for macros in _libraries())
    return next(filter(None, reasons), "")


def _name(dtype: torch.dtype) -> str:
    return f"block_{DTYPE_NAMES[dtype]}"


def _libraries() -> list[dict[str, int]]:
    """The macros of each library: one for each number of channels and stride."""
    return [_macros(channels, stride) for stride, some in CHANNELS.items() for channels in some]


def _macros(channels: int, stride: int) -> dict[str, int]:
    return {"OF_CHANNELS": channels, "OF_STRIDE": stride}


def fits(convolutions: Sequence[nn.Conv2d], norms: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether `basic_blocks` supports a block of these layers for the input x.

    The caller checks the rest: order `post`, no gate, and a shortcut that is an identity, option A
    or absent.
    """
    if len(convolutions) != 2:
        return False
    first, second = convolutions
    channels, stride = x.shape[1], first.stride[0]
    height, width = (side // stride for side in x.shape[2:])
    return (
        channels in CHANNELS.get(stride, ())
        and first.out_channels == second.out_channels == stride * channels
        and second.stride[0] == 1
        and x.shape[2] == stride * height
        and x.shape[3] == stride * width
        and height % 2 == 0
        and (width % 4 == 0 or width % 6 == 0)
        and x.dtype in DTYPE_NAMES
        and (x.dtype != torch.float32 or not torch.is_autocast_enabled("cpu"))
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and all(map(_is_plain_convolution, convolutions))
        and all(is_plain_norm(norm, stride * channels) for norm in norms)
        and x.numel() > 0
        and available(x.dtype)
    )


def _is_plain_convolution(convolution: nn.Conv2d) -> bool:
    """Whether it is a 3x3 convolution with padding 1, in float32, without bias and hooks."""
    stride = convolution.stride
    return (
        type(convolution) is nn.Conv2d
        and convolution.kernel_size == (3, 3)
        and convolution.padding_mode == "zeros"
        and convolution.padding == convolution.dilation == (1, 1)
        and convolution.groups == 1
        and stride[0] == stride[1]
        and convolution.bias is None
        and is_cpu_float32(convolution.weight)
        and not has_hooks(convolution)
    )


Layers = tuple[nn.Conv2d, nn.BatchNorm2d]


def basic_blocks(blocks: Sequence[Sequence[Layers]], x: Tensor, adds: bool) -> Tensor:
    """Output of blocks in a row: each is ReLU(F(x) + shortcut(x)), or ReLU(F(x)) without `adds`.

    The shortcut is the identity, or option A if the first convolution has stride 2 (section 4.2).

    Args:
        blocks: the two layers of each block, accepted by `fits`; only one block if its stride is 2.
        x: maps (N, C, H, W), float32 or bf16, channels_last.
        adds: whether the blocks have a shortcut.
    """
    layers = [layer for block in blocks for layer in block]
    learned = [p for conv, norm in layers for p in (conv.weight, norm.weight, norm.bias)]
    norms = [norm for _, norm in layers]
    for norm in norms:
        count_batch(norm)
    out: Tensor = _BasicBlocks.apply(x, adds, layers[0][0].stride[0], norms, *learned)
    return out


class _BasicBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        adds: bool,
        stride: int,
        norms: Sequence[nn.BatchNorm2d],
        *learned: Tensor,
    ) -> Tensor:
        count = len(norms) // 2
        maps = [[_empty_output(x, stride) for _ in range(count)] for _ in ("y1", "y2", "out")]
        state = x.new_empty((len(norms), 4, maps[0][0].shape[1]), dtype=torch.float32)
        kernels = [_taps_first(w) for w in learned[::3]]  # keeps their memory during the call
        layers = (_Layer * len(norms))()
        for layer, norm, w, of_layer in zip(layers, norms, kernels, state, strict=True):
            layer.w, layer.state = w.data_ptr(), of_layer.data_ptr()
            layer.weight, layer.bias = norm.weight.data_ptr(), norm.bias.data_ptr()
            layer.mean, layer.variance = pointer(norm.running_mean), pointer(norm.running_var)
            layer.momentum, layer.eps = norm.momentum, norm.eps
        _call("block_forward", x, maps, adds, layers, {}, None)
        ctx.adds = adds
        ctx.save_for_backward(x, state, *maps[0], *maps[1], *maps[2], *learned[::3])
        return maps[2][-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, state, *saved = ctx.saved_tensors
        count = len(state) // 2
        maps = [saved[kind * count : (kind + 1) * count] for kind in range(3)]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        shared = {"g1": torch.empty_like(gradient), "g2": torch.empty_like(gradient)}
        shared["to_x"] = torch.empty_like(x)
        kernels = [_taps_first(w) for w in saved[3 * count :]]
        to_w, to_norm = [torch.empty_like(w) for w in kernels], torch.empty_like(state[:, :2])
        layers = (_Layer * len(state))()
        for i, layer in enumerate(layers):
            layer.w, layer.state = kernels[i].data_ptr(), state[i].data_ptr()
            layer.to_w = to_w[i].data_ptr()
            layer.to_weight, layer.to_bias = to_norm[i, 0].data_ptr(), to_norm[i, 1].data_ptr()
        _call("block_backward", x, maps, ctx.adds, layers, shared, gradient)
        learned = [(w.permute(0, 3, 1, 2), *of) for w, of in zip(to_w, to_norm, strict=True)]
        return shared["to_x"], None, None, None, *(t for three in learned for t in three)


def _empty_output(x: Tensor, stride: int) -> Tensor:
    """An uninitialised output of a block for the input x."""
    count, channels, height, width = x.shape
    size = (count, stride * channels, height // stride, width // stride)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _taps_first(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) as (out, 3, 3, in) in memory; not copied if it is channels_last."""
    return weight.permute(0, 2, 3, 1).contiguous()


def _call(
    name: str,
    x: Tensor,
    maps: Sequence[Sequence[Tensor]],
    adds: bool,
    layers: Any,
    shared: Mapping[str, Tensor],
    gradient: Tensor | None,
) -> None:
    """Call a function of the library.

    Args:
        name: `block_forward` or `block_backward`.
        x: input of the first block.
        maps: y1, y2 and out of each block.
        adds: whether the blocks have a shortcut.
        layers: array of `_Layer`.
        shared: other maps that all blocks use, by their names in `_Tensors`.
        gradient: that of the last output, for the backward pass.
    """
    addresses = {key: tensor.data_ptr() for key, tensor in shared.items()}
    tensors = (_Tensors * len(maps[0]))()
    for i, (y1, y2, out) in enumerate(zip(*maps, strict=True)):
        inputs = maps[2][i - 1] if i else x
        tensors[i] = _Tensors(x=inputs.data_ptr(), y1=y1.data_ptr(), y2=y2.data_ptr(),
                              out=out.data_ptr(), **addresses)  # fmt: skip
    images, _, height, width = maps[2][0].shape
    _function(name, x.dtype, x.shape[1], x.shape[2] // height)(
        len(tensors), images, height, width, adds,
        ctypes.byref(tensors), ctypes.byref(layers), pointer(gradient),
    )  # fmt: skip


@cache
def _function(name: str, dtype: torch.dtype, channels: int, stride: int) -> Any:
    library = native.library(_name(dtype), **_macros(channels, stride))
    assert library is not None
    function = library[name]
    address = ctypes.c_void_p
    function.argtypes = [*[ctypes.c_int64] * 4, ctypes.c_int32, address, address, address]
    function.restype = None
    return function
