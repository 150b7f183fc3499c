"""The optimizers of a recipe: SGD, and Muon for convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.training.recipe import Recipe

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the published polynomial, which takes singular values from 0..1 to about 1."""
NEWTON_SCHULZ_STEPS = 3
TINY = 1e-7
HEADS = ("fc.",)
"""How the names of a classifier's parameters begin."""
FIRST_CONVOLUTION = "conv1.weight"
"""SGD trains it: with three input channels, its matrix is too narrow to orthogonalise."""


def make_optimizers(
    network: nn.Module,
    recipe: Recipe,
    *,
    fused: bool,
    rates_on: torch.device | None,
    heads: tuple[str, ...] = HEADS,
) -> list[Optimizer]:
    """SGD, and Muon for the convolutions if the recipe has it, with zero momentum.

    Each parameter group's rate is its `lr_scale` times the schedule's.

    Args:
        fused: SGD as one operation for all parameters, which differs by rounding only.
        rates_on: keep the rates in tensors on this device, for captured updates; otherwise they
            are numbers.
        heads: how the names of the parameters begin whose rate is multiplied by `schedule.head`.

    Raises:
        UserError: if the recipe uses Muon for a network that it does not suit.
    """
    muon = [
        parameter
        for name, parameter in network.named_parameters()
        if recipe.optimizer.muon and parameter.requires_grad and parameter.ndim == 4
        and name != FIRST_CONVOLUTION
    ]  # fmt: skip
    optimizers: list[Optimizer] = [_sgd(network, recipe, muon, heads, fused=fused)]
    if recipe.optimizer.muon:
        _refuse_muon(recipe)
        options = recipe.optimizer.muon
        group = {"params": muon, "lr_scale": options.lr / recipe.schedule.lr}
        optimizers.append(Muon([group], options.lr, options.momentum))
    if rates_on is not None:
        for group in parameter_groups(optimizers):
            group["lr"] = torch.zeros((), device=rates_on)
    return optimizers


def _sgd(
    network: nn.Module,
    recipe: Recipe,
    others: Sequence[nn.Parameter],
    heads: tuple[str, ...],
    *,
    fused: bool,
) -> torch.optim.SGD:
    """SGD for all trainable parameters except `others`."""
    options, taken = recipe.optimizer, set(map(id, others))
    by_options: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and id(parameter) not in taken:
            decay = options.weight_decay
            if options.decay == "weights" and parameter.ndim == 1:
                decay = 0.0
            scale = recipe.schedule.head if name.startswith(heads) else 1.0
            by_options.setdefault((decay, scale), []).append(parameter)
    optimizer = torch.optim.SGD(
        [{"params": g, "weight_decay": d, "lr_scale": s} for (d, s), g in by_options.items()],
        lr=recipe.schedule.lr,
        momentum=options.momentum,
        nesterov=options.nesterov,
        fused=fused or None,
    )
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            # Not at the first update, so that all updates do the same work.
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _refuse_muon(recipe: Recipe) -> None:
    """Raise `UserError` if the scale of a convolution's weights matters: Muon changes it."""
    row = zoo.architecture(recipe.network)
    if row.order == "pre" or row.shortcut == "highway" or recipe.batch_norm == "frozen":
        raise UserError(
            "optimizer.muon needs BN, with the batch's statistics, after every convolution",
            hint="turn it off with --set optimizer.muon=none",
        )


def parameter_groups(optimizers: Sequence[Optimizer]) -> Iterator[dict[str, Any]]:
    """The parameter groups of all optimizers."""
    for optimizer in optimizers:
        yield from optimizer.param_groups


def momenta(network: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    """All momentum buffers, by parameter name."""
    names: dict[Any, str] = {p: name for name, p in network.named_parameters()}
    return {
        names[parameter]: state["momentum_buffer"]
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
    }


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for convolutions (Jordan and others, "Muon: An optimizer for
    hidden layers in neural networks", 2024; PyTorch's own takes matrices only).

    A convolution's weights count as a matrix of outputs x (inputs, height, width). Their norm is
    kept at the root of the number of outputs, which does not matter before a BN layer; the
    rate is then the length of a step in units of the weights. Matrix products round differently
    on different hardware: all processes of a training should run on the same kind.

    Args:
        parameters: weights of convolutions, (out, in, height, width), or groups of them.
        lr: the rate, a number or a tensor.
        momentum: of Nesterov's form.
    """

    def __init__(self, parameters: Iterable[Any], lr: float | Tensor, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; weights of equal shape are updated together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["momentum"])

    def _update(self, parameters: list[nn.Parameter], lr: float | Tensor, momentum: float) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        ahead = torch._foreach_add(gradients, buffers, alpha=momentum)
        directions = orthogonal(torch.stack([a.flatten(1) for a in ahead])) * lr
        for parameter, direction in zip(parameters, directions, strict=True):
            norm = parameter.norm().clamp_min(TINY)  # zeros stay zero before the step
            parameter.mul_(len(parameter) ** 0.5 / norm)
            parameter.sub_(direction.view_as(parameter))


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with singular values of about 1, by Newton-Schulz iteration.

    The values end between 0.5 and 1.3, unless they were tiny. Matrices with more rows than
    columns are scaled by sqrt(rows / columns), so that their rows have the norm of a square
    matrix's.
    """
    a, b, c = NEWTON_SCHULZ
    rows, columns = matrices.shape[1:]
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + TINY)
    x = x.mT if rows > columns else x
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT * (rows / columns) ** 0.5 if rows > columns else x
