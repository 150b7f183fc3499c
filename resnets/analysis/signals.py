"""Forward signals and backward gradients of every layer (section 4.1).

The paper argues that vanishing gradients are unlikely to cause the degradation of deep plain
networks: BN keeps the forward signals from losing their variance, and the norms of the gradients
are healthy. This module measures both in a classification network; `resnets.training.signals`
follows them in the course of a training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnets.analysis.responses import main_path
from resnets.models.batch_norm import batch_statistics


@dataclass(frozen=True)
class Signal:
    """Sizes of the signals and gradients of one convolution of the main path.

    A layer's response is its output after BN, before ReLU or addition, as in Figure 7; if no
    BN follows directly, it is the convolution's output.

    Args:
        layer: the convolution's name.
        stage: `stem`, `layer1`, `layer2`, ...
        input: standard deviation of all elements of the layer's input. It may grow or shrink
            from layer to layer, because BN makes each layer independent of its scale.
        forward: standard deviation of all elements of the response. BN divides by the batch's
            deviation, so it is 1 for a new BN: the paper's "non-zero variances". A constant
            signal has deviation 0 after BN as well.
        gradient: root mean square of the elements of dL/d(response), where L is the sum of the
            images' cross-entropies: independent of the number of images.
        weight_gradient: norm of the gradient of the mean cross-entropy with respect to the
            convolution's weights, divided by the norm of the weights: their relative change in
            one step of plain SGD with a learning rate of 1. None if all weights are zero.
    """

    layer: str
    stage: str
    input: float
    forward: float
    gradient: float
    weight_gradient: float | None


def measure(network: nn.Module, images: Tensor, labels: Tensor) -> list[Signal]:
    """The signals of one batch in float32, in the order of the layers.

    BN uses the batch's statistics. Weights, their gradients, BN's running statistics and the
    network's mode do not change.

    Args:
        network: on the device of the images; not compiled.
        images: float32 (N, 3, H, W).
        labels: int64 (N,).

    Raises:
        UserError: if BN has a single value for a channel.
    """
    path = main_path(network)
    inputs: dict[str, Tensor] = {}
    responses: dict[str, Tensor] = {}

    def keep_input(module: nn.Module, arguments: Any, name: str) -> None:
        inputs[name] = arguments[0].detach()

    def keep_response(module: nn.Module, arguments: Any, output: Tensor, name: str) -> None:
        responses[name] = output

    hooks = []
    for layer in path:
        name = layer.name
        hooks.append(layer.convolution.register_forward_pre_hook(partial(keep_input, name=name)))
        hooks.append(layer.end.register_forward_hook(partial(keep_response, name=name)))
    weights = [layer.convolution.weight for layer in path]
    try:
        with batch_statistics(network), torch.enable_grad(), _requiring_gradients(weights):
            loss = F.cross_entropy(network(images.float()), labels)
            tensors = [*(responses[layer.name] for layer in path), *weights]
            gradients = torch.autograd.grad(loss, tensors)
    finally:
        for hook in hooks:
            hook.remove()
    of_weights = gradients[len(path) :]
    with torch.no_grad():
        return [
            Signal(
                layer.name,
                layer.stage,
                _std(inputs[layer.name]),
                _std(responses[layer.name]),
                len(images) * float(to_response.float().square().mean().sqrt()),
                _relative(to_weight, layer.convolution.weight),
            )
            for layer, to_response, to_weight in zip(
                path, gradients[: len(path)], of_weights, strict=True
            )
        ]


def _relative(change: Tensor, weights: Tensor) -> float | None:
    size = float(weights.norm())
    return float(change.norm()) / size if size else None


def _std(values: Tensor) -> float:
    return float(values.float().std(correction=0))


@contextmanager
def _requiring_gradients(weights: Sequence[Tensor]) -> Iterator[None]:
    """Set `requires_grad` of weights, which those of a loaded model lack, and restore it."""
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)
