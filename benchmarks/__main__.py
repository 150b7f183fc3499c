"""`python -m benchmarks VERB`: the flags of each benchmark; `benchmarks/cli.py` runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnets.cli.main import run
from resnets.cli.options import DeviceOption, example

benches = typer.Typer(
    help="Measure speed: ratios to named peers in the same run. Let nothing else run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
RoundsOption = Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")]
SecondsOption = Annotated[float, typer.Option(min=0.1, help="Length of a contender's round.")]
OutOption = Annotated[
    Path | None, typer.Option(help="Write the figures as JSON.", metavar="FILE.json")
]
CompiledOption = Annotated[
    bool, typer.Option("--compiled", help="Compiled contenders too: a minute each.")
]


@benches.command(epilog=example("python -m benchmarks train --network cifar-resnet20 --compiled"))
def train(
    network: Annotated[
        str, typer.Option(help="cifar-resnet20, resnet50-v1.5, ...")
    ] = "cifar-resnet20",
    batch: Annotated[int | None, typer.Option(min=2, help="128, or 32 for photographs.")] = None,
    compiled: CompiledOption = False,
    workers: Annotated[int, typer.Option(min=0, help="The peer's DataLoader workers.")] = 2,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 5.0,
    device: DeviceOption = "auto",
    out: OutOption = None,
) -> None:
    """Training steps: the usual published loop for CIFAR-10, torchvision and timm else."""
    from benchmarks import cli as verb

    verb.train(network, batch, rounds, seconds, device, compiled, workers, out)


@benches.command(epilog=example("python -m benchmarks infer --network resnet50-v1.5"))
def infer(
    network: Annotated[
        str, typer.Option(help="resnet50-v1.5, cifar-resnet20, ...")
    ] = "resnet50-v1.5",
    compiled: CompiledOption = False,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 2.0,
    device: DeviceOption = "auto",
    out: OutOption = None,
) -> None:
    """Inference at batch 1 and 16: torchvision, timm, ONNX Runtime, OpenVINO."""
    from benchmarks import cli as verb

    verb.infer(network, rounds, seconds, device, compiled, out)


@benches.command("input", epilog=example("python -m benchmarks input --data photos"))
def inputs(
    data: Annotated[Path, typer.Option(help="A folder of photographs.", metavar="FOLDER")],
    images: Annotated[int, typer.Option(min=32, help="How many of them.")] = 192,
    dali: Annotated[bool, typer.Option("--dali", help="NVIDIA DALI, on the CPU, too.")] = False,
    rounds: RoundsOption = 5,
    out: OutOption = None,
) -> None:
    """Photographs to training batches: torchvision's Pillow pipeline is the peer."""
    from benchmarks import cli as verb

    verb.inputs(data, images, rounds, dali, out)


@benches.command(epilog=example("python -m benchmarks startup --model resnet50@msra"))
def startup(
    model: Annotated[str, typer.Option(help="That predict is given.")] = "cifar-resnet20",
    rounds: RoundsOption = 5,
    out: OutOption = None,
) -> None:
    """Commands from start to end: --help, info, predict."""
    from benchmarks import cli as verb

    verb.startup(model, rounds, out)


@benches.command(epilog=example("python -m benchmarks scale --deepest 110"))
def scale(
    deepest: Annotated[int, typer.Option(min=20, help="Leave deeper networks out.")] = 1202,
    rounds: RoundsOption = 3,
    seconds: SecondsOption = 2.0,
    processes: Annotated[
        bool, typer.Option("--processes", help="Also one process against two, on CPUs.")
    ] = False,
    device: DeviceOption = "auto",
    out: OutOption = None,
) -> None:
    """Time and memory for an image against depth, batch, resolution, processes."""
    from benchmarks import cli as verb

    verb.scale(deepest, rounds, seconds, processes, device, out)


@benches.command(
    "all", epilog=example("python -m benchmarks all --out results/bench --data photos")
)
def everything(
    out: Annotated[Path, typer.Option(help="For the reports.", metavar="FOLDER")],
    data: Annotated[
        Path | None, typer.Option(help="Photographs, for bench input.", metavar="FOLDER")
    ] = None,
    compiled: CompiledOption = False,
    device: DeviceOption = "auto",
) -> None:
    """All of these but serve, then a table of the ratios. Give it an hour."""
    from benchmarks import cli as verb

    verb.everything(data, device, compiled, out)


@benches.command(epilog=example("python -m benchmarks serve --model resnet50@msra --minutes 10"))
def serve(
    model: Annotated[str, typer.Option(help="That serve is given.")] = "cifar-resnet20",
    data: Annotated[
        Path | None, typer.Option(help="Images to send; made ones by default.", metavar="FOLDER")
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="Of wrk.")] = 48,
    minutes: Annotated[float, typer.Option(min=0, help="Watch memory under load.")] = 10.0,
    attacks: Annotated[int, typer.Option(min=0, help="Malformed requests.")] = 10_000,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 20.0,
    out: OutOption = None,
) -> None:
    """The server under load by wrk, for minutes, and under attack."""
    from benchmarks import cli as verb

    verb.serve(model, data, connections, rounds, seconds, minutes, attacks, out)


if __name__ == "__main__":
    run(benches, "python -m benchmarks")
