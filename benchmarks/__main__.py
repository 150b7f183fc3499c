"""`python -m benchmarks VERB`: each benchmark's options, its report on the screen and in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnets.cli.main import run
from resnets.cli.options import DeviceOption, command_line, example
from resnets.support.devices import find_device
from resnets.support.errors import UserError
from resnets.support.files import write_json

if TYPE_CHECKING:
    from benchmarks.measure import Table

app = command_line("Measure speed: ratios to named peers in the same run. Let nothing else run.")
RoundsOption = Annotated[int, typer.Option(min=1, help="Rounds; the median counts.", metavar="N")]
SecondsOption = Annotated[
    float, typer.Option(min=0.1, help="Length of a contender's round.", metavar="SECONDS")
]
CompiledOption = Annotated[
    bool, typer.Option("--compiled", help="Compiled contenders too: a minute each.")
]
OutOption = Annotated[
    Path | None, typer.Option(help="Write the report as JSON.", metavar="FILE.json")
]


@app.command(epilog=example("python -m benchmarks train --network cifar-resnet20 --compiled"))
def train(
    network: Annotated[
        str, typer.Option(help="cifar-resnet20, resnet50-v1.5, ...", metavar="NETWORK")
    ] = "cifar-resnet20",
    batch: Annotated[
        int | None,
        typer.Option(min=2, help="By default 128, or 32 for photographs.", metavar="N"),
    ] = None,
    compiled: CompiledOption = False,
    workers: Annotated[
        int, typer.Option(min=0, help="The peer's DataLoader workers.", metavar="N")
    ] = 2,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 5.0,
    device: DeviceOption = "auto",
    out: OutOption = None,
) -> None:
    """Training steps, compared with the usual published loop or with torchvision and timm."""
    from benchmarks import training

    _check(out)
    try:
        table = training.measure(
            network,
            batch=batch,
            rounds=rounds,
            seconds=seconds,
            device=find_device(device),
            compiled=compiled,
            workers=workers,
            report=_print_progress,
        )
    except KeyboardInterrupt:  # the peers have ended
        os._exit(130)  # Python would take seconds to clear up what PyTorch's compiler imported
    _finish("train", [table], device, out)


@app.command(epilog=example("python -m benchmarks detect --rois 32"))
def detect(
    network: Annotated[
        str, typer.Option(help="resnet50, resnet18, ...", metavar="NETWORK")
    ] = "resnet50",
    size: Annotated[
        int, typer.Option(min=32, help="Shorter side of a training image.", metavar="N")
    ] = 304,
    rois: Annotated[int, typer.Option(min=1, help="Regions of it.", metavar="N")] = 32,
    test_size: Annotated[
        int, typer.Option(min=32, help="Shorter side of a test image.", metavar="N")
    ] = 400,
    test_rois: Annotated[int, typer.Option(min=1, help="Regions of it.", metavar="N")] = 100,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 5.0,
    device: DeviceOption = "auto",
    out: OutOption = None,
) -> None:
    """Training and inference of a detector, compared with torchvision's Faster R-CNN."""
    from benchmarks import detection

    _check(out)
    where, report = find_device(device), _print_progress
    tables = [
        detection.training(
            network, size=size, rois=rois, rounds=rounds, seconds=seconds, device=where,
            report=report,
        ),
        detection.inference(
            network, size=test_size, regions=test_rois, rounds=rounds, seconds=seconds,
            device=where, report=report,
        ),
    ]  # fmt: skip
    _finish("detect", tables, device, out)


@app.command(epilog=example("python -m benchmarks infer --network resnet50-v1.5"))
def infer(
    network: Annotated[
        str, typer.Option(help="resnet50-v1.5, cifar-resnet20, ...", metavar="NETWORK")
    ] = "resnet50-v1.5",
    compiled: CompiledOption = False,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 2.0,
    device: DeviceOption = "auto",
    out: OutOption = None,
) -> None:
    """Inference at batch 1 and 16, compared with torchvision, timm, ONNX Runtime, OpenVINO."""
    from benchmarks import inference

    _check(out)
    tables = inference.measure(
        network,
        rounds=rounds,
        seconds=seconds,
        device=find_device(device),
        compiled=compiled,
        report=_print_progress,
    )
    _finish("infer", tables, device, out)


