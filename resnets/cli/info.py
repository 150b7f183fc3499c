"""`resnets info`: a network, or the table of all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from resnets.models.complexity import Description, Shortcut, describe
from resnets.paper.numbers import cifar10_error, complexities

_SHORTCUTS = {"none": "plain, no shortcuts", "highway": "shortcuts with gates"}


def show(name: str | None, size: int | None, as_json: bool) -> None:
    """Print one network, or all of them where `name` is None."""
    if name is None:
        _show_all(as_json)
        return
    description = describe(name, size)
    if as_json:
        print(json.dumps(_facts(description), indent=2))
    else:
        _print(description)


def _paper(name: str) -> dict[str, Any]:
    """What the paper prints about a network."""
    row, error = complexities().get(name), cifar10_error(name)
    facts: dict[str, Any] = {}
    if row and row.paper_parameters:
        facts["parameters"] = row.paper_parameters
    if row and row.paper_multiply_adds:
        facts["multiply_adds"] = row.paper_multiply_adds
    if error:
        facts["cifar10_test_error"] = asdict(error)
    return facts


def _facts(description: Description) -> dict[str, Any]:
    return {**asdict(description), "paper": _paper(description.name)}


def _print(d: Description) -> None:
    console = Console(highlight=False, width=None)
    paper = _paper(d.name)
    kind = ""
    if d.architecture:
        a = d.architecture
        shortcut = _SHORTCUTS.get(a.shortcut, f"shortcut option {a.shortcut}")
        order = ", pre-activation" if a.order == "pre" else ""
        stride = f", stride in the {a.stride_in}" if a.block == "bottleneck" else ""
        kind = f": {a.block} blocks, {shortcut}{order}{stride}, {a.classes} classes"
    console.print(f"[bold]{d.name}[/]{kind}")
    if d.stages:
        console.print(_stage_table(d))
        console.print("Shortcuts")
        for line in _shortcut_lines(d.shortcuts):
            console.print(f"  {line}")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("")
    table.add_column("here", justify="right")
    table.add_column("paper", justify="right")
    table.add_row("weighted layers", str(d.layers), str(d.layers) if paper else "-")
    table.add_row("parameters", f"{d.parameters:,}", paper.get("parameters", "-"))
    table.add_row(
        f"multiply-adds at {d.image_size}x{d.image_size}",
        multiply_adds_text(d.multiply_adds),
        multiply_adds_text(paper["multiply_adds"], 1) if "multiply_adds" in paper else "-",
    )
    if error := cifar10_error(d.name):
        table.add_row("CIFAR-10 test error", "", str(error))
    console.print(table)


def multiply_adds_text(count: float, digits: int = 3) -> str:
    """4.09e9 as `4.089 G`, 40.6e6 as `40.55 M`."""
    return f"{count / 1e9:.{digits}f} G" if count >= 1e9 else f"{count / 1e6:.2f} M"


def _stage_table(d: Description) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("stage", "blocks", "output map"):
        table.add_column(column)
    for stage in d.stages:
        blocks = f"{stage.blocks} {stage.kind}" if stage.blocks else f"{stage.kind} stem"
        table.add_row(stage.name, blocks, f"{stage.channels} x {stage.height} x {stage.width}")
    return table


def _shortcut_lines(shortcuts: Sequence[Shortcut]) -> list[str]:
    """One line for each run of equal shortcuts."""
    lines = []
    for (kind, into, out, stride), run in groupby(
        shortcuts, lambda s: (s.kind, s.in_channels, s.out_channels, s.stride)
    ):
        blocks = [s.block for s in run]
        where = blocks[0] if len(blocks) == 1 else f"{blocks[0]} .. {blocks[-1]} ({len(blocks)})"
        lines.append(f"{where:32} {kind:11} {into} -> {out} channels, stride {stride}")
    return lines


def _show_all(as_json: bool) -> None:
    rows = complexities()
    if as_json:
        print(json.dumps({name: asdict(row) for name, row in rows.items()}, indent=2))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("network", no_wrap=True)
    for column in ("layers", "parameters", "paper", "multiply-adds", "paper"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        paper = row.paper_multiply_adds
        table.add_row(
            name,
            str(row.layers),
            f"{row.parameters:,}",
            row.paper_parameters or "-",
            multiply_adds_text(row.multiply_adds),
            multiply_adds_text(paper, 1) if paper else "-",
        )
    Console(highlight=False).print(table)
    print("\nAlso every cifar-resnet<6n+2>, cifar-plain<6n+2>, and cifar-resnet<6n+2>-a, -b, -c;")
    print(
        "every ImageNet network with -small (a stem for 64-pixel images) or -ceil (Caffe's pool)."
    )
