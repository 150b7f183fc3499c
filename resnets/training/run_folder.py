"""The files of a run folder: recipe, environment, metrics, checkpoints, and the lock.

`recipe.json` holds the resolved recipe, `environment.json` how and where the run started,
`metrics.jsonl` and `tensorboard/` the curves, `checkpoints/` the last two states,
`pictures/` what a detector finds in test images, `model.safetensors` and `summary.json` the result.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from PIL.Image import Image
from pydantic import ValidationError
from torch import Tensor

from resnets.support import files, tensor_files
from resnets.support.errors import UserError, one_line, valid_utf8
from resnets.support.files import make_folder, write_bytes, write_json, writing
from resnets.support.names import counted
from resnets.training import recipe_file
from resnets.training.recipe import Recipe
from resnets.weights.card import RUN_MODEL

RECIPE, ENVIRONMENT, SUMMARY = "recipe.json", "environment.json", "summary.json"
METRICS, CHECKPOINTS, PICTURES = "metrics.jsonl", "checkpoints", "pictures"
CURVE = "curve.png"
CHECKPOINTS_KEPT = 2
_WRITTEN = (RECIPE, ENVIRONMENT, METRICS, SUMMARY, RUN_MODEL, CURVE)
_TEMPORARY = tuple(f".{name}." for name in _WRITTEN)
"""How the names of unfinished files begin."""
REPRODUCIBLE = ("device", "settings", "threads", "processes", "hardware", "packages")
"""Keys of `environment.json` that must not change for a resumed run to repeat bit for bit."""

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and JSON facts (`step` among them)."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder; the lock ends with this process.

    Raises:
        UserError: if another process holds the lock.
    """
    busy = UserError(
        "another process is training in this folder",
        str(folder),
        "wait until it ends, or choose another --out",
    )
    with files.locked(folder / ".lock", busy):
        for path in _unfinished(folder):
            path.unlink(missing_ok=True)
        yield


def _unfinished(folder: Path) -> list[Path]:
    """Temporary files that a process which was killed left in a run folder."""
    return [
        *(path for path in folder.glob(".*") if path.name.startswith(_TEMPORARY)),
        *(folder / CHECKPOINTS).glob(".checkpoint-*"),
        *(folder / PICTURES).glob(".*.jpg.*"),
    ]


def create(folder: Path, plan: Recipe, recipe: Recipe, environment: dict[str, Any]) -> None:
    """Write the files that a run folder begins with.

    Args:
        plan: the recipe as it was given.
        recipe: the same, resolved.
        environment: what to record of the start, as JSON.

    Raises:
        UserError: if the folder is not free or cannot be written, or its name is not UTF-8.
    """
    if valid_utf8(str(folder)) != str(folder):
        raise UserError("not a name of UTF-8, as TensorBoard needs it", f"--out {folder}")
    make_folder(folder / CHECKPOINTS)
    with locked(folder):
        refuse_existing(folder, plan)  # another command may have been quicker
        write_json(folder / ENVIRONMENT, environment)
        # Last, and atomically: a folder with a recipe has all the files of a start.
        write_bytes(folder / RECIPE, (recipe.model_dump_json(indent=2) + "\n").encode())


def is_run_of(folder: Path, plan: Recipe) -> bool:
    """Whether `folder` holds a run that was started with this recipe.

    Raises:
        UserError: if it holds a damaged run, of which that is unknown.
    """
    if not (folder / RECIPE).exists():
        return False
    began = read_environment(folder)
    if began is not None:
        return plan.matches(began["plan"])
    recipe = read_recipe(folder)
    if plan.epochs is not None:  # its length in iterations depends on the images
        raise UserError(
            "is missing or damaged, so whether this recipe began the run is unknown",
            str(folder / ENVIRONMENT),
            f"resume the run with: {_resume(folder)}, or choose another --out",
        )
    return plan.model_copy(update={"network": recipe.network}).matches(recipe.content_hash())


def _resume(folder: Path) -> str:
    """The command that resumes the run in a folder."""
    return f"resnets resume {shlex.quote(str(folder))}"


