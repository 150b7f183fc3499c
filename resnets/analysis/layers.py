"""The layers of a network as the paper counts them, and BN that uses each batch's statistics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from resnets.support.errors import UserError

_MAIN = re.compile(r"(.+\.)?conv\d+")  # what lies in shortcuts has other names
PROBE = 32
"""Pixels a side of the image with which a network's layers are found."""


@dataclass(frozen=True)
class Layer:
    """A convolution of the main path.

    Args:
        name: the convolution's, such as `layer1.0.conv1`.
        convolution: the module.
        norm: the BN that gets its output directly; None where something else does.
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
        """What gives the layer's response: its BN, or the convolution where none follows."""
        return self.norm or self.convolution


def main_path(network: nn.Module) -> list[Layer]:
    """The convolutions of a network's main path in the order of computing; none of shortcuts.

    One image goes through the network, so that what follows a convolution is known from what
    happens and not from names.
    """
    found: list[tuple[str, nn.Conv2d, Tensor]] = []
    outputs: dict[int, str] = {}  # by identity, which `found` keeps from being given again
    norms: dict[str, nn.Module] = {}

    def convolved(module: nn.Module, inputs: Any, output: Tensor, name: str) -> None:
        assert isinstance(module, nn.Conv2d)
        found.append((name, module, output))
        outputs[id(output)] = name

    def normalised(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if (name := outputs.get(id(inputs[0]))) is not None:
            norms[name] = module

    hooks: list[RemovableHandle] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and _MAIN.fullmatch(name):
            hooks.append(module.register_forward_hook(partial(convolved, name=name)))
        elif isinstance(module, _BatchNorm):
            hooks.append(module.register_forward_hook(normalised))
    place = next(network.parameters()).device
    try:
        with evaluating(network), torch.no_grad():
            network(torch.zeros(1, 3, PROBE, PROBE, device=place))
    finally:
        for hook in hooks:
            hook.remove()
    return [Layer(name, module, norms.get(name)) for name, module, _ in found]


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Networks in evaluation mode; afterwards every module is in the mode that it had."""
    modes = [(m, m.training) for network in networks for m in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Have BN normalise by the statistics of each batch; its running ones stay as they are.

    The rest of the network is in evaluation mode meanwhile, so that it computes all once.

    Raises:
        UserError: if BN has a single value for a channel.
    """
    norms = [(m, m.track_running_stats) for m in network.modules() if isinstance(m, _BatchNorm)]
    with evaluating(network):
        for norm, _ in norms:
            norm.training, norm.track_running_stats = True, False
        try:
            yield
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                "BN has a single value for a channel: one image, whose last map is one pixel",
                hint="take more images, or BN's running statistics",
            ) from error
        finally:
            for norm, tracked in norms:
                norm.track_running_stats = tracked
