"""`resnets train` and `resnets resume`."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnets.cli.progress import Lines, duration, watch
from resnets.data import cifar10
from resnets.evaluation.plots import training_png
from resnets.paper.numbers import cifar10_error
from resnets.support.errors import UserError
from resnets.support.files import write_bytes
from resnets.training import hardware, metrics, recipe, run


def train(
    name: str,
    network: str | None,
    seed: int | None,
    data: Path | None,
    out: Path | None,
    go_on: bool,
    device_name: str,
    settings: list[str],
) -> None:
    """Train anew, or go on where `go_on` and the run exists."""
    options = [f'network="{network}"'] if network else []
    options += [f"seed={seed}"] if seed is not None else []
    plan = recipe.load(name, [*settings, *options])
    device = hardware.find_device(device_name)
    folder = out or Path("runs") / f"{Path(name).stem}-{plan.network}-seed{plan.seed}"
    exists = (folder / "recipe.json").exists()
    if exists and go_on and run.read_recipe(folder).content_hash() == plan.content_hash():
        _go_on(folder, data, None if device_name == "auto" else device)
        return
    run.refuse_existing(folder, plan)
    _watched(
        lambda looker: run.start(
            folder, plan, cifar10.load(data, looker.note), device, looker, _command()
        )
    )


def resume(folder: Path, data: Path | None, device_name: str | None) -> None:
    """Go on with the run in `folder`."""
    run.read_recipe(folder)
    _go_on(folder, data, hardware.find_device(device_name) if device_name else None)


def _go_on(folder: Path, data: Path | None, device: Any) -> None:
    if (folder / "summary.json").exists():
        print(f"{folder} is finished; use it with: {_program()} eval {shlex.quote(str(folder))}")
        return
    _watched(lambda looker: run.resume(folder, cifar10.load(data, looker.note), device, looker))


def _command() -> str:
    return shlex.join(["resnets", *sys.argv[1:]])


def _program() -> str:
    """How the user can call this program again: by its name only where it is on the PATH."""
    return "resnets" if shutil.which("resnets") else sys.argv[0]


OUT_OF_MEMORY = re.compile("out of memory|allocate memory|not enough memory", re.IGNORECASE)


def _watched(make: Callable[[Lines], run.Run]) -> None:
    """Train a run with somebody looking on, and say how it ended."""
    looker = watch()
    try:
        made = make(looker)
        summary = made.train()
    except run.Interrupted as stop:
        looker.close()
        print(f"Stopped at iteration {stop.step:,}, saved.")
        print(f"Go on with: {_program()} resume {shlex.quote(str(stop.folder))}")
        sys.exit(128 + stop.signal)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        raise UserError("out of memory", mend="try a smaller batch: --set batch=64") from error
    finally:
        looker.close()
    _draw(made.folder, summary)
    _report(made.folder, summary)


def _draw(folder: Path, summary: dict[str, Any]) -> None:
    """The training curve as a picture, where matplotlib is installed."""
    paper = cifar10_error(summary["network"])
    title = f"{summary['network']}: {summary['measured']['error']:.2f} % test error"
    try:
        png = training_png(metrics.read(folder), title, paper.error if paper else None)
    except ImportError:
        return
    write_bytes(folder / "curve.png", png)


def _report(folder: Path, summary: dict[str, Any]) -> None:
    measured, network = summary["measured"], summary["network"]
    held_out = "held-out" if measured["split"] == "45k/5k" else "test"
    paper = cifar10_error(network)
    print()
    print(f"{network}  {held_out} error {measured['error']:.2f} %  ({measured['protocol']})")
    if paper:
        print(f"{'the paper':{len(network)}}  {paper}")
    print(
        f"{summary['iterations']:,} iterations in {duration(summary['provenance']['seconds'])} "
        f"on {summary['provenance']['hardware']}"
    )
    print(f"Model: {folder / 'model.safetensors'}")
    print(f"Use it: {_program()} predict --model {shlex.quote(str(folder))} photo.jpg")
