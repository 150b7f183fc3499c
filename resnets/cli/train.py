"""`resnets train` and `resnets resume`."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnets.cli import output
from resnets.cli.console import duration, is_out_of_memory, program, yield_if
from resnets.cli.options import DataOption, DeviceOption, IdleOption, ImageSizeOption, SetOption
from resnets.support.errors import UserError
from resnets.support.files import write_bytes
from resnets.support.names import counted, listed

if TYPE_CHECKING:
    import torch

    from resnets.cli.training_progress import Lines
    from resnets.data.datasets import Data
    from resnets.paper.numbers import PaperError
    from resnets.support.distributed import World
    from resnets.training.objective import Objective
    from resnets.training.recipe import Recipe
    from resnets.training.run import Run

FOLDERS = ("photos", "boxes", "localization")
"""Kinds of data that are never downloaded."""
PEER_LOST = re.compile("(closed|reset) by (remote )?peer|remote process|NCCL", re.IGNORECASE)


def train(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe or a TOML file.", metavar="RECIPE")
    ],
    network: Annotated[
        str | None, typer.Option(help="Train another network.", metavar="NAME")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Start from the weights of a model.", metavar="MODEL")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of initial weights, order, crops.", metavar="N")
    ] = None,
    data: DataOption = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Train and test on at most N images.", metavar="N")
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=2, help="Only the first N classes.", metavar="N")
    ] = None,
    image_size: ImageSizeOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder; default runs/RECIPE-NETWORK-SEED.", metavar="FOLDER"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue if the run exists.")] = False,
    device: DeviceOption = "auto",
    idle: IdleOption = False,
    settings: SetOption = None,
) -> None:
    """Train by a recipe. cifar10-paper, cifar10-fast, cifar10-smoke, cifar100;
    finetune, imagenet-paper; detect-finetune, segment-finetune, localize."""
    yield_if(idle)
    from resnets.support import distributed
    from resnets.training import recipe_file, run, run_folder
    from resnets.weights.card import assumptions_of

    keys = {"network": network, "init": init, "seed": seed, "limit": limit, "classes": classes}
    plan = recipe_file.load(recipe, settings or [], keys, image_size)
    if plan.dataset in FOLDERS and data is None:
        raise UserError(f"{recipe} needs images", hint="give a folder of images: --data FOLDER")
    label = plan.network or re.sub(r"[^\w.@-]", "-", plan.init or "")
    folder = out or Path("runs") / f"{Path(recipe).stem}-{label}-seed{plan.seed}"
    with distributed.world() as world:
        own_device = _device(device, world)
        if world.first(lambda: resume and run_folder.is_run_of(folder, plan)):
            chosen = None if device == "auto" else own_device
            _resume(folder, data, chosen, world, plan.photos.bad_images)
            return
        world.first(lambda: recipe_file.refuse_unfit_counts(recipe, settings or [], plan))
        world.first(lambda: _refuse(folder, plan))

        def begin(progress: Lines) -> Run:
            images: list[Data] = []
            world.each(lambda: images.append(_open_data(plan, data, progress.note)))
            objective = _objective(plan, images[0])
            if plan.classes is not None and plan.classes > (found := len(objective.classes)):
                raise UserError(
                    f"has {found} classes only, not {plan.classes}",
                    data or plan.dataset,
                    "leave out --classes to train on all",
                )
            initial = objective.initial_model
            if initial is not None and (assumed := assumptions_of(initial.card)):
                progress.note(f"{plan.init}: assumed: {assumed}")
            return run.start(
                folder,
                objective,
                own_device,
                progress,
                command=_command(),
                world=world,
                location=_location(data),
            )

        _train(begin, world)


def _refuse(folder: Path, plan: Recipe) -> None:
    """Raise `UserError` for a new run that cannot start, before any image is read."""
    from resnets.training import objective, run_folder

    objective.refuse_unfit_init(plan)
    run_folder.refuse_running(folder)
    run_folder.refuse_existing(folder, plan)


def resume(
    run: Annotated[Path, typer.Argument(help="The run folder.", metavar="RUN")],
    data: DataOption = None,
    device: Annotated[
        str | None, typer.Option(help="Another device than before.", metavar="NAME")
    ] = None,
    idle: IdleOption = False,
) -> None:
    """Continue a run that was stopped or killed, bit for bit."""
    yield_if(idle)
    from resnets.support import distributed
    from resnets.training import run_folder

    run_folder.read_recipe(run)
    with distributed.world() as world:
        own_device = _device(device, world) if device else None
        _resume(run, data, own_device, world)


def _device(name: str, world: World) -> torch.device:
    """The device of this process: of several, each takes a GPU of its own."""
    from resnets.support.devices import find_device

    device = find_device(name)
    if device.type == "cuda" and world.size > 1:
        return find_device(f"cuda:{world.local_rank}")
    return device


def _open_data(recipe: Recipe, data: str | None, report: Callable[[str], None]) -> Data:
    from resnets.data.datasets import open_data

    return open_data(recipe.dataset, data, split_seed=recipe.photos.split_seed, report=report)


def _location(data: str | None) -> str | None:
    """Where data are, whatever the current folder."""
    return data and str(Path(data).resolve() if "://" not in data else data)


def _objective(plan: Recipe, data: Data) -> Objective:
    """What a recipe trains a network for."""
    from resnets.data.datasets import BoxSplits
    from resnets.training.objective import make_objective

    if isinstance(data, BoxSplits) and plan.dataset == "localization":
        from resnets.detection.localization import LocalizationObjective

        return LocalizationObjective(plan, data)
    if isinstance(data, BoxSplits):
        from resnets.detection.objective import DetectionObjective

        return DetectionObjective(plan, data)
    return make_objective(plan, data)


def _resume(
    folder: Path,
    data: str | None,
    device: torch.device | None,
    world: World,
    bad_images: float | None = None,
) -> None:
    """Continue the run in `folder`, or say how to use it if it is finished."""
    from resnets.training import run, run_folder

    recipe = run_folder.read_recipe(folder)
    if (folder / run_folder.SUMMARY).exists():
        if world.is_main:
            with contextlib.suppress(UserError):  # it may be read-only
                run_folder.refuse_running(folder)  # and clean it
            if recipe.dataset in FOLDERS and data is not None:
                given = _objective(recipe, _open_data(recipe, data, print)).fingerprint
                run_folder.refuse_other_images(folder, given, _location(data))
            print(f"{folder} is finished{_use(folder, recipe.dataset)}")
            print(f"To train on from its weights: --init {shlex.quote(str(folder))} --out ANOTHER")
        return
    if bad_images is not None:
        recipe = recipe.allowing_bad_images(bad_images)
    start = world.first(lambda: run_folder.read_environment(folder))
    source: str | None = data or (start["place"] if start else None)
    if source is None and recipe.dataset in FOLDERS:
        raise UserError(
            "is missing or damaged, so the location of the images is unknown",
            str(folder / run_folder.ENVIRONMENT),
            "give them again: --data FOLDER",
        )
    if device is None and world.size > 1:
        device = _device(start["device"] if start else "auto", world)

    def begin(progress: Lines) -> Run:
        objective = _objective(recipe, _open_data(recipe, source, progress.note))
        location = _location(source)
        return run.resume(folder, objective, device, progress, world=world, location=location)

    _train(begin, world)


def _use(folder: Path, dataset: str) -> str:
    """How a finished model is used."""
    verb = "predict" if dataset == "photos" else "detect"
    use = f"{verb} {{}} photo.jpg" if dataset in FOLDERS else f"eval {{}} {dataset}"
    return f"; use it with: {program()} {use.format(shlex.quote(str(folder)))}"


def _command() -> str:
    return shlex.join(["resnets", *sys.argv[1:]])


def _train(make: Callable[[Lines], Run], world: World) -> None:
    """Train a run, show its progress, and print how it ended."""
    with output.expendable():  # a training does not end because nobody watches
        _train_shown(make, world)


def _train_shown(make: Callable[[Lines], Run], world: World) -> None:
    from resnets.cli import training_progress
    from resnets.training.run import Interrupted

    progress = training_progress.display(world.is_main)
    try:
        made = make(progress)
        summary = made.train()
    except Interrupted as stop:
        progress.close()
        if world.is_main:
            print(f"Stopped at iteration {stop.step:,}, saved.")
            print(f"Resume with: {program()} resume {shlex.quote(str(stop.folder))}")
        sys.exit(128 + stop.signal)
    except (MemoryError, RuntimeError) as error:
        if world.size > 1 and PEER_LOST.search(str(error)):
            raise UserError("another process ended", hint="see its message") from error
        if not is_out_of_memory(error):
            raise
        hint = "try --set save_memory=true, or fewer images at once: --set micro_batch=16"
        raise UserError("out of memory", hint=hint) from error
    finally:
        progress.close()
    if world.is_main:
        assert made.last_test is not None
        _report(made.folder, summary, made.last_test.headline)
        _draw(made.folder, summary, made.last_test.headline)


def _paper(summary: dict[str, Any]) -> PaperError | None:
    """The paper's error on the same data, if it has one."""
    from resnets.paper.numbers import cifar10_error

    on_cifar = summary["measured"]["dataset"] == "cifar10"
    return cifar10_error(summary["network"]) if on_cifar else None


