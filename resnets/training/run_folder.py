"""The folder of a run: how it begins, what it refuses, how a run goes on in it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from resnets.support import devices
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.support.files import make_folder, write_bytes, write_json
from resnets.training import checkpoint
from resnets.training.objective import Data, Task, data_fingerprint, make_task
from resnets.training.recipe import Recipe
from resnets.training.run import Run, Watch, alone
from resnets.weights import hub
from resnets.weights.model_file import MEAN, Model, read_preprocessing

EXACT = ("device", "settings", "threads", "processes", "hardware", "packages")
"""What must not change between start and resumption for the same bits to come out."""


def start(
    folder: Path,
    plan: Recipe,
    data: Data,
    device: torch.device,
    watch: Watch,
    command: str,
    world: World = World(),  # noqa: B008
    place: str | None = None,
) -> Run:
    """A new run in a new folder.

    Args:
        plan: the recipe as it was asked for; the run's own is in iterations and names the network.
        place: where the data were found, so that a resumption finds them again.

    Raises:
        UserError: if the folder holds something already, or cannot be written, or the
            processes do not agree about the recipe.
    """
    agree(plan, data, world)
    recipe, task, init = resolve(plan, data, device, _neighbours(world))
    facts = {"data": data_fingerprint(recipe, data)}
    run = Run(folder, recipe, task, device, watch, command, world, init, facts)
    world.first(lambda: _begin(run, plan, place))
    if init is not None:
        run.save()  # a resumption must not depend on where the weights came from
    return run


def resolve(
    plan: Recipe, data: Data, device: torch.device, processes: int = 1
) -> tuple[Recipe, Task, Model | None]:
    """What a plan comes to on its data: recipe, task, and the model whose weights to start from.

    Returns:
        The recipe has its length in iterations and names the network.
    """
    init = hub.load(plan.init) if plan.init else None
    network = plan.network or (init.card["network"] if init else "")
    recipe = plan.model_copy(update={"network": network})
    preprocessing = init.preprocessing if init else None
    task = make_task(recipe, data, device, preprocessing, processes)
    recipe = recipe.in_iterations(task.images)
    return recipe, make_task(recipe, data, device, task.preprocessing, processes), init


def _neighbours(world: World) -> int:
    """Processes of this training on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world.size)) if world.size > 1 else 1


def _begin(run: Run, plan: Recipe, place: str | None) -> None:
    make_folder(run.checkpoints)
    with alone(run.folder):
        refuse_existing(run.folder, plan)  # another command may have been quicker
        _write_start(run, plan, place)


def agree(plan: Recipe, data: Data, world: World) -> None:
    """Raise `UserError` unless every process has the same recipe and the same images."""
    if world.size == 1:
        return
    mine = (plan.content_hash(), data_fingerprint(plan, data))
    theirs = world.broadcast_object(mine)
    differs = next(
        (w for w, a, b in zip(("recipe", "images"), mine, theirs, strict=True) if a != b), ""
    )
    told = world.broadcast_object(world.gather_objects(differs))
    for rank, what in enumerate(told or ()):
        if what:
            raise UserError(
                f"process {rank} has another {what} than process 0",
                hint="start every process with the same command and the same data",
            )


