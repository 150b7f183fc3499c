"""The layers of a network one after the other, for programs whose files hold a graph."""

from __future__ import annotations

from typing import Protocol

from resnets.models.residual import Architecture
from resnets.support.errors import UserError
from resnets.weights.convert.layer_names import theirs


class Writer(Protocol):
    """Appends layers to a graph; every method returns the name of its output."""

    def input(self) -> str:
        """The image."""

    def conv(self, place: str, x: str, filters: int, size: int, stride: int) -> str:
        """A convolution padded by size // 2, and BN; `place` as in `naming.theirs`."""

    def relu(self, name: str, x: str) -> str:
        """A ReLU."""

    def pool(self, x: str, ceil: bool) -> str:
        """The stem's 3x3/2 max pool: rounded up, or padded by one pixel."""

    def add(self, name: str, x: str, y: str) -> str:
        """A sum."""

    def head(self, x: str, classes: int) -> str:
        """Global average pool, classifier and softmax."""


def beyond_table_1(row: Architecture) -> str:
    """What of a network is of no ImageNet network of the paper, in words; empty if nothing is.

    The formats of other programs know only those.
    """
    if row.stem != "imagenet":
        return f"the {'CIFAR stem' if row.stem == 'cifar' else 'stem for small images'}"
    if row.block not in ("basic", "bottleneck"):
        return "blocks of one layer"
    if row.shortcut == "highway":
        return "gates"
    return "the pre-activation order" if row.order == "pre" else ""


def walk(row: Architecture, to: Writer, program: str) -> str:
    """Append all layers of a network, under the authors' names, to `to`; returns the output's name.

    Raises:
        UserError: if the network is none of Table 1, or has shortcuts of option A.
    """
    part = beyond_table_1(row) or ("shortcuts of option A" if row.shortcut == "A" else "")
    if part:
        raise UserError(f"{part} cannot be written for {program}", hint="use --to resnets")
    x = to.relu("conv1", to.conv("conv1", to.input(), row.widths[0], 7, 2))
    x, channels = to.pool(x, row.pool == "ceil"), row.widths[0]
    for stage, (depth, width) in enumerate(zip(row.depths, row.widths, strict=True), 1):
        for i in range(depth):
            stride = 2 if stage > 1 and i == 0 else 1
            x, channels = _block(row, to, f"layer{stage}.{i}", x, channels, width, stride)
    return to.head(x, row.classes)


def _block(
    row: Architecture, to: Writer, block: str, x: str, channels: int, width: int, stride: int
) -> tuple[str, int]:
    """Append a block; returns its output's name and number of channels."""
    parts = row.convolutions(width, stride, int(block.split(".")[1]))
    out, y = parts[-1].filters, x
    for number, (size, filters, step) in enumerate(parts, 1):
        place = theirs(f"{block}.conv{number}", row.depths)
        y = to.conv(place, y, filters, size, step)
        if number < len(parts):
            y = to.relu(place, y)
    name = theirs(f"{block}.conv1", row.depths).removesuffix("_branch2a")
    if row.shortcut != "none":
        if row.shortcut == "C" or channels != out or stride != 1:
            x = to.conv(theirs(f"{block}.downsample.0", row.depths), x, out, 1, stride)
        y = to.add(name, x, y)
    return to.relu(name, y), out
