"""Signals forwards and gradients backwards through the layers (section 4.1).

The paper argues that degradation of deep plain networks is unlikely to come from vanishing
gradients: BN keeps the forward signals from losing their variance, and the gradients' norms
are healthy. Here both are measured, in a fresh network and in the course of a training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnets.analysis.layers import batch_statistics, main_path
from resnets.support.errors import UserError
from resnets.training import hardware
from resnets.training.objective import Data, make_objective
from resnets.training.recipe import Recipe
from resnets.training.trainer import Trainer


@dataclass(frozen=True)
class Signal:
    """What goes through one convolution of the main path, with BN as in training.

    A layer's response is taken after its BN, before ReLU or addition, as in Figure 7; where no
    BN follows directly, it is the convolution's output.

    Args:
        layer: the convolution's name.
        stage: `stem`, `layer1`, `layer2`, ...
        input: standard deviation of all elements of what the layer gets. It may grow or shrink
            from layer to layer, for BN makes each layer indifferent to its scale.
        forward: standard deviation of all elements of its response. BN divides by the
            batch's deviation, so that it is 1 with a new BN: the "non-zero variances" of the
            paper. A signal that died would still show, for BN cannot revive a constant.
        gradient: root mean square of the elements of dL/d(response), L being the sum of the
            images' cross-entropies: independent of the number of images.
        weight_gradient: norm of the gradient of the images' mean cross-entropy with respect to
            the convolution's weights, divided by the norm of the weights: what a rate of 1 would
            change of them in one step of plain SGD. None where all weights are zero.
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
    network's mode stay as they are.

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

    def comes(module: nn.Module, given: Any, name: str) -> None:
        inputs[name] = given[0].detach()

    def goes(module: nn.Module, given: Any, output: Tensor, name: str) -> None:
        responses[name] = output

    hooks = []
    for layer in path:
        name = layer.name
        hooks.append(layer.convolution.register_forward_pre_hook(partial(comes, name=name)))
        hooks.append(layer.end.register_forward_hook(partial(goes, name=name)))
    weights = [layer.convolution.weight for layer in path]
    try:
        with batch_statistics(network), torch.enable_grad(), _wanting_gradients(weights):
            loss = F.cross_entropy(network(images.float()), labels)
            wanted = [*(responses[layer.name] for layer in path), *weights]
            gradients = torch.autograd.grad(loss, wanted)
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
def _wanting_gradients(weights: Sequence[Tensor]) -> Iterator[None]:
    """A model that is only used wants no gradients; let it for a while."""
    before = [weight.requires_grad for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight, wanted in zip(weights, before, strict=True):
            weight.requires_grad_(wanted)


def follow(
    recipe: Recipe,
    data: Data,
    device: torch.device,
    steps: Sequence[int],
    progress: Callable[[int], None] = lambda step: None,
) -> dict[int, list[Signal]]:
    """Train by a recipe, without a folder or tests, and measure on the way.

    All measurements are on one batch: the one that would follow the recipe's last, with its
    augmentation, in float32 whatever the training's precision. The network is not compiled.

    Args:
        recipe: what to train, and how; the schedule is that of its whole length.
        data: CIFAR-10 or photographs, as the recipe wants them.
        device: where to train.
        steps: after how many updates to measure; 0 is at initialisation.
        progress: told the number of updates done.

    Returns:
        The signals at each of `steps`.

    Raises:
        UserError: if a step is beyond the recipe, or the training diverges.
    """
    if not steps:
        raise UserError("no steps to measure at")
    objective = make_objective(recipe, data)
    recipe = objective.recipe
    if min(steps) < 0 or max(steps) > recipe.steps:
        told = ",".join(map(str, steps))
        raise UserError(f"the recipe has 0 to {recipe.steps:,} iterations", f"--steps {told}")
    hardware.prepare(recipe, device)
    settings = replace(hardware.resolve(recipe, device), compile=False, graphs=False)
    training = Trainer(objective, device, settings)
    measured = {}
    try:
        batch = [training.batches(recipe.steps, part) for part in range(len(training.parts))]
        images, labels = (torch.cat(tensors) for tensors in zip(*batch, strict=True))
        for step in range(max(steps) + 1):
            if step in steps:
                if not training.healthy():
                    raise UserError(f"the training diverged before iteration {step}")
                measured[step] = measure(training.network, images, labels)
            if step < max(steps):
                _update(training)
                progress(training.step)
    finally:
        training.batches.close()
    return measured


def _update(training: Trainer) -> None:
    """One update, and the readings on which the learning rate depends."""
    training.update()
    if training.step % training.recipe.log_every == 0:
        training.read()
    if training.step % training.recipe.test_every == 0:
        training.record_test()
