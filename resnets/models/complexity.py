"""Layers, shapes, parameters and multiply-adds, counted on the built network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from resnets.models import zoo
from resnets.models.batch_norm import evaluating
from resnets.models.blocks import ZeroPadShortcut
from resnets.models.residual import Architecture, ResidualNetwork


@dataclass(frozen=True)
class StageShape:
    """One stage: output map (channels, height, width) and its blocks."""

    name: str
    blocks: int
    kind: str
    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Shortcut:
    """One shortcut: `none`, `identity`, `zero-pad`, `projection` or `highway`."""

    block: str
    kind: str
    in_channels: int
    out_channels: int
    stride: int


@dataclass(frozen=True)
class Description:
    """Facts about a network, for an image of `image_size` pixels a side."""

    name: str
    architecture: Architecture | None
    image_size: int
    layers: int
    parameters: int
    multiply_adds: int
    stages: tuple[StageShape, ...]
    shortcuts: tuple[Shortcut, ...]


def image_size(name: str) -> int:
    """Side in pixels of the network's images in the paper; 64 for small stems."""
    if name.startswith("cifar-"):
        return 32
    return 64 if name.endswith(zoo.SMALL) else 224


def parameters(network: nn.Module) -> int:
    """Number of trainable parameters: weights, biases, and BN's gamma and beta."""
    return sum(p.numel() for p in network.parameters())


def multiply_adds(network: nn.Module, size: int) -> int:
    """Multiply-adds of convolutions and classifiers for one image (Table 1's FLOPs).

    The network is called with an empty batch: it computes nothing, but every output has the
    shape that it has for images.
    """
    return counted(network, lambda: network(_empty_batch(network, size)))


def counted(network: nn.Module, call: Callable[[], object]) -> int:
    """Multiply-adds of a network's convolutions and classifiers for one image or region.

    Args:
        network: whose layers are counted.
        call: has them compute, for an empty batch.
    """
    count = 0
    for module, output in weighted_outputs(network, call):
        assert isinstance(module.weight, Tensor)
        count += math.prod(output.shape[1:]) * module.weight[0].numel()
    return count


def weighted_outputs(
    network: nn.Module, call: Callable[[], object]
) -> list[tuple[nn.Module, Tensor]]:
    """The convolutions and classifiers of a network that a call uses, and their outputs."""
    found: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, _: object, output: Tensor) -> None:
        found.append((module, output))

    weighted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(keep) for module in weighted]
    with torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()
    return found


@dataclass(frozen=True)
class Maps:
    """Numbers in the outputs of a network's convolutions for one image: of all, and the most."""

    all: int
    largest: int


def maps(network: ResidualNetwork, size: int) -> Maps:
    """Count the outputs of a network's convolutions for an image of `size` pixels a side.

    The network's mode is restored.
    """
    with evaluating(network):
        outputs = weighted_outputs(network, lambda: network.features(_empty_batch(network, size)))
    counts = [math.prod(output.shape[1:]) for _, output in outputs]
    return Maps(sum(counts), max(counts))


def _empty_batch(network: nn.Module, size: int) -> Tensor:
    """A batch of no images, on the network's device."""
    return torch.empty(0, 3, size, size, device=next(network.parameters()).device)


@cache
def describe(name: str, size: int | None = None) -> Description:
    """Count parameters and multiply-adds, and list stages and shortcuts, of a named network.

    Args:
        name: as in `zoo.build`.
        size: side of the image in pixels; the paper's by default.

    Raises:
        UserError: if there is no such network.
    """
    size = size or image_size(name)
    with torch.device("meta"):
        network = zoo.build(name).eval()
    # On the meta device PyTorch would import its compiler; this memory is never accessed.
    empty = {k: torch.empty(t.shape, dtype=t.dtype) for k, t in network.state_dict().items()}
    network.load_state_dict(empty, assign=True)
    row = network.architecture if isinstance(network, ResidualNetwork) else None
    weighted = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules())
    return Description(
        name=name,
        architecture=row,
        image_size=size,
        layers=row.layers if row else weighted,
        parameters=parameters(network),
        multiply_adds=multiply_adds(network, size),
        stages=tuple(_stages(network, size)) if row else (),
        shortcuts=tuple(_shortcuts(network)) if row else (),
    )


def _stages(network: nn.Module, size: int) -> list[StageShape]:
    assert isinstance(network, ResidualNetwork)
    with torch.no_grad():
        maps = network.features(_empty_batch(network, size))
    row = network.architecture
    depths = {"stem": 0, **dict(zip(network.stage_names, row.depths, strict=True))}
    return [
        StageShape(name, depths[name], row.block if depths[name] else row.stem, *x.shape[1:])
        for name, x in maps.items()
    ]


def _shortcuts(network: nn.Module) -> list[Shortcut]:
    assert isinstance(network, ResidualNetwork)
    found = []
    for name, block in network.blocks():
        convolutions = block.convolutions()
        first, last = convolutions[0], convolutions[-1]
        stride = max(convolution.stride[0] for convolution in convolutions)
        match block.downsample:
            case None:
                kind = "none"
            case _ if block.gate is not None:
                kind = "highway"
            case nn.Identity():
                kind = "identity"
            case ZeroPadShortcut():
                kind = "zero-pad"
            case _:
                kind = "projection"
        found.append(Shortcut(name, kind, first.in_channels, last.out_channels, stride))
    return found