def refuse_running(folder: Path) -> None:
    """Raise `UserError` if another process is training in `folder`."""
    if (folder / RECIPE).exists():
        with locked(folder):
            pass


def refuse_existing(folder: Path, plan: Recipe) -> None:
    """Raise `UserError` if a run cannot start in `folder` without losing something."""
    if not folder.exists():
        return
    if (folder / RECIPE).exists():
        if (folder / SUMMARY).exists():
            hint = "choose another --out"
            if plan.init is None or Path(plan.init) != folder:
                hint += f"; to train on from its weights, use --init {shlex.quote(str(folder))}"
            raise UserError("a finished run is in this folder", str(folder), hint)
        if is_run_of(folder, plan):
            raise UserError(
                "this run exists already",
                str(folder),
                f"resume it with: {_resume(folder)}, or choose another --out",
            )
        raise UserError(
            "this folder belongs to a run of another recipe", str(folder), "choose another --out"
        )
    # A start that was interrupted before its recipe was written left nothing worth keeping.
    abandoned = {folder / name for name in (ENVIRONMENT, CHECKPOINTS, ".lock")}
    abandoned.update(_unfinished(folder))
    if not folder.is_dir() or set(folder.rglob("*")) - abandoned:
        raise UserError(
            "exists and is not a run folder", str(folder), "choose a new folder with --out"
        )


def read_recipe(folder: Path) -> Recipe:
    """The resolved recipe of a run folder.

    Raises:
        UserError: if it is not a run folder, or its recipe was altered.
    """
    path = folder / RECIPE
    try:
        return Recipe.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError("not a run folder (no recipe.json)", str(folder)) from error
    except ValueError as error:
        reason = recipe_file.describe(error) if isinstance(error, ValidationError) else str(error)
        raise UserError(f"the recipe of this run is damaged ({reason})", str(path)) from error


def refuse_other_images(folder: Path, fingerprint: str, location: str | None = None) -> None:
    """Raise `UserError` if the run in `folder` is known to have begun with other images.

    Args:
        folder: the run folder.
        fingerprint: of the images that are there now.
        location: where they are; None for CIFAR from its usual place.
    """
    began = read_environment(folder)
    if began is None or fingerprint == began["data"]:
        return
    before = began["place"]
    if location is None or location == before:
        raise UserError(
            "the images have changed since the run began",
            location or str(folder),
            "restore them, or start a new run with another --out",
        )
    raise UserError(
        "not the images that the run began with" + (f", which are {before}" if before else ""),
        f"--data {location}",
        f"give --data {shlex.quote(before)}, or leave it out" if before else "leave it out",
    )


def refuse_changed_recipe(folder: Path, recipe: Recipe) -> None:
    """Raise `UserError` if the run in `folder` is known to have begun with another recipe."""
    began = read_environment(folder)
    if began is None or began["recipe_hash"] is None or recipe.matches(began["recipe_hash"]):
        return
    raise UserError(
        "the recipe was changed since the run began",
        str(folder / RECIPE),
        f"restore it; the run began with: {began['command']}",
    )


