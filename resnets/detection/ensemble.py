"""Ensembles of detectors (appendix B): the union of their proposals, classified by all of them.

"We use an ensemble for proposing regions, and the union set of proposals are processed by an
ensemble of per-region classifiers": the means of the members' scores and boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from resnets.data.preprocessing import Normalize
from resnets.detection.detector import Detector
from resnets.detection.regions import Scored
from resnets.support.errors import UserError
from resnets.support.names import composed, listed


class Member(NamedTuple):
    """A detector of an ensemble.

    Args:
        detector: on its device.
        normalize: from uint8 pixels to its input.
        order: its number of each category of the first member.
    """

    detector: Detector
    normalize: Normalize
    order: list[int]


def category_order(first: Sequence[str], own: Sequence[str], name: str) -> list[int]:
    """The number that a member has for each category of the first member.

    Args:
        first: categories of the first member.
        own: the member's.
        name: of the member, for the message.

    Raises:
        UserError: if they are not the same categories.
    """
    numbers = {composed(one): index for index, one in enumerate(own)}
    wanted = [composed(one) for one in first]
    if {*numbers} != {*wanted} or len(own) != len(first):
        differ = sorted({*numbers} ^ {*wanted})
        raise UserError(
            f"detectors of an ensemble need the same categories; only one has {listed(differ)}",
            name,
            "leave it out, or train it on the same categories",
        )
    return [numbers[one] for one in wanted]


def mean(found: Sequence[Scored], orders: Sequence[Sequence[int]]) -> Scored:
    """The means of scores and boxes of the same regions.

    Args:
        found: by each member, boxes in the same pixels.
        orders: as in `Member`.
    """
    if len(found) == 1:
        return found[0]

    def average(kind: str) -> Tensor:
        parts = [
            getattr(one, kind)[:, list(order)] for one, order in zip(found, orders, strict=True)
        ]
        return torch.stack(parts).mean(0)

    return Scored(average("boxes"), average("scores"))
