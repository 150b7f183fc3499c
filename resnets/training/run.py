"""A run: one execution of a recipe in a folder that explains itself."""

from __future__ import annotations

import math
import shlex
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from resnets.support import devices, signal_handlers
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.support.files import make_folder, write_json
from resnets.support.names import printable
from resnets.training import hardware, run_folder
from resnets.training.capacity import refuse_large_batch
from resnets.training.objective import Objective, TestMetrics
from resnets.training.trainer import Trainer
from resnets.weights import model_file
from resnets.weights.card import RUN_MODEL


class Interrupted(Exception):
    """A signal stopped the run, which saved its state first."""

    def __init__(self, folder: Path, step: int, number: int) -> None:
        super().__init__(f"stopped at iteration {step}")
        self.folder, self.step, self.signal = folder, step, number


class Observer(Protocol):
    """Receives the progress of a run, to show it."""

    def note(self, text: str) -> None:
        """A message, one line of text."""

    def begin(self, run: Run) -> None:
        """The run is about to start or resume its updates."""

    def stepped(self, step: int) -> None:
        """`step` updates are done."""

    def logged(self, metrics: dict[str, Any]) -> None:
        """A line of metrics was written."""

    def testing(self, images: int, total: int) -> None:
        """A test has finished `images` of `total` images."""


@dataclass
class Clock:
    """Seconds spent training, and how many of them were spent waiting for data."""

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
        """Add the time for which a reading waited for updates that a GPU still computed."""
        self.training += seconds
        self.window += seconds

    def rates(self, batch: int) -> dict[str, float]:
        """Images per second and the share of data-wait since the last call."""
        window = max(self.window, 1e-9)
        speed = self.updates * batch / window
        rates = {
            "images_per_second": round(speed, 1 if speed >= 10 else 4),
            "data_wait": round(self.waiting / window, 4),
        }
        self.window = self.waiting = 0.0
        self.updates = 0
        return rates