def read_environment(folder: Path) -> dict[str, Any] | None:
    """How and where a run began, and with which images; None if its file is missing or damaged."""
    try:
        facts = json.loads((folder / ENVIRONMENT).read_text(encoding="utf-8"))
        began = {key: facts[key] for key in ("command", "plan", "place", "data", *REPRODUCIBLE)}
        began["recipe_hash"] = facts.get("recipe_hash")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    texts = [began[key] for key in ("command", "plan", "data", "device")]
    optional = [began[key] or "" for key in ("place", "recipe_hash")]
    whole = all(isinstance(text, str) for text in (*texts, *optional))
    return began if whole and isinstance(began["settings"], dict) else None


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Write the checkpoint of `facts["step"]` and delete all but the newest two.

    Raises:
        UserError: if it cannot be written; the checkpoints before it stay.
    """
    path = folder / f"checkpoint-{facts['step']:08d}.safetensors"
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    tensor_files.write(path, safetensors.torch.save(plain), {"facts": json.dumps(facts)})
    for old in checkpoints(folder)[:-CHECKPOINTS_KEPT]:
        old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The files of the checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def read_checkpoint(path: Path) -> State:
    """Read one checkpoint.

    Raises:
        UserError: if it is truncated or altered.
    """
    try:
        tensor_files.check(path)
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {key: file.get_tensor(key) for key in file.keys()}, facts  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        why = (
            "cut off or not a safetensors file"
            if isinstance(error, safetensors.SafetensorError)
            else one_line(error)
        )
        raise UserError(f"the checkpoint cannot be read ({why})", str(path)) from error


def latest_checkpoint(folder: Path, note: Callable[[str], None]) -> State | None:
    """The newest readable checkpoint; None if there is none at all.

    Args:
        folder: the folder of the checkpoints.
        note: called with a line about each damaged checkpoint that is skipped.

    Raises:
        UserError: if there are checkpoints but none can be read.
    """
    damaged: list[Path] = []
    files = checkpoints(folder)
    for path in reversed(files):
        try:
            state = read_checkpoint(path)
        except UserError as error:
            note(f"{error}" + ("" if path == files[0] else "; trying the one before"))
            last_error = error
            damaged.append(path)
            continue
        for other in damaged:  # they must not count as the newest two
            other.replace(other.with_suffix(".damaged"))
        return state
    if damaged:
        raise UserError(
            "no checkpoint can be read", str(folder), "delete the run folder and train again"
        ) from last_error
    return None


def read_metrics(
    folder: Path, note: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """The metrics of a run folder, without lines that cannot be read.

    Args:
        folder: the run folder.
        note: called with a line about such lines; a last one that a kill cut off is no such line.
    """
    path = folder / METRICS
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    damaged = 0
    *lines, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rest = [(line, True) for line in lines if line.strip()]
    for line, complete in (*rest, (last, False)):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        else:
            damaged += complete
    if damaged:
        note(f"{path}: {counted(damaged, 'line')} of no metrics left out")
    return rows


class MetricsLog:
    """Appends metrics to a run folder as JSON lines and TensorBoard events.

    Lines of steps after `step`, from before a kill, are dropped: the run will write them again.

    Args:
        folder: the run folder.
        step: where the run is.
        note: called with a line about lines that cannot be read and are dropped.
    """

    def __init__(
        self, folder: Path, step: int, note: Callable[[str], None] = lambda line: None
    ) -> None:
        self.path = folder / METRICS
        rows = read_metrics(folder, note)
        kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
        write_bytes(self.path, "".join(kept).encode())
        with writing(self.path):
            self._file = self.path.open("a", encoding="utf-8")
        self._events = _event_writer(folder / "tensorboard", step)

    def write(self, metrics: dict[str, Any]) -> None:
        """Append one line, which has a `step`; raises `UserError` on a full disk."""
        with writing(self.path):
            self._file.write(json.dumps(metrics) + "\n")
            self._file.flush()
            if self._events is not None:
                for name, value in metrics.items():
                    if name not in ("step", "epoch", "seconds"):
                        self._events.add_scalar(name, value, metrics["step"])

    def keep_pictures(self, pictures: Mapping[str, Image], step: int) -> None:
        """Write pictures of a test, `pictures/NAME-STEP.jpg`; raises `UserError` on a full disk."""
        for name, picture in pictures.items():
            content = io.BytesIO()
            picture.save(content, "JPEG", quality=85)
            path = self.path.parent / PICTURES / f"{name}-{step:08d}.jpg"
            make_folder(path.parent)
            write_bytes(path, content.getvalue())
            if self._events is not None:
                with writing(self.path):
                    self._events.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # On a full disk closing fails as writing did; only the first failure is reported.
        with contextlib.suppress(OSError) if error else writing(self.path):
            if self._events is not None:
                self._events.close()
        with contextlib.suppress(OSError) if error else writing(self.path):
            self._file.close()


def _event_writer(folder: Path, step: int) -> Any | None:
    """TensorBoard's writer; None if the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with writing(folder):
        return SummaryWriter(str(folder), purge_step=step + 1)
