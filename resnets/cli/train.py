"""`resnets train` and `resnets resume`."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from resnets.analysis.figures import training_png
from resnets.cli.memory import is_lack_of_memory
from resnets.cli.progress import Lines, duration, watch
from resnets.data import cifar10, datasets
from resnets.paper.numbers import PaperError, cifar10_error
from resnets.support import devices, distributed
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.support.files import write_bytes
from resnets.training import metrics, recipe_file, run, run_folder
from resnets.training.objective import Data
from resnets.training.recipe import Recipe


def train(
    name: str,
    keys: dict[str, str | int | None],
    image_size: int | None,
    data: str | None,
    out: Path | None,
    go_on: bool,
    device_name: str,
    settings: list[str],
) -> None:
    """Train anew, or go on where `go_on` and the run exists.

    Args:
        keys: keys of the recipe that have an option of their own.
    """
    plan = recipe_file.load(name, settings, {k: v for k, v in keys.items() if v is not None})
    if image_size is not None:
        plan = plan.at_size(image_size)
    if plan.dataset == "photos" and data is None:
        raise UserError(f"{name} needs images", hint="give a folder of images: --data FOLDER")
    label = plan.network or re.sub(r"[^\w.@-]", "-", plan.init or "")
    folder = out or Path("runs") / f"{Path(name).stem}-{label}-seed{plan.seed}"
    with distributed.world() as world:
        device = _device(device_name, world)
        if world.first(lambda: go_on and run_folder.is_run_of(folder, plan)):
            chosen = None if device_name == "auto" else device
            _go_on(folder, data, chosen, world, plan.photos.bad_images)
            return
        world.first(lambda: run_folder.refuse_existing(folder, plan))

        def begin(looker: Lines) -> run.Run:
            found: list[Data] = []
            world.each(lambda: found.append(load_data(plan, data, looker.note)))
            place = data and str(Path(data).resolve() if "://" not in data else data)
            return run_folder.start(
                folder, plan, found[0], device, looker, _command(), world, place
            )

        _watched(begin, world)


def resume(folder: Path, data: str | None, device_name: str | None) -> None:
    """Go on with the run in `folder`."""
    run_folder.read_recipe(folder)
    with distributed.world() as world:
        device = _device(device_name, world) if device_name else None
        _go_on(folder, data, device, world)


def _device(name: str, world: World) -> torch.device:
    """The device of this process: of several, each takes a GPU of its own."""
    device = devices.find_device(name)
    if device.type == "cuda" and world.size > 1:
        return devices.find_device(f"cuda:{world.local_rank}")
    return device


def load_data(plan: Recipe, data: str | None, note: Callable[[str], None]) -> Data:
    """The images that a recipe trains on.

    Raises:
        UserError: if they are not there, or the recipe needs some and none are given.
    """
    if plan.dataset == "cifar10":
        return cifar10.load(Path(data) if data else None, note)
    if data is None:
        raise UserError("this recipe needs images", hint="give a folder of images: --data FOLDER")
    return datasets.open_training(data, plan.photos.split_seed)


def _go_on(
    folder: Path,
    data: str | None,
    device: torch.device | None,
    world: World,
    bad_images: float | None = None,
) -> None:
    if (folder / "summary.json").exists():
        if world.is_main:
            recipe = run_folder.read_recipe(folder)
            photos = recipe.dataset == "photos"
            if photos and data is not None:
                given = load_data(recipe, data, print)
                run_folder.refuse_other_images(folder, recipe, given)
            use = "predict {} photo.jpg" if photos else "eval {}"
            print(
                f"{folder} is finished; use it with: "
                f"{_program()} {use.format(shlex.quote(str(folder)))}"
            )
        return
    plan = run_folder.read_recipe(folder)
    place = data or run_folder.began(folder)["place"]
    if device is None and world.size > 1:
        device = _device(run_folder.began(folder)["device"], world)
    _watched(
        lambda looker: run_folder.resume(
            folder, load_data(plan, place, looker.note), device, looker, world, bad_images
        ),
        world,
    )


def _command() -> str:
    return shlex.join(["resnets", *sys.argv[1:]])


def _program() -> str:
    """How the user can call this program again: by its name only where it is on the PATH."""
    if shutil.which("resnets"):
        return "resnets"
    return "python -m resnets" if sys.argv[0].endswith("__main__.py") else sys.argv[0]


PEER_LOST = re.compile("(closed|reset) by (remote )?peer|remote process|NCCL", re.IGNORECASE)


def _watched(make: Callable[[Lines], run.Run], world: World) -> None:
    """Train a run with somebody looking on, and say how it ended."""
    looker = watch(world.is_main)
    try:
        made = make(looker)
        summary = made.train()
    except run.Interrupted as stop:
        looker.close()
        if world.is_main:
            print(f"Stopped at iteration {stop.step:,}, saved.")
            print(f"Go on with: {_program()} resume {shlex.quote(str(stop.folder))}")
        sys.exit(128 + stop.signal)
    except (MemoryError, RuntimeError) as error:
        if world.size > 1 and PEER_LOST.search(str(error)):
            raise UserError("another process ended", hint="see its message") from error
        if not is_lack_of_memory(error):
            raise
        hint = "try --set save_memory=true, or fewer images at once: --set micro_batch=16"
        raise UserError("out of memory", hint=hint) from error
    finally:
        looker.close()
    if world.is_main:
        _draw(made.folder, summary)
        _report(made.folder, summary)


def _paper(summary: dict[str, Any]) -> PaperError | None:
    """The paper's error on the same data, if it has one."""
    on_cifar = summary["measured"]["dataset"] == "cifar10"
    return cifar10_error(summary["network"]) if on_cifar else None


def _draw(folder: Path, summary: dict[str, Any]) -> None:
    """The training curve as a picture, where matplotlib is installed."""
    paper = _paper(summary)
    title = f"{summary['network']}: {summary['measured']['error']:.2f} % test error"
    try:
        png = training_png(metrics.read(folder), title, paper.error if paper else None)
    except ImportError:
        return
    write_bytes(folder / "curve.png", png)


def _report(folder: Path, summary: dict[str, Any]) -> None:
    measured, network = summary["measured"], summary["network"]
    held_out = "held-out" if measured.get("split") == "45k/5k" else "test"
    paper = _paper(summary)
    print()
    print(f"{network}  {held_out} error {measured['error']:.2f} %  ({measured['protocol']})")
    if paper:
        print(f"{'the paper':{len(network)}}  {paper}")
    print(
        f"{summary['iterations']:,} iterations in {duration(summary['provenance']['seconds'])} "
        f"on {summary['provenance']['hardware']}"
    )
    print(f"Model: {folder / 'model.safetensors'}")
    print(f"Use it: {_program()} predict {shlex.quote(str(folder))} photo.jpg")