@app.command("input", epilog=example("python -m benchmarks input --data photos"))
def inputs(
    data: Annotated[Path, typer.Option(help="A folder of photographs.", metavar="FOLDER")],
    images: Annotated[int, typer.Option(min=32, help="How many of them.", metavar="N")] = 192,
    dali: Annotated[bool, typer.Option("--dali", help="Also NVIDIA DALI, on the CPU.")] = False,
    rounds: RoundsOption = 5,
    out: OutOption = None,
) -> None:
    """Photographs to training batches, compared with torchvision's Pillow pipeline."""
    from benchmarks import inputs as benchmark

    _check(out)
    tables = benchmark.measure(
        data, images=images, rounds=rounds, dali=dali, report=_print_progress
    )
    _finish("input", tables, "cpu", out)


@app.command(epilog=example("python -m benchmarks startup --model resnet50@msra"))
def startup(
    model: Annotated[
        str, typer.Option(help="The model of `resnets predict`.", metavar="MODEL")
    ] = "cifar-resnet20",
    rounds: RoundsOption = 5,
    out: OutOption = None,
) -> None:
    """Whole commands, from start to end: --help, info, predict."""
    from benchmarks import startup as benchmark

    _check(out)
    _finish("startup", [benchmark.measure(model, rounds, _print_progress)], "cpu", out)


@app.command(epilog=example("python -m benchmarks scale --deepest 110"))
def scale(
    deepest: Annotated[
        int, typer.Option(min=20, help="Layers of the deepest network.", metavar="N")
    ] = 1202,
    rounds: RoundsOption = 3,
    seconds: SecondsOption = 2.0,
    processes: Annotated[
        bool, typer.Option("--processes", help="Also one process against two, on CPUs.")
    ] = False,
    device: DeviceOption = "auto",
    out: OutOption = None,
) -> None:
    """Time and memory of an image against depth, batch, resolution, processes."""
    from benchmarks import scaling

    _check(out)
    tables = scaling.measure(
        deepest=deepest,
        rounds=rounds,
        seconds=seconds,
        device=find_device(device),
        report=_print_progress,
    )
    if processes:
        tables.append(scaling.processes(rounds, 60, _print_progress))
    _finish("scale", tables, device, out)


@app.command(epilog=example("python -m benchmarks serve --model resnet50@msra --minutes 10"))
def serve(
    model: Annotated[
        str, typer.Option(help="The model of `resnets serve`.", metavar="MODEL")
    ] = "cifar-resnet20",
    data: Annotated[
        Path | None,
        typer.Option(help="Images to send; generated ones by default.", metavar="FOLDER"),
    ] = None,
    connections: Annotated[
        int, typer.Option(min=1, max=1000, help="Connections of wrk.", metavar="N")
    ] = 48,
    minutes: Annotated[
        float, typer.Option(min=0, help="How long memory is watched under load.", metavar="N")
    ] = 10.0,
    attacks: Annotated[
        int, typer.Option(min=0, help="Number of malformed requests.", metavar="N")
    ] = 10_000,
    rounds: RoundsOption = 5,
    seconds: SecondsOption = 20.0,
    out: OutOption = None,
) -> None:
    """The server under load by wrk: speed, latency, memory; then malformed requests."""
    from benchmarks import serving

    _check(out)
    plan = serving.Plan(
        model=model,
        data=data,
        connections=connections,
        rounds=rounds,
        seconds=seconds,
        minutes=minutes,
        attacks=attacks,
    )
    _finish("serve", serving.measure(plan, _print_progress), "cpu", out)


