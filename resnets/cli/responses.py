"""`resnets responses`: Figure 7."""

from __future__ import annotations

import json
import statistics as numbers
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from resnets.analysis import figures, inputs
from resnets.analysis.responses import Response, Statistics, layer_responses
from resnets.models import zoo
from resnets.support.devices import environment, find_device
from resnets.support.errors import UserError, nearest
from resnets.support.files import write_bytes
from resnets.weights import model_file


@dataclass(frozen=True)
class Measured:
    """The responses of one model, and on what they were measured."""

    model: str
    network: str
    plain: bool
    images: str
    layers: list[Response]

    @property
    def stds(self) -> list[float]:
        return [response.std for response in self.layers]


def responses(
    names: list[str],
    data: str | None,
    statistics: str,
    limit: int,
    plot: Path | None,
    device_name: str,
    as_json: bool,
) -> None:
    """Measure, print and draw the responses of models."""
    _refuse(names, statistics, plot)
    device = find_device(device_name)
    found = []
    for name in names:
        model = model_file.load(name)
        shown = inputs.for_model(model, data, "test", device, limit, _to_stderr)
        network = model.card["network"]
        try:
            layers = layer_responses(model.network.to(device), shown, statistics)  # type: ignore[arg-type]
        except UserError as error:
            raise UserError(error.message, error.location or name, error.hint) from error
        plain = network not in zoo.VGG_NAMES and zoo.architecture(network).shortcut == "none"
        found.append(Measured(name, network, plain, shown.about, layers))
    labels = _labels(found)
    if as_json:
        models = [asdict(one) for one in found]
        facts = {"statistics": statistics, "models": models, **environment(device)}
        print(json.dumps(facts, indent=2))
    else:
        _print(found, labels, statistics)
    if plot:
        lines = [(label, one.plain, one.stds) for label, one in zip(labels, found, strict=True)]
        write_bytes(plot, figures.responses_png(lines))
        if not as_json:
            print(f"Drawn in {plot}")


def _refuse(names: list[str], statistics: str, plot: Path | None) -> None:
    """Raise `UserError` for what can be known to fail before anything is computed."""
    kinds = get_args(Statistics)
    if statistics not in kinds:
        raise UserError(
            "no such statistics", f"--statistics {statistics}", nearest(statistics, kinds)
        )
    for name in names:
        if names.count(name) > 1:
            raise UserError("is given twice", name)
    if plot and plot.suffix != ".png":
        raise UserError("the plot is a PNG file", f"--plot {plot}", "give a name ending in .png")
    if plot and not plot.absolute().parent.is_dir():
        raise UserError("no such folder", str(plot.parent), "make it first")
    if plot and plot.is_dir():
        raise UserError("is a folder", f"--plot {plot}", "give the name of a file")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _labels(found: list[Measured]) -> list[str]:
    """The networks' names; the models' own where several are of one network."""
    networks = [one.network for one in found]
    return [
        one.network if networks.count(one.network) == 1 else Path(one.model).stem for one in found
    ]


def _print(found: list[Measured], labels: list[str], statistics: str) -> None:
    for label, one in zip(labels, found, strict=True):
        print(f"{label}: {len(one.layers)} layers on {one.images}")
    print(f"Standard deviation of each 3x3 layer's output after BN ({statistics} statistics)\n")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("layer")
    single = found[0].layers if len(found) == 1 else []
    for label in labels:
        table.add_column("std" if single else label, justify="right")
    for row in range(max(len(one.layers) for one in found)):
        values = [f"{one.stds[row]:.3f}" if row < len(one.stds) else "" for one in found]
        table.add_row(single[row].layer if single else str(row + 1), *values)
    table.add_section()
    for what, of in (("mean", numbers.fmean), ("median", numbers.median)):
        table.add_row(what, *(f"{of(one.stds):.3f}" for one in found))
    Console(highlight=False).print(table)