def _write_start(run: Run, plan: Recipe, place: str | None) -> None:
    """The files that a run folder begins with."""
    folder, recipe, device = run.folder, run.recipe, run.device
    run_facts = {
        "command": run.command,
        "device": device.type if run.world.size > 1 else str(device),
        "settings": run.settings.as_dict(),
        "plan": plan.content_hash(),
        "place": place,
        "recipe_hash": recipe.content_hash(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **run.facts,
        **run.environment,
    }
    write_json(folder / "environment.json", run_facts)
    # Last, and atomically: a folder with a recipe is a whole run.
    write_bytes(folder / "recipe.json", (recipe.model_dump_json(indent=2) + "\n").encode())


def is_run_of(folder: Path, plan: Recipe) -> bool:
    """Whether `folder` holds a run that was started by this recipe.

    Raises:
        UserError: if it holds a damaged run.
    """
    return (folder / "recipe.json").exists() and began(folder)["plan"] == plan.content_hash()


def refuse_existing(folder: Path, plan: Recipe) -> None:
    """Raise `UserError` if a run cannot start in `folder` without losing something."""
    if not folder.exists():
        return
    if (folder / "recipe.json").exists():
        if is_run_of(folder, plan):
            raise UserError(
                "this run exists already",
                str(folder),
                f"go on with: resnets resume {folder}, or choose another --out",
            )
        raise UserError(
            "this folder belongs to a run of another recipe", str(folder), "choose another --out"
        )
    # A start that was cut off before its recipe was written leaves nothing worth keeping.
    abandoned = {folder / name for name in ("environment.json", "checkpoints", ".lock")}
    if not folder.is_dir() or set(folder.rglob("*")) - abandoned:
        raise UserError(
            "exists and is not a run folder", str(folder), "choose a new folder with --out"
        )


def read_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run folder.

    Raises:
        UserError: if the folder is none, or its recipe was altered.
    """
    path = folder / "recipe.json"
    try:
        return Recipe.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError("not a run folder (no recipe.json)", str(folder)) from error
    except ValueError as error:
        line = str(error).splitlines()[0]
        raise UserError(f"the recipe of this run is damaged ({line})", str(path)) from error


def resume(
    folder: Path,
    data: Data,
    device: torch.device | None,
    watch: Watch,
    world: World = World(),  # noqa: B008
    bad_images: float | None = None,
) -> Run:
    """The run in `folder`, at its newest readable checkpoint, or at the start if it has none.

    Args:
        device: where to go on; the device that the run began on if None.
        bad_images: another limit than at the start.

    Raises:
        UserError: if there is no run, no checkpoint can be read or fits, or the images are
            not those that it began with.
    """
    recipe, start_facts = read_recipe(folder), began(folder)
    if bad_images is not None:
        photos = recipe.photos.model_copy(update={"bad_images": bad_images})
        recipe = recipe.model_copy(update={"photos": photos})
    refuse_other_images(folder, recipe, data)
    facts = {"data": start_facts["data"]}
    agree(recipe, data, world)
    # Read by one process, so that all go on from the same step.
    state = world.first(lambda: checkpoint.latest(folder / "checkpoints", watch.note))
    device = device or devices.find_device(start_facts["device"])
    init = hub.load(recipe.init) if recipe.init and state is None else None
    preprocessing = init.preprocessing if init else None
    if state is not None:
        preprocessing = read_preprocessing(state[1]["preprocessing"], state[0][MEAN])
    task = make_task(recipe, data, device, preprocessing, _neighbours(world))
    run = Run(folder, recipe, task, device, watch, start_facts["command"], world, init, facts)
    name = device.type if world.size > 1 else str(device)
    now = {**run.environment, "device": name, "settings": run.settings.as_dict()}
    # Runs of earlier versions, without kernels, do not tell of them.
    then = {**start_facts, "settings": {"kernels": "none", **start_facts["settings"]}}
    changed = [key for key in EXACT if then[key] != now[key]]
    if changed:
        watch.note(f"not bit for bit the run that began: other {', '.join(changed)}")
    if state is None:
        watch.note("no checkpoint yet: starting from iteration 0")
    else:
        try:
            run.restore(state)
        except UserError as error:
            raise UserError(error.message, str(run.checkpoints), error.hint) from error
    if world.is_main:
        make_folder(run.checkpoints)
    return run


def refuse_other_images(folder: Path, recipe: Recipe, data: Data) -> None:
    """Raise `UserError` if a run began with other images than these."""
    if data_fingerprint(recipe, data) != began(folder)["data"]:
        raise UserError("these are not the images that the run began with", str(folder))


def began(folder: Path) -> dict[str, Any]:
    """The environment in which a run began.

    Raises:
        UserError: if its file is missing or damaged.
    """
    path = folder / "environment.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: facts[key] for key in ("command", "plan", "place", "data", *EXACT)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"is missing or damaged ({error})", str(path), "train anew with another --out"
        ) from error
