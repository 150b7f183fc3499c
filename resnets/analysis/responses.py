"""Standard deviations of layer responses (section 4.2, Figure 7)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resnets.analysis.layers import Layer, batch_statistics, evaluating, main_path
from resnets.support.errors import UserError

Statistics = Literal["running", "batch"]


@dataclass(frozen=True)
class Response:
    """How strongly a layer answers.

    Args:
        layer: the convolution's name, such as `layer1.0.conv1`.
        stage: `stem`, `layer1`, `layer2`, ...
        std: standard deviation of its response.
    """

    layer: str
    stage: str
    std: float


class Moments:
    """Count, mean and sum of squared deviations of numbers that come in parts, in float64."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Take in all elements of a tensor."""
        # Devices without float64 leave the sum to the CPU.
        values = (values.cpu() if values.device.type == "mps" else values).double()
        variance, mean = (float(t) for t in torch.var_mean(values, correction=0))
        count, total = values.numel(), self.count + values.numel()
        apart = mean - self.mean
        self.squares += variance * count + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Standard deviation of all of them, as a population."""
        return math.sqrt(self.squares / self.count)


@torch.no_grad()
def layer_responses(
    network: nn.Module, batches: Iterable[Tensor], statistics: Statistics = "running"
) -> list[Response]:
    """Standard deviation of every 3x3 layer's response, in the order of computing.

    A response is, as in the paper, the output of a 3x3 convolution after its BN, before ReLU
    or addition. The first convolution counts where it is 3x3; classifier and 1x1 convolutions
    do not: 6n+1 points for a CIFAR network of 6n+2 layers. ImageNet's 7x7 stem is left out,
    for the paper speaks of 3x3 layers (and shows CIFAR networks only).

    The paper leaves open, and here is chosen: over which elements (all those of a layer: images,
    channels and places together, about their common mean), which images (the caller's), and
    which statistics BN uses (`running`: those of the model, as it is used; `batch`: of each
    batch, as in training). Gamma and beta belong to the response; without them each would be 1.

    Args:
        network: on the device of the batches; its mode and its buffers stay as they are.
        batches: inputs (N, 3, H, W) of any number.
        statistics: what BN normalises by.

    Raises:
        UserError: if there is no image, no 3x3 layer, or one without BN behind it.
    """
    layers = _normalised(main_path(network))
    moments = [Moments() for _ in layers]

    def see(module: nn.Module, inputs: Any, output: Tensor, into: Moments) -> None:
        into.add(output)

    hooks = [
        layer.end.register_forward_hook(partial(see, into=into))
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


def _normalised(path: Sequence[Layer]) -> list[Layer]:
    """The 3x3 layers, each with its BN."""
    layers = [layer for layer in path if layer.convolution.kernel_size == (3, 3)]
    if not layers:
        raise UserError("this network has no 3x3 layers whose responses could be measured")
    for layer in layers:
        if layer.norm is None:
            raise UserError(
                f"{layer.name} is not followed by BN: Figure 7's responses are those after BN",
                hint="take a network that normalises behind its convolutions",
            )
    return layers
