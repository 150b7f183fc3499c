"""Basic blocks, two 3x3 convolutions and a shortcut each, as one operation on CPUs.

The convolutions are this project's own, because only so can BN and ReLU be done where they are
read and summed up where they are written (block.h). In bf16 oneDNN's are as fast where the CPU has
matrix units (AMX), so there blocks stay as they are; in float32 Winograd's algorithm saves three
quarters of the multiplications (winograd.h).
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
from resnets.kernels.norm import NAMES, plain_norm, pointer, usual, watched
from resnets.support.devices import cores

CHANNELS = {1: (16, 32, 64), 2: (16, 32)}
"""Of the input, by the stride of the first convolution; with stride 2 they double."""


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
    """Whether the kernels for maps of this type are here and this CPU has the instructions."""
    if dtype not in NAMES:
        return False
    with ThreadPoolExecutor(cores()) as together:  # each may have to be compiled
        found = list(together.map(lambda kind: native.library(_name(dtype), **kind), _kinds()))
    return all(library is not None and bool(library.block_available()) for library in found)


def why_not(dtype: torch.dtype) -> str:
    """Why kernels that are for this CPU cannot be had; empty where they can, or are for others."""
    reasons = (native.why_not(_name(dtype), **kind) for kind in _kinds())
    return next(filter(None, reasons), "")


def _name(dtype: torch.dtype) -> str:
    return f"block_{NAMES[dtype]}"


def _kinds() -> list[dict[str, int]]:
    """What each library is for, as the macros that it is compiled with."""
    return [_kind(channels, stride) for stride, some in CHANNELS.items() for channels in some]


def _kind(channels: int, stride: int) -> dict[str, int]:
    return {"OF_CHANNELS": channels, "OF_STRIDE": stride}


def fits(convolutions: Sequence[nn.Conv2d], norms: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether these layers, on x, are what `basic_blocks` can do.

    The shortcut that the caller wants must be an identity, option A, or none.
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
        and x.dtype in NAMES
        and (x.dtype != torch.float32 or not torch.is_autocast_enabled("cpu"))
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and all(map(_plain_convolution, convolutions))
        and all(plain_norm(norm, stride * channels) for norm in norms)
        and x.numel() > 0
        and available(x.dtype)
    )


def _plain_convolution(convolution: nn.Conv2d) -> bool:
    """Whether it is the usual one of 3x3, in float32, and watched by nothing."""
    stride, bias = convolution.stride, convolution.bias
    return (
        type(convolution) is nn.Conv2d
        and convolution.kernel_size == (3, 3)
        and convolution.padding_mode == "zeros"
        and convolution.padding == convolution.dilation == (1, 1)
        and convolution.groups == 1
        and stride[0] == stride[1]
        and bias is None
        and usual(convolution.weight)
        and not watched(convolution)
    )


Layers = tuple[nn.Conv2d, nn.BatchNorm2d]


def basic_blocks(blocks: Sequence[Sequence[Layers]], x: Tensor, adds: bool) -> Tensor:
    """Blocks in a row: each ReLU(F(x) + shortcut(x)), or ReLU(F(x)) where `adds` is false.

    The shortcut is an identity; where the first convolution has stride 2, option A's (section 4.2).

    Args:
        blocks: the two layers of each, for which x `fits`; a single one if the stride is 2.
        x: maps (N, C, H, W), float32 or bf16, channels_last.
    """
    layers = [layer for block in blocks for layer in block]
    learned = [p for conv, norm in layers for p in (conv.weight, norm.weight, norm.bias)]
    norms = [norm for _, norm in layers]
    with torch.no_grad():
        for norm in norms:
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += 1
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
        made = [[_results(x, stride) for _ in range(count)] for _ in ("y1", "y2", "out")]
        state = x.new_empty((len(norms), 4, made[0][0].shape[1]), dtype=torch.float32)
        kernels = [_taps_first(w) for w in learned[::3]]  # alive until the call has ended
        layers = (_Layer * len(norms))()
        for layer, norm, w, place in zip(layers, norms, kernels, state, strict=True):
            layer.w, layer.state = w.data_ptr(), place.data_ptr()
            layer.weight, layer.bias = norm.weight.data_ptr(), norm.bias.data_ptr()
            layer.mean, layer.variance = pointer(norm.running_mean), pointer(norm.running_var)
            layer.momentum, layer.eps = norm.momentum, norm.eps
        _call("block_forward", x, made, adds, layers, {}, None)
        ctx.adds = adds
        ctx.save_for_backward(x, state, *made[0], *made[1], *made[2], *learned[::3])
        return made[2][-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, state, *saved = ctx.saved_tensors
        count = len(state) // 2
        made = [saved[place * count : (place + 1) * count] for place in range(3)]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        given = {"g1": torch.empty_like(gradient), "g2": torch.empty_like(gradient)}
        given["to_x"] = torch.empty_like(x)
        kernels = [_taps_first(w) for w in saved[3 * count :]]
        to_w, to_norm = [torch.empty_like(w) for w in kernels], torch.empty_like(state[:, :2])
        layers = (_Layer * len(state))()
        for i, layer in enumerate(layers):
            layer.w, layer.state = kernels[i].data_ptr(), state[i].data_ptr()
            layer.to_w = to_w[i].data_ptr()
            layer.to_weight, layer.to_bias = to_norm[i, 0].data_ptr(), to_norm[i, 1].data_ptr()
        _call("block_backward", x, made, ctx.adds, layers, given, gradient)
        learned = [(w.permute(0, 3, 1, 2), *of) for w, of in zip(to_w, to_norm, strict=True)]
        return given["to_x"], None, None, None, *(t for three in learned for t in three)


def _results(x: Tensor, stride: int) -> Tensor:
    """Maps of the size that the block makes of x's."""
    count, channels, height, width = x.shape
    size = (count, stride * channels, height // stride, width // stride)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _taps_first(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) as (out, 3, 3, in) in memory: no copy where it is channels_last."""
    return weight.permute(0, 2, 3, 1).contiguous()


def _call(
    name: str,
    x: Tensor,
    made: Sequence[Sequence[Tensor]],
    adds: bool,
    layers: Any,
    given: Mapping[str, Tensor],
    gradient: Tensor | None,
) -> None:
    """Call with y1, y2 and out of each block in `made`, and what all blocks share in `given`."""
    shared = {key: tensor.data_ptr() for key, tensor in given.items()}
    maps = (_Tensors * len(made[0]))()
    for i, (y1, y2, out) in enumerate(zip(*made, strict=True)):
        before = made[2][i - 1] if i else x
        maps[i] = _Tensors(x=before.data_ptr(), y1=y1.data_ptr(), y2=y2.data_ptr(),
                           out=out.data_ptr(), **shared)  # fmt: skip
    images, _, height, width = made[2][0].shape
    _function(name, x.dtype, x.shape[1], x.shape[2] // height)(
        len(maps), images, height, width, adds,
        ctypes.byref(maps), ctypes.byref(layers), pointer(gradient),
    )  # fmt: skip


@cache
def _function(name: str, dtype: torch.dtype, channels: int, stride: int) -> Any:
    library = native.library(_name(dtype), **_kind(channels, stride))
    assert library is not None
    function = library[name]
    address = ctypes.c_void_p
    function.argtypes = [*[ctypes.c_int64] * 4, ctypes.c_int32, address, address, address]
    function.restype = None
    return function
