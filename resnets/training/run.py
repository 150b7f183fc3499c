"""A run: one execution of a recipe in a folder that explains itself."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout

from resnets.data.cifar10 import CLASSES, Cifar10
from resnets.data.preprocessing import Preprocessing
from resnets.evaluation.classify import Result, evaluate
from resnets.support.errors import UserError
from resnets.support.files import make_folder, write_bytes, write_json, writing
from resnets.training import checkpoint, hardware
from resnets.training.metrics import MetricsLog
from resnets.training.recipe import Recipe
from resnets.training.training import Training
from resnets.weights import model_file


class Interrupted(Exception):
    """The run was asked to stop, and saved its state first."""

    def __init__(self, folder: Path, step: int, number: int) -> None:
        super().__init__(f"stopped at iteration {step}")
        self.folder, self.step, self.signal = folder, step, number


class Watch(Protocol):
    """Whoever looks on while a run trains."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def begin(self, run: Run) -> None:
        """The run is about to make its next update."""

    def stepped(self, step: int) -> None:
        """`step` updates are done."""

    def logged(self, metrics: dict[str, Any]) -> None:
        """A line of metrics was written."""

    def testing(self, images: int, total: int) -> None:
        """A test is going on."""


@dataclass
class Clock:
    """Seconds spent training, and how many of them went into waiting for data."""

    training: float = 0.0
    window: float = 0.0
    waiting: float = 0.0
    updates: int = 0
    _last: float = field(default_factory=time.perf_counter)

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        return elapsed

    def updated(self, waited: float, computed: float) -> None:
        self.training += waited + computed
        self.window += waited + computed
        self.waiting += waited
        self.updates += 1

    def waited_for_device(self, seconds: float) -> None:
        """Updates are given to a GPU faster than it does them; a reading waits for them."""
        self.training += seconds
        self.window += seconds

    def rates(self, batch: int) -> dict[str, float]:
        """Images per second and the share of data-wait since the last call."""
        window = max(self.window, 1e-9)
        rates = {
            "images_per_second": round(self.updates * batch / window, 1),
            "data_wait": round(self.waiting / window, 4),
        }
        self.window = self.waiting = 0.0
        self.updates = 0
        return rates


