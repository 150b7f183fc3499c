"""`resnets signals`: what goes forwards and backwards through the layers (section 4.1)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from resnets.analysis import drawing, signals
from resnets.analysis.signals import Signal
from resnets.cli.train import load_data
from resnets.models import zoo
from resnets.support.devices import environment, find_device
from resnets.support.errors import UserError
from resnets.support.files import write_bytes
from resnets.training import recipe_file


def follow(
    name: str,
    network: str | None,
    seed: int,
    at: str,
    data: str | None,
    plot: Path | None,
    device_name: str,
    settings: Sequence[str],
    as_json: bool,
) -> None:
    """Train as far as asked, and print and draw the signals on the way."""
    keys: dict[str, str | int] = {"seed": seed, **({"network": network} if network else {})}
    recipe = recipe_file.load(name, settings, keys)
    steps = _steps(at)
    if plot and (plot.suffix != ".png" or not plot.absolute().parent.is_dir()):
        raise UserError("not a PNG file in a folder that exists", f"--plot {plot}", "rename it")
    device = find_device(device_name)
    images = load_data(recipe, data, lambda line: print(line, file=sys.stderr))
    found = signals.follow(recipe, images, device, steps)
    if as_json:
        facts = {str(step): [asdict(signal) for signal in row] for step, row in found.items()}
        print(json.dumps({"steps": facts, **environment(device)}, indent=2))
    else:
        _print(recipe.network, found)
    if plot:
        plain = zoo.architecture(recipe.network).shortcut == "none"
        write_bytes(plot, drawing.signals_png([(recipe.network, plain, found)]))
        if not as_json:
            print(f"Drawn in {plot}")


def _steps(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError("not of the form 0,100,1000", f"--steps {text}", "give whole numbers")
    return sorted({int(step) for step in text.split(",")})


def _print(network: str, found: Mapping[int, Sequence[Signal]]) -> None:
    print(f"{network}: deviation of each layer's response, and RMS of the loss's gradient there\n")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("layer")
    for step in found:
        table.add_column(f"response, {step:,}", justify="right")
        table.add_column(f"gradient, {step:,}", justify="right")
    for rows in zip(*found.values(), strict=True):
        cells = [cell for s in rows for cell in (f"{s.forward:.3f}", f"{s.gradient:.2e}")]
        table.add_row(rows[0].layer, *cells)
    Console(highlight=False).print(table)
