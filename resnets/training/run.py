"""A run: one execution of a recipe in a folder that explains itself."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from resnets.evaluation.results import Result
from resnets.support import devices
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.support.files import write_json, writing
from resnets.training import checkpoint, hardware
from resnets.training.metrics import MetricsLog
from resnets.training.objective import Task
from resnets.training.recipe import Recipe
from resnets.training.trainer import Training
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

    Of several processes each makes the same calls; rank 0 alone writes.

    Args:
        folder: holds recipe, environment, metrics, checkpoints and the final model.
        recipe: what to do, its length in iterations; nothing outside it changes the result.
        task: the data.
        device: where to train.
        watch: whoever looks on.
        command: how the run was started, for the card.
        world: the processes that train together.
        init: the model whose weights to start from.
        facts: what else the provenance says, such as which images were used.
    """

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        task: Task,
        device: torch.device,
        watch: Watch,
        command: str,
        world: World = World(),  # noqa: B008
        init: model_file.Model | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        hardware.prepare(recipe, device)
        self.folder, self.recipe, self.task = folder, recipe, task
        self.device, self.watch, self.world = device, watch, world
        self.command, self.facts = command, facts or {}
        self.environment = {**devices.environment(device), "processes": world.size}
        self.settings = hardware.resolve(recipe, device)
        self.training = Training(recipe, task, device, self.settings, world, init)
        self.clock = Clock()
        self.last_test: Result | None = None
        self._kept: dict[str, Tensor] | None = None
        self._saved_at = time.monotonic()
        self._stop: int | None = None
        self._told: set[str] = set()

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
        self.watch.begin(self)
        try:
            with self._alone(), self._signals(), self._metrics() as log:
                self._updates(log)
            return self._finish()
        finally:
            self.training.batches.close()

    def _updates(self, log: MetricsLog | None) -> None:
        training = self.training
        self.clock.start()
        while training.step < self.recipe.steps:
            waited = training.update()
            self.clock.updated(waited, self.clock.lap() - waited)
            self.watch.stepped(training.step)
            self._after_update(log)
            self.clock.start()

    def _alone(self) -> AbstractContextManager[None]:
        return alone(self.folder) if self.world.is_main else nullcontext()

    def _metrics(self) -> AbstractContextManager[MetricsLog | None]:
        if self.world.is_main:
            return MetricsLog(self.folder, self.training.step)
        return nullcontext()

    def _after_update(self, log: MetricsLog | None) -> None:
        step, recipe = self.training.step, self.recipe
        last = step == recipe.steps
        if step % recipe.log_every == 0 or last:
            self._log(log)
        if step % recipe.test_every == 0 or last:
            self._test(log)
        stop, due = self._agreed(time.monotonic() - self._saved_at >= recipe.checkpoint_seconds)
        if stop is not None and not last:
            self.save()
            raise Interrupted(self.folder, step, stop)
        if last or due:
            self.save()

    def _agreed(self, due: bool) -> tuple[int | None, bool]:
        """The signal that stops every process, and whether rank 0 says a checkpoint is due."""
        if self.world.size == 1:
            return self._stop, due
        mine = torch.tensor([self._stop or 0, int(due and self.world.is_main)])
        signals = self.world.all_reduce_max(mine).tolist()
        return signals[0] or None, bool(signals[1])

    def _log(self, log: MetricsLog | None) -> None:
        reading = self.training.read()
        self.clock.waited_for_device(self.clock.lap())
        self._report_bad_images()
        if reading is None:
            return
        if not reading.healthy:
            raise self._diverged(f"loss {reading.loss:.3g}")
        bad = len(self.training.batches.bad)
        metrics = {
            "step": self.training.step,
            "epoch": round(self.training.batches.epoch_of(self.training.step), 3),
            "train_loss": round(reading.loss, 5),
            "train_error": round(reading.error, 3),
            "learning_rate": self.training.last_rate,
            **self.clock.rates(self.recipe.batch),
            **({"bad_images": bad} if bad else {}),
            "seconds": round(self.clock.training, 2),
        }
        self._write(log, metrics)

    def _write(self, log: MetricsLog | None, metrics: dict[str, Any]) -> None:
        if log is not None:
            log.write(metrics)
        self.watch.logged(metrics)

    def _report_bad_images(self) -> None:
        """Tell of images that could not be read; raises `UserError` if they are too many."""
        bad = self.training.batches.bad
        everyone = self.world.gather_objects(dict(bad)) or [{}]
        union = self.world.broadcast_object({k: v for d in everyone for k, v in d.items()})
        for name in union.keys() - self._told:
            self.watch.note(f"left out: {union[name]}")
        self._told |= union.keys()
        bad.update(union)
        limit = self.recipe.photos.bad_images
        if len(bad) > limit * self.task.images:
            self.save()
            share = 100 * len(bad) / self.task.images
            enough = min(1.0, math.ceil(2 * share) / 100)
            raise UserError(
                f"{len(bad)} of {self.task.images:,} training images cannot be read ({share:.2g} %,"
                f" more than {100 * limit:.2g} %), the first: {next(iter(bad.values()))}",
                hint="look with: resnets doctor, or allow more and go on: "
                f"--resume --set photos.bad_images={enough}",
            )

    def _test(self, log: MetricsLog | None) -> None:
        self.last_test = self._evaluate()
        self.training.tested()
        metrics = {"step": self.training.step, "test_error": round(self.last_test.error, 3)}
        self._write(log, metrics)

    def _evaluate(self) -> Result:
        total = self.task.test_images
        # A test is not worth compiling for, and eager it is the same as in `resnets eval`.
        eager = torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext()
        with eager, self.training.presented() as network:
            result = self.task.test(
                network, self.world, lambda images: self.watch.testing(images, total)
            )
            if self.training.step == self.recipe.steps:
                self._kept = {k: t.detach().clone() for k, t in network.state_dict().items()}
        return result

    def save(self) -> None:
        """Write a checkpoint, unless the weights are no longer finite numbers."""
        if not self.training.healthy():
            raise self._diverged("weights or loss are not finite")
        tensors, facts = self.training.state()
        facts["seconds"] = self.clock.training
        facts["preprocessing"] = model_file.preprocessing_facts(self.task.preprocessing)
        tensors[model_file.MEAN] = self.task.preprocessing.mean
        if self.world.is_main:
            checkpoint.save(self.checkpoints, tensors, facts)
        self._saved_at = time.monotonic()

    def restore(self, state: checkpoint.State) -> None:
        """Go to the point of a checkpoint; raises `UserError` if it is of another run."""
        tensors, facts = state
        self.training.restore(tensors, facts)
        self.clock.training = facts["seconds"]
        self._told |= self.training.batches.bad.keys()

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
        assert self._kept is not None
        recipe, classes = self.recipe, list(self.task.classes)
        measured = {
            "dataset": recipe.dataset,
            **({"split": recipe.split} if recipe.dataset == "cifar10" else {}),
            **last_test.as_dict(classes),
        }
        bad = sorted(self.training.batches.bad)
        provenance = {
            "recipe": recipe.model_dump(mode="json"),
            "recipe_hash": recipe.content_hash(),
            "settings": self.settings.as_dict(),
            "command": self.command,
            **self.facts,
            **({"bad_images": bad} if bad else {}),
            "seconds": round(self.clock.training, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.environment,
        }
        card = model_file.make_card(recipe.network, classes, provenance, [measured])
        summary = {
            "network": recipe.network,
            "measured": measured,
            "iterations": self.training.step,
            "provenance": provenance,
        }
        if self.world.is_main:
            path = self.folder / "model.safetensors"
            model_file.save(path, self._kept, self.task.preprocessing, card)
            write_json(self.folder / "summary.json", summary)
        return summary

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


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder; the system ends that when this one ends.

    Raises:
        UserError: if another process is there.
    """
    lock = FileLock(folder / ".lock")
    with writing(folder):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise UserError(
                "another process is training in this folder", str(folder), "wait for its end"
            ) from error
    try:
        yield
    finally:
        lock.release()