class Run:
    """A recipe at work in its folder.

    Args:
        folder: holds recipe, environment, metrics, checkpoints and the final model.
        recipe: what to do; nothing outside it changes the result.
        data: CIFAR-10.
        device: where to train.
        watch: whoever looks on.
        command: how the run was started, for the card.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        data: Cifar10,
        device: torch.device,
        watch: Watch,
        command: str,
    ) -> None:
        hardware.prepare(recipe, device)
        self.folder, self.recipe, self.device, self.watch = folder, recipe, device, watch
        self.command = command
        self.environment = hardware.environment(device)
        self.train_data, self.test_data = data.split(recipe.split, recipe.split_seed)
        self.settings = hardware.resolve(recipe, device)
        self.training = Training(recipe, self.train_data, device, self.settings)
        self.clock = Clock()
        self.last_test: Result | None = None
        self._saved_at = time.monotonic()
        self._stop: int | None = None

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def train(self) -> dict[str, Any]:
        """Train to the last iteration, test, and write the model file.

        Returns:
            The summary, also written as `summary.json`.

        Raises:
            Interrupted: after SIGINT or SIGTERM, the state saved.
            UserError: if the training diverges or the disk refuses.
        """
        training, recipe = self.training, self.recipe
        self.watch.begin(self)
        with self.alone(), self._signals(), MetricsLog(self.folder, training.step) as log:
            self.clock.start()
            while training.step < recipe.iterations:
                images, labels = training.batch()
                waited = self.clock.lap()
                training.update(images, labels)
                self.clock.updated(waited, self.clock.lap())
                self.watch.stepped(training.step)
                self._after_update(log)
                self.clock.start()
        return self._finish()

    def _after_update(self, log: MetricsLog) -> None:
        step, recipe = self.training.step, self.recipe
        last = step == recipe.iterations
        if step % recipe.log_every == 0 or last:
            self._log(log)
        if step % recipe.test_every == 0 or last:
            self._test(log)
        if self._stop is not None and not last:
            self.save()
            raise Interrupted(self.folder, step, self._stop)
        if last or time.monotonic() - self._saved_at >= recipe.checkpoint_seconds:
            self.save()

    def _log(self, log: MetricsLog) -> None:
        reading = self.training.read()
        self.clock.waited_for_device(self.clock.lap())
        if reading is None:
            return
        if not reading.healthy:
            raise self._diverged(f"loss {reading.loss:.3g}")
        metrics = {
            "step": self.training.step,
            "epoch": round(self.training.batches.epoch_of(self.training.step), 3),
            "train_loss": round(reading.loss, 5),
            "train_error": round(reading.error, 3),
            "learning_rate": self.training.last_rate,
            **self.clock.rates(self.recipe.batch),
            "seconds": round(self.clock.training, 2),
        }
        log.write(metrics)
        self.watch.logged(metrics)

    def _test(self, log: MetricsLog) -> None:
        self.last_test = self._evaluate()
        metrics = {"step": self.training.step, "test_error": round(self.last_test.error, 3)}
        log.write(metrics)
        self.watch.logged(metrics)

    def _evaluate(self) -> Result:
        total = len(self.test_data)
        # A test is not worth compiling for, and eager it is the same as in `resnets eval`.
        eager = torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext()
        with eager:
            return evaluate(
                self.training.network,
                self.test_data,
                self.training.batches.normalize,
                self.device,
                len(CLASSES),
                progress=lambda images: self.watch.testing(images, total),
            )

    def save(self) -> None:
        """Write a checkpoint, unless the weights are no longer finite numbers."""
        if not self.training.healthy():
            raise self._diverged("weights or loss are not finite")
        tensors, facts = self.training.state()
        facts["seconds"] = self.clock.training
        checkpoint.save(self.checkpoints, tensors, facts)
        self._saved_at = time.monotonic()

    def restore(self, state: checkpoint.State) -> None:
        """Go to the point of a checkpoint; raises `UserError` if it is of another run."""
        tensors, facts = state
        self.training.restore(tensors, facts)
        self.clock.training = facts["seconds"]

    def _diverged(self, what: str) -> UserError:
        kept = checkpoint.files(self.checkpoints)
        where = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint yet"
        return UserError(
            f"the training diverged before iteration {self.training.step} ({what}); {where}",
            str(self.folder),
            "try a smaller rate: --set schedule.lr=...",
        )

    def _finish(self) -> dict[str, Any]:
        # None: resumed from the last checkpoint, whose test stands in the metrics already.
        last_test = self.last_test or self._evaluate()
        measured = {
            "dataset": self.recipe.dataset,
            "split": self.recipe.split,
            **last_test.as_dict(CLASSES),
        }
        provenance = {
            "recipe": self.recipe.model_dump(mode="json"),
            "recipe_hash": self.recipe.content_hash(),
            "settings": self.settings.as_dict(),
            "command": self.command,
            "seconds": round(self.clock.training, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.environment,
        }
        size = self.train_data.images.shape[-1]
        network = self.recipe.network
        card = model_file.make_card(network, list(CLASSES), provenance, [measured])
        weights = self.training.network.state_dict()
        preprocessing = Preprocessing(size, size, self.training.batches.normalize.mean)
        model_file.save(self.folder / "model.safetensors", weights, preprocessing, card)
        summary = {
            "network": network,
            "measured": measured,
            "iterations": self.training.step,
            "provenance": provenance,
        }
        write_json(self.folder / "summary.json", summary)
        return summary

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes out of the folder; the system ends that when this one ends."""
        lock = FileLock(self.folder / ".lock")
        with writing(self.folder):
            try:
                lock.acquire(blocking=False)
            except Timeout as error:
                raise UserError(
                    "another process is training in this folder",
                    str(self.folder),
                    "wait for its end",
                ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the update that is going on."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stop is not None:  # asked twice: at once, from the last checkpoint on
                raise KeyboardInterrupt
            self._stop = number
            self.watch.note("stopping after this iteration (once more: at once)")

        before = {n: signal.signal(n, stop) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def start(
    folder: Path, recipe: Recipe, data: Cifar10, device: torch.device, watch: Watch, command: str
) -> Run:
    """A new run in a new folder.

    Raises:
        UserError: if the folder holds something already, or cannot be written.
    """
    refuse_existing(folder, recipe)
    run = Run(folder, recipe, data, device, watch, command)
    make_folder(run.checkpoints)
    with run.alone():
        refuse_existing(folder, recipe)  # another process may have been quicker
        _write_start(run, command)
    return run


def _write_start(run: Run, command: str) -> None:
    """The files that a run folder begins with."""
    folder, recipe, device = run.folder, run.recipe, run.device
    run_facts = {
        "command": command,
        "device": str(device),
        "settings": run.settings.as_dict(),
        "recipe_hash": recipe.content_hash(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **run.environment,
    }
    write_json(folder / "environment.json", run_facts)
    # Last, and atomically: a folder with a recipe is a whole run.
    write_bytes(folder / "recipe.json", (recipe.model_dump_json(indent=2) + "\n").encode())


def refuse_existing(folder: Path, recipe: Recipe) -> None:
    """Raise `UserError` if a run cannot start in `folder` without losing something."""
    if not folder.exists():
        return
    if (folder / "recipe.json").exists():
        if read_recipe(folder).content_hash() == recipe.content_hash():
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


def resume(folder: Path, data: Cifar10, device: torch.device | None, watch: Watch) -> Run:
    """The run in `folder`, at its newest readable checkpoint, or at the start if it has none.

    Args:
        device: where to go on; the device that the run began on if None.

    Raises:
        UserError: if there is no run, or no checkpoint can be read or fits.
    """
    recipe, began = read_recipe(folder), _began(folder)
    state = checkpoint.latest(folder / "checkpoints", watch.note)
    device = device or hardware.find_device(began["device"])
    run = Run(folder, recipe, data, device, watch, began["command"])
    now = {**run.environment, "device": str(device), "settings": run.settings.as_dict()}
    changed = [key for key in EXACT if began[key] != now[key]]
    if changed:
        watch.note(f"not bit for bit the run that began: other {', '.join(changed)}")
    if state is None:
        watch.note("no checkpoint yet: starting from iteration 0")
    else:
        try:
            run.restore(state)
        except UserError as error:
            raise UserError(error.what, str(run.checkpoints), error.mend) from error
    make_folder(run.checkpoints)
    return run


EXACT = ("device", "settings", "threads", "hardware", "packages")
"""What must not change between start and resumption for the same bits to come out."""


def _began(folder: Path) -> dict[str, Any]:
    path = folder / "environment.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: facts[key] for key in ("command", *EXACT)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"is missing or damaged ({error})", str(path), "train anew with another --out"
        ) from error
