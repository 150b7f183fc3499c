"""The progress of a training: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from resnets.cli.console import duration
from resnets.support.names import counted, fitted
from resnets.training import hardware
from resnets.training.run import Run

_CLASSES_WIDTH = 70  # characters


def describe_run(run: Run) -> str:
    """One line: the network, its data, device and settings."""
    settings, recipe = run.settings, run.recipe
    form = "channels_last" if settings.channels_last else "NCHW"
    compiled = "compiled" if settings.compile else "eager"
    compiled += f", kernels for {settings.kernels}" if settings.kernels != "none" else ""
    if missing := hardware.missing_kernels(recipe, run.device, settings):
        instead = "kernels only" if settings.kernels == "none" else "convolutions"
        compiled += f", {missing}: PyTorch's {instead}"
    processes = run.world.size
    together = f"{processes} processes, " if processes > 1 else ""
    return (
        f"{recipe.network} on {run.device}: {counted(recipe.steps, 'iteration')} of "
        f"{recipe.batch} images, {run.objective.describe()}; "
        f"{together}{settings.precision}, {form}, {compiled}"
    )


class Lines:
    """Plain lines: one per test, and at most one reading every `every` seconds."""

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self._said = -every
        self._run: Run | None = None

    def note(self, text: str) -> None:
        print(text, flush=True)

    def begin(self, run: Run) -> None:
        self._run = run
        self.note(describe_run(run))
        if run.objective.classes:
            self.note(f"classes: {fitted(run.objective.classes, _CLASSES_WIDTH)}")
        self.note(f"run folder: {run.folder}")
        self._announce_compilation(run.trainer.step, first=True)

    def _announce_compilation(self, step: int, first: bool = False) -> None:
        """Say so if the next update compiles the network for a new image size."""
        assert self._run is not None
        progressive = self._run.recipe.progressive
        grows = progressive is not None and step == progressive.until
        if self._run.settings.compile and (first or grows):
            self.note("compiling for this image size; this can take a minute ...")

    def stepped(self, step: int) -> None:
        self._announce_compilation(step)

    def testing(self, images: int, total: int) -> None:
        pass

    def logged(self, metrics: dict[str, Any]) -> None:
        if _is_test(metrics):
            self.note(f"iteration {metrics['step']:6,}  {self._result(metrics)}")
            return
        now = time.monotonic()
        if now - self._said < self.every:
            return
        self._said = now
        assert self._run is not None
        iterations, batch = self._run.recipe.steps, self._run.recipe.batch
        left = (iterations - metrics["step"]) * batch / max(metrics["images_per_second"], 1e-9)
        self.note(
            f"iteration {metrics['step']:6,} / {iterations:,}  {_readings(metrics)}  "
            f"left {duration(left)}"
        )

    def _result(self, metrics: dict[str, Any]) -> str:
        """A test's result in a few words."""
        if "test_error" in metrics:
            return f"test error {metrics['test_error']:.2f} %"
        assert self._run is not None
        assert self._run.last_test is not None
        return self._run.last_test.headline

    def close(self) -> None:
        pass


def _is_test(metrics: dict[str, Any]) -> bool:
    return any(key.startswith("test_") for key in metrics)


def _readings(metrics: dict[str, Any]) -> str:
    parts = [f"{metrics[key]:.2f}" for key in metrics if key.startswith("loss_")]
    detail = f"({' '.join(parts)})" if parts else f" error {metrics['train_error']:5.2f} %"
    speed = metrics["images_per_second"]
    return (
        f"epoch {metrics['epoch']:5.1f}  loss {metrics['train_loss']:.3f} {detail}  "
        f"{speed:,.{0 if speed >= 10 else 2}f} img/s  "
        f"data {100 * metrics['data_wait']:.1f} %"
    )


class TwoLines(Progress):
    """A bar with the readings on a second line, so that both fit 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["readings"], overflow="ellipsis", no_wrap=True)


class Bar(Lines):
    """A live bar for terminals; test errors stay above it as lines."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._progress = TwoLines(
            BarColumn(bar_width=32),
            TextColumn("{task.completed:,.0f} / {task.total:,.0f} iterations, left"),
            TimeRemainingColumn(compact=True),
            console=console or Console(highlight=False),
            # Rich averages the rate over this window: tests in between must not shake it.
            speed_estimate_period=120,
            refresh_per_second=4,
        )
        self._task: Any = None
        self._readings = "training ..."

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def begin(self, run: Run) -> None:
        super().begin(run)
        first = "compiling ..." if run.settings.compile else "first iteration ..."
        self._task = self._progress.add_task(
            "", total=run.recipe.steps, completed=run.trainer.step, readings=first
        )
        self._progress.start()

    def stepped(self, step: int) -> None:
        super().stepped(step)
        self._progress.update(self._task, completed=step, readings=self._readings)

    def testing(self, images: int, total: int) -> None:
        doing = f"testing {images:,} of {counted(total, 'image')}"
        self._progress.update(self._task, readings=doing)

    def logged(self, metrics: dict[str, Any]) -> None:
        if _is_test(metrics):
            super().logged(metrics)
        else:
            self._readings = _readings(metrics)

    def close(self) -> None:
        self._progress.stop()


class Silent(Lines):
    """Prints nothing: for all processes but the first."""

    def note(self, text: str) -> None:
        pass


def display(shown: bool = True) -> Lines:
    """A bar on a terminal, lines elsewhere, nothing unless `shown`."""
    if not shown:
        return Silent()
    return Bar() if sys.stdout.isatty() else Lines()
