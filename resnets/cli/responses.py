"""`resnets responses`: the responses of layers, as in Figure 7."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from resnets.cli.console import print_table, refuse_plot, table, to_stderr
from resnets.cli.options import DataOption, DeviceOption, JsonOption
from resnets.support.errors import UserError, nearest
from resnets.support.files import write_bytes

if TYPE_CHECKING:
    import torch

    from resnets.analysis.responses import Response


def responses(
    models: Annotated[
        list[str],
        typer.Argument(help="Model names, model files or run folders.", metavar="MODEL..."),
    ],
    data: DataOption = None,
    statistics: Annotated[
        str,
        typer.Option(
            help="BN's statistics: running (as in use) or batch (as in training).", metavar="NAME"
        ),
    ] = "running",
    limit: Annotated[
        int, typer.Option(min=1, help="Test images, drawn at random.", metavar="N")
    ] = 1000,
    plot: Annotated[
        Path | None, typer.Option(help="Draw them, like Figure 7.", metavar="FILE.png")
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure the responses of layers, as in Figure 7.

    They are standard deviations of the outputs of 3x3 layers, after BN.
    """
    from resnets.analysis import figures
    from resnets.analysis.responses import Statistics
    from resnets.support.devices import environment, find_device

    kinds = get_args(Statistics)
    if statistics not in kinds:
        raise UserError(
            "no such statistics", f"--statistics {statistics}", nearest(statistics, kinds)
        )
    for name in models:
        if models.count(name) > 1:
            raise UserError("is given twice", name)
    refuse_plot(plot)
    chosen = find_device(device)
    measured = [_measure(name, data, limit, chosen, statistics) for name in models]
    labels = _labels(measured)
    if json:
        facts = {
            "statistics": statistics,
            "models": [asdict(one) for one in measured],
            **environment(chosen),
        }
        print(json_format.dumps(facts, indent=2))
    else:
        _print(measured, labels, statistics)
    if plot:
        lines = [(label, one.plain, one.stds) for label, one in zip(labels, measured, strict=True)]
        write_bytes(plot, figures.responses_png(lines))
        if not json:
            print(f"Drawn in {plot}")


@dataclass(frozen=True)
class _Measured:
    """The responses of one model, and the images they were measured on."""

    model: str
    network: str
    plain: bool
    images: str
    layers: list[Response]

    @property
    def stds(self) -> list[float]:
        return [response.std for response in self.layers]


def _measure(
    name: str, data: str | None, limit: int, device: torch.device, statistics: str
) -> _Measured:
    from resnets.analysis import inputs
    from resnets.analysis.responses import layer_responses
    from resnets.models import zoo
    from resnets.weights import hub

    model = hub.load(name)
    shown = inputs.for_model(model, data, "test", device, limit, to_stderr)
    network = model.card["network"]
    try:
        layers = layer_responses(model.network.to(device), shown, statistics)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(error.message, error.location or name, error.hint) from error
    plain = network not in zoo.VGG_NAMES and zoo.architecture(network).shortcut == "none"
    return _Measured(name, network, plain, shown.about, layers)


def _labels(measured: list[_Measured]) -> list[str]:
    """The networks' names; the files' names where several models have one network."""
    networks = [one.network for one in measured]
    return [
        one.network if networks.count(one.network) == 1 else Path(one.model).stem
        for one in measured
    ]


def _print(measured: list[_Measured], labels: list[str], statistics: str) -> None:
    from statistics import fmean, median

    for label, one in zip(labels, measured, strict=True):
        print(f"{label}: {len(one.layers)} layers on {one.images}")
    print(f"Standard deviation of each 3x3 layer's output after BN ({statistics} statistics)\n")
    single = measured[0].layers if len(measured) == 1 else []
    made = table("layer", *(["std"] if single else labels))
    for row in range(max(len(one.layers) for one in measured)):
        values = [f"{one.stds[row]:.3f}" if row < len(one.stds) else "" for one in measured]
        made.add_row(single[row].layer if single else str(row + 1), *values)
    made.add_section()
    for what, of in (("mean", fmean), ("median", median)):
        made.add_row(what, *(f"{of(one.stds):.3f}" for one in measured))
    print_table(made)
