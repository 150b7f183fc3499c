"""Forward signals and backward gradients of every layer (section 4.1).

The paper argues that vanishing gradients are unlikely to cause the degradation of deep plain
networks: BN keeps the forward signals from losing their variance, and the norms of the gradients
are healthy. This module measures both, in a new network and in the course of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnets.analysis.responses import main_path
from resnets.models.batch_norm import batch_statistics
from resnets.support.errors import UserError


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


class Updates(Protocol):
    """A training that `follow` can measure."""

    @property
    def network(self) -> nn.Module:
        """The network that is trained; not compiled."""

    def update(self) -> object:
        """Take one step."""

    def healthy(self) -> bool:
        """Whether all weights and losses so far are finite."""


def follow(
    training: Updates,
    images: Tensor,
    labels: Tensor,
    steps: Sequence[int],
    progress: Callable[[int], None] = lambda step: None,
) -> dict[int, list[Signal]]:
    """Train, and measure the signals of one batch after certain numbers of updates.

    Args:
        training: at its start.
        images: float32 (N, 3, H, W), on which everything is measured.
        labels: int64 (N,).
        steps: numbers of updates after which to measure, from 0 (at initialisation).
        progress: called with the number of updates done.

    Returns:
        The signals at each of `steps`.

    Raises:
        UserError: if there are no steps, or the training diverges.
    """
    if not steps:
        raise UserError("no steps to measure at")
    measured = {}
    for step in range(max(steps) + 1):
        if step in steps:
            if not training.healthy():
                raise UserError(f"the training diverged before iteration {step}")
            measured[step] = measure(training.network, images, labels)
        if step < max(steps):
            training.update()
            progress(step + 1)
    return measured