class Run:
    """One execution of a recipe in its folder.

    Each of several processes makes the same calls; only rank 0 writes.

    Args:
        folder: the run folder, see `run_folder`.
        objective: recipe and data.
        device: where to train.
        observer: receives the progress.
        command: the command that started the run, for the card.
        world: the processes that train together.
    """

    def __init__(
        self,
        folder: Path,
        objective: Objective,
        device: torch.device,
        observer: Observer,
        *,
        command: str,
        world: World = World(),  # noqa: B008
    ) -> None:
        self.folder, self.objective, self.recipe = folder, objective, objective.recipe
        self.device, self.observer, self.world, self.command = device, observer, world, command
        hardware.prepare(self.recipe, device)
        self.environment = {**devices.environment(device), "processes": world.size}
        self.settings = hardware.resolve(self.recipe, device)
        self.trainer = Trainer(objective, device, self.settings, world)
        self.clock = Clock()
        self.last_test: TestMetrics | None = None
        self._final_weights: dict[str, Tensor] | None = None
        self._saved_at = time.monotonic()
        self._stop: int | None = None
        self._reported: set[str] = set()

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / run_folder.CHECKPOINTS

    def train(self) -> dict[str, Any]:
        """Train to the last iteration, test, and write the model file.

        Returns:
            The summary, also written as `summary.json`.

        Raises:
            Interrupted: after one of `signal_handlers.STOPPING`, once the state is saved.
            UserError: if the training diverges or a file cannot be written.
        """
        self.observer.begin(self)
        try:
            with self._lock(), self._stop_on_signals(), self._metrics() as log:
                self._updates(log)
            return self._finish()
        finally:
            self.trainer.batches.close()

    def _updates(self, log: run_folder.MetricsLog | None) -> None:
        trainer = self.trainer
        self.clock.start()
        while trainer.step < self.recipe.steps:
            waited = trainer.update()
            self.clock.updated(waited, self.clock.lap() - waited)
            self.observer.stepped(trainer.step)
            self._after_update(log)
            self.clock.start()

    def _lock(self) -> AbstractContextManager[None]:
        return run_folder.locked(self.folder) if self.world.is_main else nullcontext()

    def _metrics(self) -> AbstractContextManager[run_folder.MetricsLog | None]:
        if self.world.is_main:
            return run_folder.MetricsLog(self.folder, self.trainer.step, self.observer.note)
        return nullcontext()

    def _after_update(self, log: run_folder.MetricsLog | None) -> None:
        step, recipe = self.trainer.step, self.recipe
        last = step == recipe.steps
        if step % recipe.log_every == 0 or self.trainer.at_stage_end:
            self._log(log)
        # Earlier stages have no whole network to test.
        testable = self.trainer.stage == recipe.stages - 1
        if (step % recipe.test_every == 0 and testable) or last:
            self._test(log)
        stop, due = self._agree(time.monotonic() - self._saved_at >= recipe.checkpoint_seconds)
        if stop is not None and not last:
            self.save()
            raise Interrupted(self.folder, step, stop)
        if last or due:
            self.save()

    def _agree(self, due: bool) -> tuple[int | None, bool]:
        """The signal that stops all processes, if any, and whether rank 0 has a checkpoint due."""
        if self.world.size == 1:
            return self._stop, due
        own = torch.tensor([self._stop or 0, int(due and self.world.is_main)])
        number, any_due = self.world.all_reduce_max(own).tolist()
        return number or None, bool(any_due)

    def _log(self, log: run_folder.MetricsLog | None) -> None:
        reading = self.trainer.take_reading()
        self.clock.waited_for_device(self.clock.lap())
        self._report_bad_images()
        if reading is None:
            return
        if not reading.healthy:
            raise self._diverged(f"loss {reading.loss:.3g}")
        bad = len(self.trainer.batches.bad)
        metrics: dict[str, Any] = {
            "step": self.trainer.step,
            "epoch": round(self.trainer.batches.epoch_of(self.trainer.step), 3),
            "train_loss": round(reading.loss, 5),
            "train_error": round(reading.error, 3),
            **{
                f"loss_{name}": round(part, 5)
                for name, part in zip(self.objective.part_names, reading.parts, strict=True)
            },
            "learning_rate": self.trainer.last_rate,
            **self.clock.rates(self.recipe.batch),
            **({"bad_images": bad} if bad else {}),
            "seconds": round(self.clock.training, 2),
        }
        unmeasured = self.objective.unmeasured()
        self._write(log, {key: value for key, value in metrics.items() if key not in unmeasured})

    def _write(self, log: run_folder.MetricsLog | None, metrics: dict[str, Any]) -> None:
        if log is not None:
            log.write(metrics)
        self.observer.logged(metrics)

    def _report_bad_images(self) -> None:
        """Report images that could not be read; raises `UserError` if they are too many."""
        bad = self.trainer.batches.bad
        everyone = self.world.gather_objects(dict(bad)) or [{}]
        union = self.world.broadcast_object({k: v for d in everyone for k, v in d.items()})
        for name in union.keys() - self._reported:
            self.observer.note(f"left out: {printable(union[name])}")
        self._reported |= union.keys()
        bad.update(union)
        images = self.objective.train_images
        if len(bad) > self.recipe.photos.most_bad_images(images):
            self.save()
            share = 100 * len(bad) / images
            enough = min(1.0, math.ceil(2 * share) / 100)
            raise UserError(
                f"{len(bad)} of {images:,} training images cannot be read ({share:.2g} %; "
                f"{self.recipe.photos.most_bad_images(images):,} may be), the first: "
                f"{printable(next(iter(bad.values())))}",
                hint="check the folder with: resnets doctor, or allow more and resume: "
                f"--resume --set photos.bad_images={enough}",
            )

    def _test(self, log: run_folder.MetricsLog | None) -> None:
        self.last_test = self._evaluate()
        self.trainer.record_test()
        self._write(log, {"step": self.trainer.step, **self.last_test.metrics})
        if log is not None:
            log.keep_pictures(self.last_test.pictures, self.trainer.step)

    def _evaluate(self) -> TestMetrics:
        def progress(images: int) -> None:
            self.observer.testing(images, self.objective.test_images)

        # Compiling for a test does not pay, and in eager mode it is the test of `resnets eval`.
        eager = torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext()
        with eager, self.trainer.averaged_network() as network:
            result = self.objective.test(network, self.device, self.world, progress)
            if self.trainer.step == self.recipe.steps:
                self._final_weights = {
                    k: t.detach().clone() for k, t in network.state_dict().items()
                }
        return result

    def save(self) -> None:
        """Write a checkpoint, unless the weights are no longer finite numbers."""
        if not self.trainer.healthy():
            raise self._diverged("weights or loss are not finite")
        tensors, facts = self.trainer.state()
        more_tensors, more_facts = self.objective.state()
        tensors |= more_tensors
        facts |= {"seconds": self.clock.training, **more_facts}
        if self.world.is_main:
            run_folder.save_checkpoint(self.checkpoints, tensors, facts)
        self._saved_at = time.monotonic()

    def restore(self, state: run_folder.State) -> None:
        """Set the state of a checkpoint; raises `UserError` if it is of another run."""
        tensors, facts = state
        self.trainer.restore(tensors, facts)
        self.clock.training = facts["seconds"]
        self._reported |= self.trainer.batches.bad.keys()

    def _diverged(self, what: str) -> UserError:
        kept = run_folder.checkpoints(self.checkpoints)
        where = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint yet"
        return UserError(
            f"the training diverged before iteration {self.trainer.step} ({what}); {where}",
            str(self.folder),
            "use a smaller rate: --set schedule.lr=...",
        )

    def _finish(self) -> dict[str, Any]:
        # After a resumption from the last checkpoint, whose test is in the metrics already.
        self.last_test = self.last_test or self._evaluate()
        assert self._final_weights is not None
        recipe, measured = self.recipe, self.last_test.measured
        bad = sorted(self.trainer.batches.bad)
        provenance = {
            "recipe": recipe.model_dump(mode="json"),
            "recipe_hash": recipe.content_hash(),
            "settings": self.settings.as_dict(),
            "command": self.command,
            "data": self.objective.fingerprint,
            **self.objective.provenance(),
            **({"bad_images": bad} if bad else {}),
            "seconds": round(self.clock.training, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **self.environment,
        }
        card = self.objective.card(provenance, measured)
        summary = {
            "network": recipe.network,
            "measured": measured,
            "iterations": self.trainer.step,
            "provenance": provenance,
        }
        if self.world.is_main:
            path = self.folder / RUN_MODEL
            model_file.save(path, self._final_weights, self.objective.preprocessing, card)
            write_json(self.folder / run_folder.SUMMARY, summary)
        return summary

    def _stop_on_signals(self) -> AbstractContextManager[None]:
        """Let a signal end the run after the current update, and a second Ctrl-C at once.

        Batch systems and launchers repeat their signals, and send several kinds.
        """

        def stop(number: int) -> None:
            if self._stop is None:
                self._stop = number
                again = " (once more: at once)" if number == signal.SIGINT else ""
                self.observer.note(f"stopping after this iteration{again}")
            elif number == self._stop == signal.SIGINT:  # without saving
                raise KeyboardInterrupt

        return signal_handlers.handling(stop, *signal_handlers.STOPPING)


def start(
    folder: Path,
    objective: Objective,
    device: torch.device,
    observer: Observer,
    *,
    command: str,
    world: World = World(),  # noqa: B008
    location: str | None = None,
) -> Run:
    """A new run in a new folder.

    Args:
        location: where the data were found, so that a resumed run finds them again.

    Raises:
        UserError: if the folder is not empty or cannot be written, the batch is larger than the
            training set or than memory, the images have a fault that would end the run at its
            first test, or the processes disagree about recipe or images. There is no folder then.
    """
    _refuse_disagreement(objective, world)
    refuse_large_batch(objective.recipe, objective.train_images, world)
    world.first(objective.check_data)
    run = Run(folder, objective, device, observer, command=command, world=world)
    environment = _environment(run, location, datetime.now(UTC))
    world.first(lambda: run_folder.create(folder, objective.plan, run.recipe, environment))
    if run.recipe.init is not None:
        run.save()  # a resumed run must not depend on where the weights came from
    return run


def resume(
    folder: Path,
    objective: Objective,
    device: torch.device | None,
    observer: Observer,
    *,
    world: World = World(),  # noqa: B008
    location: str | None = None,
) -> Run:
    """The run in `folder`, at its newest readable checkpoint, or at the start if it has none.

    If its `environment.json` is missing or damaged, it is written anew.

    Args:
        objective: made from the recipe of the folder.
        device: where to continue; by default the device that the run began on.
        location: where the data were found.

    Raises:
        UserError: if there is no run, no checkpoint can be read or fits, recipe or images are not
            those that the run began with, or some images can no longer be tested on.
    """
    began = world.first(lambda: run_folder.read_environment(folder))
    run_folder.refuse_changed_recipe(folder, objective.recipe)
    run_folder.refuse_other_images(folder, objective.fingerprint, location)
    _refuse_disagreement(objective, world)
    world.first(objective.check_data)
    # Read by one process, so that all continue from the same step.
    state = world.first(
        lambda: run_folder.latest_checkpoint(folder / run_folder.CHECKPOINTS, observer.note)
    )
    if state is not None:
        objective.resume_with(*state)
    device = device or devices.find_device(began["device"] if began else "auto")
    command = began["command"] if began else f"resnets resume {shlex.quote(str(folder))}"
    run = Run(folder, objective, device, observer, command=command, world=world)
    if began:
        _note_changes(run, began)
    else:
        environment = _environment(run, location, None)
        world.first(lambda: write_json(folder / run_folder.ENVIRONMENT, environment))
        observer.note(
            f"{folder / run_folder.ENVIRONMENT} was missing or damaged and is written anew; "
            "whether images and machine are those that the run began with is unknown"
        )
    if state is None:
        observer.note("no checkpoint yet: starting from iteration 0")
    else:
        try:
            run.restore(state)
        except UserError as error:
            raise UserError(error.message, str(run.checkpoints), error.hint) from error
    if world.is_main:
        make_folder(run.checkpoints)
    return run


def _environment(run: Run, location: str | None, started: datetime | None) -> dict[str, Any]:
    """What `environment.json` records of a run; `started` is None if that is unknown."""
    return {
        "command": run.command,
        "device": _device_name(run),
        "settings": run.settings.as_dict(),
        "plan": run.objective.plan.content_hash(),
        "place": location,  # the key of the first version
        "recipe_hash": run.recipe.content_hash(),
        "started": started and started.isoformat(timespec="seconds"),
        "data": run.objective.fingerprint,
        **run.environment,
    }


def _note_changes(run: Run, began: dict[str, Any]) -> None:
    """Say what has changed since a run began, if it will not repeat bit for bit."""
    now = {**run.environment, "device": _device_name(run), "settings": run.settings.as_dict()}
    # Runs of versions without kernels do not record them.
    then = {**began, "settings": {"kernels": "none", **began["settings"]}}
    changed = [key for key in run_folder.REPRODUCIBLE if then[key] != now[key]]
    if changed:
        run.observer.note(f"the run will not repeat bit for bit: changed {', '.join(changed)}")


def _device_name(run: Run) -> str:
    """The device as `environment.json` records it: of several processes only the kind."""
    return run.device.type if run.world.size > 1 else str(run.device)


def _refuse_disagreement(objective: Objective, world: World) -> None:
    """Raise `UserError` unless every process has the same recipe and the same images."""
    if world.size == 1:
        return
    own = (objective.plan.content_hash(), objective.fingerprint)
    first = world.broadcast_object(own)
    pairs = zip(("recipe", "images"), own, first, strict=True)
    differs = next((kind for kind, a, b in pairs if a != b), "")
    everyone = world.broadcast_object(world.gather_objects(differs))
    for rank, kind in enumerate(everyone or ()):
        if kind:
            raise UserError(
                f"process {rank} has another {kind} than process 0",
                hint="start every process with the same command and the same data",
            )