@app.command(epilog=example("python -m benchmarks faults --out faults.json"))
def faults(
    campaign: Annotated[
        str | None,
        typer.Argument(help="images, requests, damage, disk or kills; all if left out."),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Number of faults; by default the campaign's own.", metavar="N"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides which faults.", metavar="N")] = 0,
    out: OutOption = None,
) -> None:
    """Campaigns of faults, such as malformed image files; exit code 1 if any does harm.

    All of them take about an hour and a half.
    """
    from benchmarks.faults import CAMPAIGNS
    from benchmarks.faults import run as run_campaign

    if campaign is None and count is not None:
        raise UserError("--count needs a campaign", hint=f"one of {', '.join(CAMPAIGNS)}")
    if campaign is not None and campaign not in CAMPAIGNS:
        raise UserError(f"no campaign {campaign!r}", hint=f"one of {', '.join(CAMPAIGNS)}")
    _check(out)
    outcomes = []
    for name in [campaign] if campaign else CAMPAIGNS:
        outcomes.append(run_campaign(name, count, seed, _print_progress))
        print("\n".join([outcomes[-1].line(), *(f"  {line}" for line in outcomes[-1].failures)]))
    if out is not None:
        from benchmarks import measure

        write_json(out, measure.document("faults", outcomes, find_device("cpu")))
    if any(outcome.failures for outcome in outcomes):
        raise typer.Exit(1)


@app.command("all", epilog=example("python -m benchmarks all --out results/bench --data photos"))
def everything(
    out: Annotated[Path, typer.Option(help="Folder for the reports.", metavar="FOLDER")],
    data: Annotated[
        Path | None, typer.Option(help="Photographs, for `input`.", metavar="FOLDER")
    ] = None,
    compiled: CompiledOption = False,
    device: DeviceOption = "auto",
) -> None:
    """All benchmarks but serve and faults, then a table of the ratios. Takes about an hour.

    A benchmark that fails is reported, and does not stop the others.
    """
    if not out.is_dir():
        raise UserError("no such folder", f"--out {out}", "make it first")
    kind = find_device(device).type
    runs: dict[str, Callable[..., None]] = {}
    for network in ("cifar-resnet20", "cifar-resnet56", "cifar-resnet110", "resnet50-v1.5"):
        name = f"train-{network.removesuffix('-v1.5')}"
        runs[name] = partial(train, network=network, device=device, compiled=compiled)
    for network in ("resnet50-v1.5", "cifar-resnet20"):
        name = f"infer-{network.removesuffix('-v1.5')}"
        runs[name] = partial(infer, network=network, device=device, compiled=compiled)
    runs["startup"] = startup
    runs["scale"] = partial(scale, processes=kind == "cpu", device=device)
    if data is not None:
        runs["input"] = partial(inputs, data=data)
    reports = {name: out / f"{name}-{kind}.json" for name in runs}
    for name, benchmark in runs.items():
        try:
            benchmark(out=reports[name])
        except (UserError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            print(f"resnets: {name}: {error}", file=sys.stderr)  # perhaps of a peer
            del reports[name]
    from benchmarks import measure

    print("\n".join(measure.summary(json.loads(path.read_bytes()) for path in reports.values())))


def _check(out: Path | None) -> None:
    """Raise `UserError` before minutes are spent if the report cannot be written."""
    if out is not None and not out.parent.is_dir():
        raise UserError("no such folder", str(out.parent), "make it first")


def _print_progress(line: str) -> None:
    print(f"resnets: {line}", file=sys.stderr)


def _finish(name: str, tables: list[Table], device: str, out: Path | None) -> None:
    """Print the tables, and write the report."""
    from benchmarks import measure

    for table in tables:
        print("\n".join(measure.lines(table)))
    if out is not None:
        write_json(out, measure.document(name, tables, find_device(device)))


if __name__ == "__main__":
    run(app, "python -m benchmarks")
