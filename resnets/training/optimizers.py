"""The optimizers that a recipe asks for: SGD, and Muon for convolutions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.training.muon import Muon
from resnets.training.recipe import Recipe

FIRST = "conv1.weight"  # of the network: three channels have no directions to speak of


def make_optimizers(
    network: nn.Module, recipe: Recipe, fused: bool, rates_on: torch.device | None
) -> list[Optimizer]:
    """SGD, and Muon for what it is to take instead, their momentum at zero.

    Every group's `head` is the multiple of the schedule's rate that it learns at.

    Args:
        fused: SGD as one operation for all parameters; the same but for rounding.
        rates_on: keep the rates in tensors there, for updates that are captured and replayed;
            otherwise they are numbers.

    Raises:
        UserError: if Muon is asked for where it would do harm.
    """
    muon = [
        parameter
        for name, parameter in network.named_parameters()
        if recipe.optimizer.muon and parameter.requires_grad and parameter.ndim == 4
        and name != FIRST
    ]  # fmt: skip
    optimizers: list[Optimizer] = [_sgd(network, recipe, muon, fused)]
    if recipe.optimizer.muon:
        _refuse_without_norms(recipe)
        options = recipe.optimizer.muon
        head = options.lr / recipe.schedule.lr
        optimizers.append(Muon([{"params": muon, "head": head}], options.lr, options.momentum))
    if rates_on is not None:
        for group in groups(optimizers):
            group["lr"] = torch.zeros((), device=rates_on)
    return optimizers


def _sgd(
    network: nn.Module, recipe: Recipe, others: Sequence[nn.Parameter], fused: bool
) -> torch.optim.SGD:
    """SGD for all parameters that learn but `others`."""
    options, taken = recipe.optimizer, set(map(id, others))
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and id(parameter) not in taken:
            decay = options.weight_decay
            if options.decay == "weights" and parameter.ndim == 1:
                decay = 0.0
            head = recipe.schedule.head if name.startswith("fc.") else 1.0
            found.setdefault((decay, head), []).append(parameter)
    optimizer = torch.optim.SGD(
        [{"params": g, "weight_decay": d, "head": h} for (d, h), g in found.items()],
        lr=recipe.schedule.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        fused=fused or None,
    )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # From the start, so that every update is the same work.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _refuse_without_norms(recipe: Recipe) -> None:
    """Raise where the scale of a convolution means something: Muon sets it."""
    row = zoo.architecture(recipe.network)
    if row.order == "pre" or row.shortcut == "highway" or recipe.batch_norm == "frozen":
        raise UserError(
            "optimizer.muon needs BN, by the batch's statistics, behind every convolution",
            hint="without it: --set optimizer.muon=none",
        )


def groups(optimizers: Sequence[Optimizer]) -> Iterator[dict[str, Any]]:
    """The groups of parameters of all of them."""
    for optimizer in optimizers:
        yield from optimizer.param_groups


def momenta(network: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """Every momentum buffer, by its parameter's name."""
    names: dict[Any, str] = {p: name for name, p in network.named_parameters()}
    return {
        names[parameter]: state["momentum_buffer"]
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
    }
