"""`resnets signals`: forward signals and gradients of the layers (section 4.1)."""

from __future__ import annotations

import json as json_format
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnets.cli.console import print_table, refuse_plot, table, to_stderr
from resnets.cli.options import DataOption, DeviceOption, JsonOption, SetOption
from resnets.support.errors import UserError
from resnets.support.files import write_bytes

if TYPE_CHECKING:
    from resnets.analysis.signals import Signal


def signals(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe or a TOML file.", metavar="RECIPE")
    ],
    network: Annotated[str | None, typer.Option(help="Another network.", metavar="NAME")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of initial weights and order.", metavar="N")
    ] = None,
    steps: Annotated[
        str,
        typer.Option(
            help="Measure after these numbers of updates; 0: a new network.", metavar="N,N,..."
        ),
    ] = "0,100",
    data: DataOption = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them.", metavar="FILE.png")] = None,
    device: DeviceOption = "auto",
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Measure the signal and the gradient in each layer.

    In a new network, and in the course of its training.
    """
    from resnets.analysis import figures
    from resnets.data.datasets import open_data
    from resnets.models import zoo
    from resnets.support.devices import environment, find_device
    from resnets.training import recipe_file
    from resnets.training.signals import measure_training

    plan = recipe_file.load(recipe, settings or [], {"network": network, "seed": seed})
    recipe_file.refuse_unfit_counts(recipe, settings or [], plan)
    at = _steps(steps)
    refuse_plot(plot)
    chosen = find_device(device)
    split_seed = plan.photos.split_seed
    images = open_data(plan.dataset, data, split_seed=split_seed, report=to_stderr)
    found = measure_training(plan, images, chosen, at)
    if json:
        facts = {str(step): [asdict(signal) for signal in row] for step, row in found.items()}
        print(json_format.dumps({"steps": facts, **environment(chosen)}, indent=2))
    else:
        _print(plan.network, found)
    if plot:
        plain = zoo.architecture(plan.network).shortcut == "none"
        write_bytes(plot, figures.signals_png(plan.network, found, dashed=plain))
        if not json:
            print(f"Drawn in {plot}")


def _steps(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError("not of the form 0,100,1000", f"--steps {text}", "give whole numbers")
    return sorted({int(step) for step in text.split(",")})


def _print(network: str, found: Mapping[int, Sequence[Signal]]) -> None:
    print(f"{network}: deviation of each layer's response, and RMS of the loss's gradient there\n")
    titles = [title for step in found for title in (f"response, {step:,}", f"gradient, {step:,}")]
    made = table("layer", *titles)
    for rows in zip(*found.values(), strict=True):
        cells = [cell for s in rows for cell in (f"{s.forward:.3f}", f"{s.gradient:.2e}")]
        made.add_row(rows[0].layer, *cells)
    print_table(made)
