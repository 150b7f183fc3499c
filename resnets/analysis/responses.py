"""Layers of a network as the paper counts them, and the deviations of their responses (Figure 7).

`main_path` finds the layers, `layer_responses` measures them (section 4.2).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from resnets.models.batch_norm import batch_statistics, evaluating, norms
from resnets.support.errors import UserError

Statistics = Literal["running", "batch"]

_MAIN_PATH = re.compile(r"(.+\.)?conv\d+")  # layers of shortcuts have other names
PROBE_SIZE = 32
"""Side in pixels of the image that `main_path` sends through a network."""


@dataclass(frozen=True)
class Layer:
    """A convolution of the main path.

    Args:
        name: the convolution's, such as `layer1.0.conv1`.
        convolution: the module.
        norm: the BN whose input is the convolution's output; None if there is none.
    """

    name: str
    convolution: nn.Conv2d
    norm: nn.Module | None

    @property
    def stage(self) -> str:
        """`stem`, `layer1`, `layer2`, ..."""
        return self.name.partition(".")[0] if "." in self.name else "stem"

    @property
    def end(self) -> nn.Module:
        """The module whose output is the layer's response: its BN, or else the convolution."""
        return self.norm or self.convolution


def main_path(network: nn.Module) -> list[Layer]:
    """The convolutions of a network's main path, without shortcuts, in the order of computing.

    An image is sent through the network, so that a convolution's BN is known from the data flow
    and not from names.
    """
    found: list[tuple[str, nn.Conv2d, Tensor]] = []
    outputs: dict[int, str] = {}  # by identity, which is unique while `found` holds the tensors
    norm_of: dict[str, nn.Module] = {}

    def convolved(module: nn.Module, inputs: Any, output: Tensor, name: str) -> None:
        assert isinstance(module, nn.Conv2d)
        found.append((name, module, output))
        outputs[id(output)] = name

    def normalised(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if (name := outputs.get(id(inputs[0]))) is not None:
            norm_of[name] = module

    hooks: list[RemovableHandle] = [
        module.register_forward_hook(partial(convolved, name=name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and _MAIN_PATH.fullmatch(name)
    ]
    hooks += [norm.register_forward_hook(normalised) for norm in norms(network)]
    device = next(network.parameters()).device
    try:
        with evaluating(network), torch.no_grad():
            network(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return [Layer(name, module, norm_of.get(name)) for name, module, _ in found]


@dataclass(frozen=True)
class Response:
    """How large a layer's response is.

    Args:
        layer: the convolution's name, such as `layer1.0.conv1`.
        stage: `stem`, `layer1`, `layer2`, ...
        std: standard deviation of the response.
    """

    layer: str
    stage: str
    std: float


class Moments:
    """Count, mean and sum of squared deviations of numbers added in parts, in float64."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Add all elements of a tensor."""
        # On the CPU if the device has no float64.
        values = (values.cpu() if values.device.type == "mps" else values).double()
        variance, mean = (float(t) for t in torch.var_mean(values, correction=0))
        count, total = values.numel(), self.count + values.numel()
        difference = mean - self.mean
        self.squares += variance * count + difference**2 * self.count * count / total
        self.mean += difference * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Population standard deviation of all numbers."""
        return math.sqrt(self.squares / self.count)


@torch.no_grad()
def layer_responses(
    network: nn.Module, batches: Iterable[Tensor], statistics: Statistics = "running"
) -> list[Response]:
    """Standard deviation of every 3x3 layer's response, in the order of computing.

    As in the paper, a response is the output of a 3x3 convolution after its BN, before ReLU
    or addition. The first convolution counts if it is 3x3; classifier and 1x1 convolutions
    do not: a CIFAR network of 6n+2 layers has 6n+1 responses. ImageNet's 7x7 stem is left out,
    because the paper speaks of 3x3 layers (and shows CIFAR networks only).

    The paper does not say over which elements, on which images and with which statistics of BN it
    measures. Here the deviation is over all images, channels and pixels of a layer, about their
    common mean; the caller chooses images and statistics. Gamma and beta are part of the response;
    without them every deviation would be 1.

    Args:
        network: on the device of the batches; its mode and its buffers do not change.
        batches: inputs (N, 3, H, W) of any number.
        statistics: what BN normalises by: its `running` statistics, as at inference, or those
            of each `batch`, as in training.

    Raises:
        UserError: if there is no image, no 3x3 layer, or one without BN after it.
    """
    layers = _normalised_layers(main_path(network))
    moments = [Moments() for _ in layers]

    def measure(module: nn.Module, inputs: Any, output: Tensor, into: Moments) -> None:
        into.add(output)

    hooks = [
        layer.end.register_forward_hook(partial(measure, into=into))
        for layer, into in zip(layers, moments, strict=True)
    ]
    try:
        with batch_statistics(network) if statistics == "batch" else evaluating(network):
            for images in batches:
                network(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not moments[0].count:
        raise UserError("no images to measure the responses on")
    return [
        Response(layer.name, layer.stage, into.std)
        for layer, into in zip(layers, moments, strict=True)
    ]


def _normalised_layers(path: Sequence[Layer]) -> list[Layer]:
    """The 3x3 layers; raises `UserError` if there are none or one has no BN."""
    layers = [layer for layer in path if layer.convolution.kernel_size == (3, 3)]
    if not layers:
        raise UserError("this network has no 3x3 layers whose responses could be measured")
    for layer in layers:
        if layer.norm is None:
            raise UserError(
                f"{layer.name} is not followed by BN, but Figure 7 shows responses after BN",
                hint="use a network with BN after its convolutions",
            )
    return layers
