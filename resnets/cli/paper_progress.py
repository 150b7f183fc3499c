"""The progress of experiments: a bar for each job on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from resnets.cli.console import about, duration
from resnets.paper import workload
from resnets.paper.jobs import Job, Training, Workspace
from resnets.paper.store import Outcome

EVERY = 60.0
"""Seconds between two plain lines."""


class JobLines:
    """Plain lines: when a job starts and ends, and every minute the progress of all."""

    def __init__(self, workspace: Workspace, todo: Sequence[Job]) -> None:
        self.workspace, self.todo = workspace, {job.key: job for job in todo}
        self.ended: set[str] = set()
        self._began = self._printed = time.monotonic()
        self._work = {key: workload.work(job, 1000) for key, job in self.todo.items()}
        self._at_start = self.fraction_done()

    def fraction_done(self) -> float:
        """How much of the work of all jobs is done, from 0 to 1."""
        done = sum(
            work * (1.0 if key in self.ended else self.todo[key].fraction_done(self.workspace))
            for key, work in self._work.items()
        )
        return done / max(sum(self._work.values()), 1.0)

    def time_left(self) -> str:
        """The estimated time for the rest; empty at the start."""
        fraction = self.fraction_done()
        done = fraction - self._at_start
        if done < 0.002:
            return ""
        return f"{about((time.monotonic() - self._began) * (1 - fraction) / done)} left"

    def note(self, text: str) -> None:
        print(text, flush=True)

    def started(self, job: Job) -> None:
        resumed = isinstance(job, Training) and job.steps_done(self.workspace)
        self.note(f"{job.key}: {'resumed' if resumed else 'started'}")

    def collected(self, outcome: Outcome) -> None:
        self.ended.add(outcome.key)
        count = f"{len(self.ended)} of {len(self.todo)} done"
        self.note(f"{outcome.key}: {summary(outcome)}  ({count})")

    def update(self, running: Sequence[Job]) -> None:
        if time.monotonic() - self._printed < EVERY:
            return
        self._printed = time.monotonic()
        states = [
            f"{job.network} {job.steps_done(self.workspace):,} of {job.steps():,}"
            for job in running
            if isinstance(job, Training)
        ]
        self.note(f"{', '.join(states) or 'working'}; {self.time_left()}".rstrip("; "))

    def close(self) -> None:
        pass


class JobBars(JobLines):
    """A live bar for each running job and one for all; results are printed above them."""

    def __init__(self, workspace: Workspace, todo: Sequence[Job]) -> None:
        super().__init__(workspace, todo)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            console=Console(highlight=False),
        )
        self._bars: dict[str, TaskID] = {}
        self._all = self._progress.add_task("all", total=1.0, state="")
        self._progress.start()

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False)

    def started(self, job: Job) -> None:
        total = job.steps() if isinstance(job, Training) else None
        name = job.name.removeprefix("cifar-")
        self._bars[job.key] = self._progress.add_task(name, total=total, state="")

    def collected(self, outcome: Outcome) -> None:
        self._remove(outcome.key)
        super().collected(outcome)

    def _remove(self, key: str) -> None:
        if key in self._bars:
            self._progress.remove_task(self._bars.pop(key))

    def update(self, running: Sequence[Job]) -> None:
        for key in set(self._bars) - {job.key for job in running}:
            self._remove(key)
        for job in running:
            if isinstance(job, Training):
                done = job.steps_done(self.workspace)
                state = f"{done:,} of {job.steps():,}"
                self._progress.update(self._bars[job.key], completed=done, state=state)
        state = f"{len(self.ended)} of {len(self.todo)} done  {self.time_left()}"
        self._progress.update(self._all, completed=self.fraction_done(), state=state)

    def close(self) -> None:
        self._progress.stop()


def summary(outcome: Outcome) -> str:
    """The main numbers of a result, in a few words."""
    values, located = outcome.values, outcome.measurement.get("localization_error")
    if outcome.kind == "training":
        seconds = outcome.provenance.get("seconds")
        time_taken = f", {duration(seconds)}" if seconds else ""
        error = values["measured"]["error"] if located is None else located
        return f"test error {error:.2f} %, training error {values['train_error']:.2f} %{time_taken}"
    if located is not None:
        return f"localization error {located:.2f} %, class given"
    return f"error {values['error']:.2f} %" if "error" in values else "done"


def make_progress(workspace: Workspace, todo: Sequence[Job]) -> JobLines:
    """Live bars on a terminal, plain lines elsewhere."""
    kind = JobBars if sys.stdout.isatty() else JobLines
    return kind(workspace, todo)
