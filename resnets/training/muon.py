"""Muon: momentum whose directions all count alike, for the convolutions of a network.

K. Jordan and others, "Muon: An optimizer for hidden layers in neural networks", 2024. PyTorch's own
takes matrices only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""The published polynomial: it takes singular values between 0 and 1 to about 1 fast."""
STEPS = 3
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Moves each weight against its momentum made orthogonal: outputs x (inputs, height, width).

    The weights keep a norm of the root of the number of outputs, which a BN layer behind their
    convolution makes meaningless; the rate is then the length of a step in units of the weights.
    Its products of matrices round otherwise on other hardware: the processes of one training
    should run on the same kind.

    Args:
        parameters: weights of convolutions, (out, in, height, width), or groups of them.
        lr: the rate, a number or a tensor.
        momentum: of Nesterov's kind.
    """

    def __init__(self, parameters: Iterable[Any], lr: float | Tensor, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; weights of the same shape are handled together."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for parameters in alike.values():
                self._update(parameters, group["lr"], group["momentum"])

    def _update(self, parameters: list[nn.Parameter], lr: float | Tensor, momentum: float) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        ahead = torch._foreach_add(gradients, buffers, alpha=momentum)
        directions = orthogonal(torch.stack([a.flatten(1) for a in ahead])) * lr
        for parameter, direction in zip(parameters, directions, strict=True):
            norm = parameter.norm().clamp_min(TINY)  # zeros stay, and take the step
            parameter.mul_(len(parameter) ** 0.5 / norm)
            parameter.sub_(direction.view_as(parameter))


def orthogonal(matrices: Tensor, steps: int = STEPS) -> Tensor:
    """Matrices (n, rows, columns) with their singular values taken to about 1.

    The values end between 0.5 and 1.3, but for those that were tiny. Matrices with more rows than
    columns are made longer, so that all have the norm of a square one.
    """
    a, b, c = NEWTON_SCHULZ
    rows, columns = matrices.shape[1:]
    x: Tensor = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + TINY)
    x = x.mT if rows > columns else x
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT * (rows / columns) ** 0.5 if rows > columns else x
