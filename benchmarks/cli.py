"""`python -m benchmarks`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks import measure
from benchmarks.measure import Table
from resnets.support.devices import find_device
from resnets.support.errors import UserError
from resnets.support.files import write_json


def train(
    network: str,
    batch: int | None,
    rounds: int,
    seconds: float,
    device_name: str,
    compiled: bool,
    workers: int,
    out: Path | None,
) -> None:
    """Measure training steps."""
    from benchmarks import training

    _check(out)
    device = find_device(device_name)
    try:
        table = training.measure(network, batch, rounds, seconds, device, compiled, workers, _tell)
    except KeyboardInterrupt:  # the peers have ended
        os._exit(130)  # Python would take seconds to clear up what PyTorch's compiler imported
    _show("train", [table], device, out)


def infer(
    network: str, rounds: int, seconds: float, device_name: str, compiled: bool, out: Path | None
) -> None:
    """Measure inference."""
    from benchmarks import inference

    _check(out)
    device = find_device(device_name)
    tables = inference.measure(network, rounds, seconds, device, compiled, _tell)
    _show("infer", tables, device, out)


def inputs(data: Path, images: int, rounds: int, dali: bool, out: Path | None) -> None:
    """Measure the way from files to batches."""
    from benchmarks import inputs as bench

    _check(out)
    _show("input", bench.measure(data, images, rounds, dali, _tell), torch.device("cpu"), out)


def startup(model: str, rounds: int, out: Path | None) -> None:
    """Measure whole commands."""
    from benchmarks import startup as bench

    _check(out)
    _show("startup", [bench.measure(model, rounds, _tell)], torch.device("cpu"), out)


def scale(
    deepest: int, rounds: int, seconds: float, processes: bool, device_name: str, out: Path | None
) -> None:
    """Measure time and memory against depth, batch, resolution and processes."""
    from benchmarks import scaling

    _check(out)
    device = find_device(device_name)
    tables = scaling.measure(rounds, seconds, device, deepest, _tell)
    if processes:
        tables.append(scaling.processes(rounds, 60, _tell))
    _show("scale", tables, device, out)


def serve(
    model: str,
    data: Path | None,
    connections: int,
    rounds: int,
    seconds: float,
    minutes: float,
    attacks: int,
    out: Path | None,
) -> None:
    """Measure the server under load and under attack."""
    from benchmarks import serving

    _check(out)
    plan = serving.Plan(model, data, connections, rounds, seconds, minutes, attacks)
    _show("serve", serving.measure(plan, _tell), torch.device("cpu"), out)


def everything(data: Path | None, device_name: str, compiled: bool, folder: Path) -> None:
    """Run all benchmarks with their usual options, each into its report, then sum up.

    What cannot run is told, and does not stop the rest.
    """
    if not folder.is_dir():
        raise UserError("no such folder", f"--out {folder}", "make it first")
    kind = find_device(device_name).type
    runs: dict[str, Callable[[Path], None]] = {
        f"train-{network.removesuffix('-v1.5')}": partial(
            train, network, None, 5, 5.0, device_name, compiled, 2
        )
        for network in ("cifar-resnet20", "cifar-resnet56", "cifar-resnet110", "resnet50-v1.5")
    }
    for network in ("resnet50-v1.5", "cifar-resnet20"):
        runs[f"infer-{network.removesuffix('-v1.5')}"] = partial(
            infer, network, 5, 2.0, device_name, compiled
        )
    runs["startup"] = partial(startup, "cifar-resnet20", 5)
    runs["scale"] = partial(scale, 1202, 3, 2.0, kind == "cpu", device_name)
    if data is not None:
        runs["input"] = partial(inputs, data, 192, 5, False)
    reports = {name: folder / f"{name}-{kind}.json" for name in runs}
    for name, run in runs.items():
        try:
            run(reports[name])
        except (UserError, RuntimeError, OSError, subprocess.SubprocessError) as error:
            print(f"resnets: {name}: {error}", file=sys.stderr)  # a peer's failure, perhaps
            del reports[name]
    print("\n".join(measure.summary(json.loads(path.read_bytes()) for path in reports.values())))


def _check(out: Path | None) -> None:
    """Before minutes are spent, see that the file can be written."""
    if out is not None and not out.parent.is_dir():
        raise UserError("no such folder", str(out.parent), "make it first")


def _tell(line: str) -> None:
    print(f"resnets: {line}", file=sys.stderr)


def _show(bench: str, tables: Sequence[Table], device: torch.device, out: Path | None) -> None:
    for table in tables:
        print("\n".join(measure.lines(table)))
    if out is not None:
        write_json(out, measure.document(bench, tables, device))