def _draw(folder: Path, summary: dict[str, Any], headline: str) -> None:
    """Draw the training curve in the run folder, if matplotlib is installed."""
    from resnets.analysis.figures import precision_png, training_png
    from resnets.training import run_folder

    paper = _paper(summary)
    title, metrics = f"{summary['network']}: {headline}", run_folder.read_metrics(folder)
    try:
        if summary["measured"]["dataset"] == "boxes":
            png = precision_png(metrics, title)
        else:
            png = training_png(metrics, title, paper.error if paper else None)
    except ImportError:
        return
    write_bytes(folder / run_folder.CURVE, png)


def _report(folder: Path, summary: dict[str, Any], headline: str) -> None:
    from resnets.training.run_folder import PICTURES
    from resnets.weights.card import RUN_MODEL

    network, paper = summary["network"], _paper(summary)
    print()
    print(f"{network}  {headline}  ({summary['measured']['protocol']})")
    if paper:
        print(f"{'the paper':{len(network)}}  {paper}")
    print(
        f"{counted(summary['iterations'], 'iteration')} in "
        f"{duration(summary['provenance']['seconds'])} on {summary['provenance']['hardware']}"
    )
    if bad := summary["provenance"].get("bad_images"):
        images = counted(len(bad), "training image")
        print(f"Left out, unreadable: {images}: {listed(bad)}")
    print(f"Model: {folder / RUN_MODEL}")
    dataset = summary["measured"]["dataset"]
    if dataset == "boxes":
        print(f"Detections in test images: {folder / PICTURES}")
    verb = "detect" if dataset in ("boxes", "localization") else "predict"
    print(f"Use it: {program()} {verb} {shlex.quote(str(folder))} photo.jpg")
