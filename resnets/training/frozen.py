"""Frozen parts of a network: they keep their weights and BN statistics while the rest learns."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

from resnets.support.errors import UserError

ALL_BUT = "all but "


@runtime_checkable
class HasParts(Protocol):
    """A network that names its parts, such as a `ResidualNetwork`."""

    def parts(self) -> dict[str, list[nn.Module]]:
        """The parts from input to output; together they are the whole network."""


def freeze(network: nn.Module, chosen: str) -> list[nn.Module]:
    """Freeze parts of a network: their parameters need no gradient.

    Args:
        network: its parts are those of its method `parts`; without one, its children.
        chosen: names of parts, `stem, layer1`; or `all but fc`.

    Returns:
        The frozen modules, which must be in evaluation mode whenever the network is trained.

    Raises:
        UserError: if there is no such part, or nothing is left to train.
    """
    if isinstance(network, HasParts):
        parts = network.parts()
    else:
        parts = {name: [module] for name, module in network.named_children()}
    names = [name.strip() for name in chosen.removeprefix(ALL_BUT).split(",")]
    for name in names:
        if name not in parts:
            raise UserError(
                f"the network has no part {name!r}", f"freeze = {chosen!r}",
                f"its parts: {', '.join(parts)}",
            )  # fmt: skip
    frozen = [
        module
        for name, modules in parts.items()
        if (name in names) != chosen.startswith(ALL_BUT)
        for module in modules
    ]
    for module in frozen:
        module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError("nothing is left to train", f"freeze = {chosen!r}", "leave out a part")
    return frozen
