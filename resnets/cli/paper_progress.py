"""What a person sees while experiments run: a bar for each job, or plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from resnets.cli.console import about, duration
from resnets.paper import estimate
from resnets.paper.jobs import Job, Place, Training
from resnets.paper.store import Outcome

EVERY = 60.0
"""Seconds between two plain lines."""


class Lines:
    """Plain lines: when a job begins and ends, and every minute how far all are."""

    def __init__(self, place: Place, todo: Sequence[Job]) -> None:
        self.place, self.todo = place, {job.key: job for job in todo}
        self.ended: set[str] = set()
        self._began = self._said = time.monotonic()
        self._whole = {key: estimate.work(job, 1000) for key, job in self.todo.items()}
        self._at_start = self.share()

    def share(self) -> float:
        """How much of all work is done, from 0 to 1."""
        done = sum(work * self._part(self.todo[key]) for key, work in self._whole.items())
        return done / max(sum(self._whole.values()), 1.0)

    def _part(self, job: Job) -> float:
        return 1.0 if job.key in self.ended else job.share(self.place)

    def left(self) -> str:
        """How long the rest will take, once that can be told."""
        share = self.share()
        done = share - self._at_start
        if done < 0.002:
            return ""
        return f"{about((time.monotonic() - self._began) * (1 - share) / done)} left"

    def note(self, text: str) -> None:
        print(text, flush=True)

    def started(self, job: Job) -> None:
        goes_on = isinstance(job, Training) and job.reached(self.place)
        self.note(f"{job.key}: {'goes on' if goes_on else 'begins'}")

    def collected(self, outcome: Outcome) -> None:
        self.ended.add(outcome.key)
        self.note(
            f"{outcome.key}: {summary(outcome)}  ({len(self.ended)} of {len(self.todo)} done)"
        )

    def looking(self, running: Sequence[Job]) -> None:
        if time.monotonic() - self._said < EVERY:
            return
        self._said = time.monotonic()
        states = [
            f"{job.network} {job.reached(self.place):,} of {job.steps():,}"
            for job in running
            if isinstance(job, Training)
        ]
        self.note(f"{', '.join(states) or 'working'}; {self.left()}".rstrip("; "))

    def close(self) -> None:
        pass


class Bars(Lines):
    """A live bar for each running job and one for all; ends stay above as lines."""

    def __init__(self, place: Place, todo: Sequence[Job]) -> None:
        super().__init__(place, todo)
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
        self._bars[job.key] = self._progress.add_task(_short(job.key), total=total, state="")

    def collected(self, outcome: Outcome) -> None:
        self._remove(outcome.key)
        super().collected(outcome)

    def _remove(self, key: str) -> None:
        if key in self._bars:
            self._progress.remove_task(self._bars.pop(key))

    def looking(self, running: Sequence[Job]) -> None:
        for key in set(self._bars) - {job.key for job in running}:
            self._remove(key)
        for job in running:
            if isinstance(job, Training):
                reached = job.reached(self.place)
                state = f"{reached:,} of {job.steps():,}"
                self._progress.update(self._bars[job.key], completed=reached, state=state)
        state = f"{len(self.ended)} of {len(self.todo)} done  {self.left()}"
        self._progress.update(self._all, completed=self.share(), state=state)

    def close(self) -> None:
        self._progress.stop()


def _short(key: str) -> str:
    return key.rpartition("/")[2].removeprefix("cifar-")


def summary(outcome: Outcome) -> str:
    """What a result says, in a few words."""
    values = outcome.values
    if outcome.kind == "training":
        took = outcome.provenance.get("seconds")
        time_taken = f", {duration(took)}" if took else ""
        return (
            f"test error {values['measured']['error']:.2f} %, training error "
            f"{values['train_error']:.2f} %{time_taken}"
        )
    return f"error {values['error']:.2f} %" if "error" in values else "done"


def watch(place: Place, todo: Sequence[Job]) -> Lines:
    """A live view on a terminal, plain lines elsewhere."""
    return Bars(place, todo) if sys.stdout.isatty() else Lines(place, todo)
