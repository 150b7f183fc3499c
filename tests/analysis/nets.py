"""Tiny networks of every kind, and images for them."""

from dataclasses import replace

import torch

from resnets.models import zoo
from resnets.models.residual import Architecture, ResidualNetwork
from tests.weights.convert.nets import scramble

BASIC = Architecture("basic", "A", (1, 2), (4, 8), "cifar", classes=5)
ROWS = {
    "A": BASIC,
    "B": replace(BASIC, shortcut="B"),
    "C": replace(BASIC, shortcut="C"),
    "plain": replace(BASIC, shortcut="none"),
    "bottleneck": replace(BASIC, block="bottleneck", shortcut="B"),
    "bottleneck C": replace(BASIC, block="bottleneck", shortcut="C"),
    "imagenet": replace(BASIC, shortcut="B", stem="imagenet"),
    "small": replace(BASIC, shortcut="B", stem="small"),
    "single": replace(BASIC, block="single"),
}
PRE = {
    "pre": replace(BASIC, order="pre"),
    "pre bottleneck": replace(BASIC, order="pre", block="bottleneck", shortcut="B"),
}
HIGHWAY = {
    "highway": replace(BASIC, block="single", shortcut="highway", depths=(2, 2)),
    "highway, 3x3 and 1x1": replace(BASIC, block="alternating", shortcut="highway", depths=(2, 2)),
}
ALL = {**ROWS, **PRE, **HIGHWAY}


def network(kind):
    """A network with BN statistics that matter; a name of the table, or one of the above."""
    torch.manual_seed(3)
    return scramble(
        ResidualNetwork(ALL[kind] if kind in ALL else zoo.architecture(kind).with_classes(5))
    )


def batches(sizes=(6, 10, 5), side=32):
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(size, 3, side, side, generator=generator) for size in sizes]


def state(net):
    return {name: t.clone() for name, t in net.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())
