"""Option A: where its zeros are, and the weights of the same network with the zeros elsewhere.

Section 3.3 leaves open where the zeros go that fill up new channels. Networks of this package have
them behind the channels of the block's input. Many others have one half before, one half behind:
the same network up to the order of its channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from resnets.models.residual import Architecture

Zeros = Literal["behind", "both"]
"""All zeros behind the input's channels, or half of them on both sides."""


def move_zeros(state: Mapping[str, Tensor], row: Architecture, to: Zeros) -> dict[str, Tensor]:
    """The weights of the network with the same outputs and its zeros on the other side; exact.

    Args:
        state: weights of a network with shortcuts of option A.
        row: the network.
        to: where the zeros are to be; in `state` they are where `to` says not.
    """
    moved = dict(state)

    def reorder(name: str, axis: int, order: Tensor) -> None:
        pick = order if to == "behind" else order.argsort()
        moved[name] = moved[name].index_select(axis, pick)

    def reorder_norm(name: str, order: Tensor) -> None:
        for vector in ("weight", "bias", "running_mean", "running_var"):
            reorder(f"{name}.{vector}", 0, order)

    last = torch.arange(row.widths[0])
    activated = True
    for name, length, before, last in _orders(row):
        reorder(f"{name}.conv1.weight", 1, before)
        reorder(f"{name}.conv{length}.weight", 0, last)
        if row.order == "post":
            reorder_norm(f"{name}.bn{length}", last)
        elif not activated:  # the first block of order `pre` has no BN before its convolution
            reorder_norm(f"{name}.bn1", before)
        activated = False
    if row.order == "pre":
        reorder_norm("last_bn", last)
    if "fc.weight" in moved:
        reorder("fc.weight", 1, last)
    return moved


def _orders(row: Architecture) -> Iterator[tuple[str, int, Tensor, Tensor]]:
    """Of each block: its name, how many convolutions it has, the orders of its input and output.

    An order says where each channel of this package's network is in the one with zeros on both
    sides.
    """
    order = torch.arange(row.widths[0])
    for stage, (depth, width) in enumerate(zip(row.depths, row.widths, strict=True), 1):
        for index in range(depth):
            before, channels = order, width * row.expansion
            extra = channels - len(before)
            if extra:
                start = extra // 2
                zeros = [c for c in range(channels) if not start <= c < start + len(before)]
                order = torch.cat([before + start, torch.tensor(zeros)])
            length = len(row.convolutions(width, 1, index))
            yield f"layer{stage}.{index}", length, before, order
