"""The table of named networks.

A new network is a new row. `python -m tools.complexity` then counts its parameters and
multiply-adds into `resnets/paper/complexity.json`.
"""

from __future__ import annotations

import re
from dataclasses import replace

from torch import nn

from resnets.models.blocks import ShortcutKind
from resnets.models.residual import Architecture, BlockKind, ResidualNetwork
from resnets.support.errors import UserError, nearest

# Table 1: blocks in conv2_x to conv5_x.
IMAGENET_DEPTHS: dict[int, tuple[BlockKind, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
MAX_CIFAR_DEPTH = 12_002
"""Deeper networks than ten times the paper's deepest are taken for a mistyped name."""
CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)  # Table 6
CIFAR_PLAIN_DEPTHS = (20, 32, 44, 56, 110)  # Figure 6 and section 4.2
VGG_NAMES = ("vgg16", "vgg19")  # torchvision's: the complexity baseline of section 3.3

_CIFAR_NAME = re.compile(r"cifar-(resnet|plain)(\d+)(?:-([abc]))?")
_SHORTCUTS: dict[str, ShortcutKind] = {"a": "A", "b": "B", "c": "C"}
CEIL = "-ceil"
"""Suffix of an ImageNet network whose max pool is that of the authors' framework."""
SMALL = "-small"
"""Suffix of an ImageNet network with a stem for images of 64 pixels."""


def _imagenet_rows() -> dict[str, Architecture]:
    rows = {}
    for depth, (block, depths) in IMAGENET_DEPTHS.items():
        base = Architecture(block, "B", depths, (64, 128, 256, 512), "imagenet")
        rows[f"resnet{depth}"] = base
        for suffix, shortcut in _SHORTCUTS.items():
            rows[f"resnet{depth}-{suffix}"] = replace(base, shortcut=shortcut)
        if block == "bottleneck":
            rows[f"resnet{depth}-v1.5"] = replace(base, stride_in="3x3")
        else:
            rows[f"plain{depth}"] = replace(base, shortcut="none")
    return rows


def _cifar_row(shortcut: ShortcutKind, depth: int) -> Architecture:
    blocks = (depth - 2) // 6
    return Architecture("basic", shortcut, (blocks,) * 3, (16, 32, 64), "cifar", classes=10)


def _cifar_relatives() -> dict[str, Architecture]:
    """Highway networks of Table 6; networks of "Identity Mappings" and their `post` originals.

    164 = 6 * 27 + 2 is also a depth of basic blocks, hence the `-bottleneck` in names.
    """
    highway = Architecture("single", "highway", (5, 6, 6), (32, 80, 128), "cifar", classes=10)
    rows = {
        "cifar-highway19": highway,
        "cifar-highway32": replace(
            highway, block="alternating", depths=(10,) * 3, widths=(32, 72, 88)
        ),
        "cifar-preact110": replace(_cifar_row("A", 110), order="pre"),
    }
    for depth in (164, 1001):
        blocks = (depth - 2) // 9
        original = replace(_cifar_row("B", 8), block="bottleneck", depths=(blocks,) * 3)
        rows[f"cifar-preact{depth}"] = replace(original, order="pre")
        rows[f"cifar-resnet{depth}-bottleneck"] = original
    return rows


NAMED: dict[str, Architecture] = {
    **_imagenet_rows(),
    **{f"cifar-resnet{depth}": _cifar_row("A", depth) for depth in CIFAR_DEPTHS},
    **{f"cifar-plain{depth}": _cifar_row("none", depth) for depth in CIFAR_PLAIN_DEPTHS},
    **_cifar_relatives(),
}
"""All rows of the table; `architecture` also accepts any CIFAR depth 6n+2."""


def names() -> list[str]:
    """All listed names, the VGG baselines last."""
    return [*NAMED, *VGG_NAMES]


def architecture(name: str) -> Architecture:
    """The architecture called `name`; CIFAR names may have any depth 6n+2 and a shortcut suffix.

    ImageNet names may end in `-ceil`, for weights from the authors' framework (see
    `Architecture.pool`), or in `-small`, for the stem for small images.

    Raises:
        UserError: if there is no such network; its hint names similar ones.
    """
    if name in NAMED:
        return NAMED[name]
    for suffix in (CEIL, SMALL):
        base = NAMED.get(name.removesuffix(suffix))
        if base is not None and base.stem == "imagenet":
            return replace(base, pool="ceil") if suffix == CEIL else replace(base, stem="small")
    cifar = _CIFAR_NAME.fullmatch(name)
    if not cifar:
        raise UserError(f"unknown network {name!r}", hint=nearest(name, names()))
    family, depth, suffix = cifar[1], int(cifar[2]), cifar[3]
    if depth > MAX_CIFAR_DEPTH:
        raise UserError(f"unknown network {name!r}", hint=f"at most {MAX_CIFAR_DEPTH:,} layers")
    if depth < 8 or (depth - 2) % 6:
        low = max(1, (depth - 2) // 6)
        raise UserError(
            f"unknown network {name!r}: CIFAR networks have 6n+2 layers",
            hint=f"did you mean cifar-{family}{6 * low + 2} or cifar-{family}{6 * low + 8}?",
        )
    if family == "plain" and suffix:
        raise UserError(
            f"unknown network {name!r}: a plain network has no shortcuts",
            hint=f"did you mean cifar-plain{depth} or cifar-resnet{depth}-{suffix}?",
        )
    shortcut = "none" if family == "plain" else _SHORTCUTS[suffix or "a"]
    return _cifar_row(shortcut, depth)


def build(name: str, classes: int | None = None) -> nn.Module:
    """The network called `name`, initialised with torch's global generator.

    Args:
        name: a row of the table, for example `cifar-resnet20` or `vgg16`.
        classes: number of outputs; by default the row's, 10 or 1000.

    Raises:
        UserError: if there is no such network.
    """
    if name in VGG_NAMES:
        from torchvision.models import get_model

        vgg: nn.Module = get_model(name, weights=None, num_classes=classes or 1000)
        return vgg
    row = architecture(name)
    return ResidualNetwork(row.with_classes(classes) if classes else row)
