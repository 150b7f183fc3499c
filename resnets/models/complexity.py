"""What a network is made of and what it costs, counted on the built network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from resnets.models import zoo
from resnets.models.blocks import ZeroPadShortcut
from resnets.models.residual import Architecture, ResidualNetwork


@dataclass(frozen=True)
class Stage:
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
    """Facts of a network, counted with one image of `image_size` pixels a side."""

    name: str
    architecture: Architecture | None
    image_size: int
    layers: int
    parameters: int
    multiply_adds: int
    stages: tuple[Stage, ...]
    shortcuts: tuple[Shortcut, ...]


def image_size(name: str) -> int:
    """Side in pixels of the images that the paper shows to the network; 64 for small stems."""
    if name.startswith("cifar-"):
        return 32
    return 64 if name.endswith(zoo.SMALL) else 224


def parameters(network: nn.Module) -> int:
    """Trainable numbers: weights, biases and BN's gamma and beta; no running statistics."""
    return sum(p.numel() for p in network.parameters())


def multiply_adds(network: nn.Module, size: int) -> int:
    """Multiply-adds of convolutions and classifiers for one image (Table 1's FLOPs).

    Nothing is computed: an empty batch goes through the network, and each layer's output has
    the shape that it has for images.
    """
    counts = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        assert isinstance(module.weight, Tensor)
        counts.append(math.prod(output.shape[1:]) * module.weight[0].numel())

    weighted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(count) for module in weighted]
    with torch.no_grad():
        network(_no_images(network, size))
    for hook in hooks:
        hook.remove()
    return sum(counts)


def _no_images(network: nn.Module, size: int) -> Tensor:
    """An empty batch on the network's device."""
    return torch.empty(0, 3, size, size, device=next(network.parameters()).device)


@cache
def describe(name: str, size: int | None = None) -> Description:
    """Count and list everything of the network called `name`.

    Args:
        name: as in `zoo.build`.
        size: side of the image in pixels; the paper's if not given.

    Raises:
        UserError: if there is no such network.
    """
    size = size or image_size(name)
    with torch.device("meta"):
        network = zoo.build(name).eval()
    # To run on the meta device PyTorch would import its compiler; this memory is never touched.
    empty = {k: torch.empty(t.shape, dtype=t.dtype) for k, t in network.state_dict().items()}
    network.load_state_dict(empty, assign=True)
    residual = isinstance(network, ResidualNetwork)
    weighted = sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules())
    return Description(
        name=name,
        architecture=network.architecture if isinstance(network, ResidualNetwork) else None,
        image_size=size,
        layers=network.architecture.layers if isinstance(network, ResidualNetwork) else weighted,
        parameters=parameters(network),
        multiply_adds=multiply_adds(network, size),
        stages=tuple(_stages(network, size)) if residual else (),
        shortcuts=tuple(_shortcuts(network)) if residual else (),
    )


def _stages(network: nn.Module, size: int) -> list[Stage]:
    assert isinstance(network, ResidualNetwork)
    with torch.no_grad():
        maps = network.features(_no_images(network, size))
    row = network.architecture
    stages = []
    for name, shape in ((name, x.shape) for name, x in maps.items()):
        depth = 0 if name == "stem" else row.depths[network.stage_names.index(name)]
        stages.append(Stage(name, depth, row.block if depth else row.stem, *shape[1:]))
    return stages


def _shortcuts(network: nn.Module) -> list[Shortcut]:
    assert isinstance(network, ResidualNetwork)
    found = []
    for name, block in network.blocks():
        convolutions = [m for n, m in block.named_children() if n.startswith("conv")]
        first, last = convolutions[0], convolutions[-1]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(last, nn.Conv2d)
        stride = max(c.stride[0] for c in convolutions if isinstance(c, nn.Conv2d))
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
