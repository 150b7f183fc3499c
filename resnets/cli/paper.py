"""`resnets paper list`, `run` and `report`."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from resnets.cli.console import about
from resnets.cli.paper_progress import Lines, watch
from resnets.data import cifar10, datasets
from resnets.paper import estimate, experiments, runner
from resnets.paper.experiments import Choice, Experiment
from resnets.paper.jobs import Budget, DataSet, Job, Place
from resnets.paper.store import Store
from resnets.support.devices import find_device
from resnets.support.errors import UserError, nearest
from resnets.training import recipe_file
from resnets.training.objective import data_fingerprint

BUDGETS: tuple[Budget, ...] = ("full", "short", "smoke")
LAUNCHERS = ("local", "ray")
ON_A_GPU = 4
"""Trainings on CIFAR-10 side by side on one GPU, which a single one does not fill."""


@dataclass(frozen=True)
class Options:
    """What a user may ask of experiments, beside which."""

    budget: str = "full"
    seeds: int = 1
    only: tuple[str, ...] = ()
    data: str | None = None
    image_size: int | None = None
    results: Path = Path("results/paper")
    runs: Path = Path("runs/paper")
    jobs: int | None = None
    launcher: str = "local"

    @property
    def place(self) -> Place:
        """Where results and run folders are."""
        return Place(Store(self.results), self.runs)

    def choice(self, experiment: Experiment) -> Choice:
        """What is asked of one experiment."""
        budget = next((b for b in BUDGETS if b == self.budget), None)
        if budget is None:
            hint = nearest(self.budget, BUDGETS)
            raise UserError(f"unknown budget {self.budget!r}", "--budget", hint)
        return Choice(budget, self.seeds, self._data(experiment))

    def _data(self, experiment: Experiment) -> DataSet | None:
        if experiment.needs == "nothing":
            return None
        if experiment.needs == "cifar10":
            return DataSet("cifar10", self.data, "50k/10k", 50_000)
        if self.data is None:
            raise UserError(
                f"{experiment.id} needs photographs",
                "--data",
                "give a folder like ImageNet's: train/CLASS/*.jpg and val/CLASS/*.jpg",
            )
        return self._photos

    @cached_property
    def _photos(self) -> DataSet:
        """The photographs; looked through once for all experiments."""
        assert self.data is not None
        photos = datasets.open_training(self.data)
        place = self.data if "://" in self.data else str(Path(self.data).resolve())
        name = re.sub(r"[^\w-]", "-", Path(place.rstrip("/")).name.split(".")[0]) or "photos"
        whole = data_fingerprint(recipe_file.load("imagenet-paper"), photos)
        return DataSet(name, place, whole, len(photos.train), self.image_size or 224)


@dataclass(frozen=True)
class Row:
    """One line of the list."""

    experiment: Experiment
    jobs: list[Job] | None
    missing: list[Job]
    seconds: float | None

    @property
    def done(self) -> int:
        return sum(job not in self.missing for job in self.jobs or ())

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.experiment.id,
            "title": self.experiment.title,
            "needs": self.experiment.needs,
            "jobs": None if self.jobs is None else len(self.jobs),
            "done": None if self.jobs is None else self.done,
            "missing": [job.key for job in self.missing],
            "seconds_left": None if self.seconds is None else round(self.seconds),
        }

    def cells(self) -> tuple[str, str, str, str, str]:
        """As a line of a table."""
        if self.jobs is None:
            results, left = "", "needs --data"
        elif not self.jobs:
            results, left = "made from code", "-"
        else:
            results = f"{self.done} of {len(self.jobs)}"
            left = "-" if self.seconds is None else about(self.seconds)
        experiment = self.experiment
        return experiment.id, experiment.title, experiment.needs, results, left


def show(options: Options, as_json: bool) -> None:
    """Print every experiment: its runs, those that exist, the time for the rest."""
    if sys.stderr.isatty():
        print("looking at results and at this machine ...", file=sys.stderr)
    rows = list(_rows(options))
    if as_json:
        print(json.dumps([row.facts() for row in rows], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("experiment", "", "data"):
        table.add_column(heading)
    for heading in ("results", "time left"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row.cells())
    Console(highlight=False).print(table)
    seeds = "1 seed" if options.seeds == 1 else f"{options.seeds} seeds"
    print(
        f"\nBudget {options.budget}, {seeds}; results in {options.results}. Times: about, on "
        "this machine."
    )
    print("Run one: resnets paper run fig6 --budget short. All results: resnets paper report")


def _rows(options: Options) -> Iterator[Row]:
    outcomes = list(options.place.store.everything())
    rate = None
    for experiment in experiments.EXPERIMENTS:
        on_photos = experiment.needs == "photos"
        if on_photos and options.data is None:
            yield Row(experiment, None, [], None)
            continue
        # --data is the photographs' here; CIFAR-10 is asked for by every other experiment.
        choice = (options if on_photos else replace(options, data=None)).choice(experiment)
        jobs = experiment.jobs(choice)
        missing = runner.missing(jobs, options.place)
        if missing and rate is None:
            rate = estimate.speed(outcomes, find_device())
        tested = estimate.tested(choice.data)
        took = estimate.seconds(missing, rate, tested, options.place) if missing and rate else None
        yield Row(experiment, jobs, missing, took)


def run(names: list[str], options: Options) -> None:
    """Run what is missing of some experiments."""
    if options.launcher not in LAUNCHERS:
        hint = nearest(options.launcher, LAUNCHERS)
        raise UserError(f"unknown launcher {options.launcher!r}", "--launcher", hint)
    chosen = [experiments.find(name) for name in dict.fromkeys(names)]
    # --data is the photographs' where some are asked for.
    others = replace(options, data=None) if any(e.needs == "photos" for e in chosen) else options
    jobs: list[Job] = []
    for experiment in chosen:
        asked = options if experiment.needs == "photos" else others
        jobs += experiment.jobs(asked.choice(experiment))
    if not jobs:
        print(
            f"{' and '.join(names)}: made from code, nothing to run. See them: {_report(options)}"
        )
        return
    if options.only:
        jobs = experiments.limited(jobs, options.only)
    if options.image_size and not any(job.training.data.size for job in jobs):
        raise UserError("CIFAR-10's images have 32 pixels a side", "--image-size", "leave it out")
    place = options.place
    todo = runner.missing(jobs, place)
    held = len({job.key for job in jobs} - {job.key for job in todo})
    if held:
        print(f"{held} of {len({job.key for job in jobs})} results are there already")
    for job in todo:
        if job.finished(place):
            print(f"{job.key} runs again: others need its files, which were not kept")
    if todo:
        _run(todo, options)
    print(f"All results are in {place.store.folder}. See them: {_report(options)}")


def _report(options: Options) -> str:
    results = "" if options.results == Options.results else f" --results {options.results}"
    return f"resnets paper report{results}"


def _run(todo: list[Job], options: Options) -> None:
    at_once, threads = _side_by_side(options, todo)
    options.place.store.prepare()
    with runner.alone(options.place):
        if options.launcher == "local":
            _find_cifar10(todo)
            _announce(todo, options.place)
        pool = _pool(options.launcher, threads)
        environment = {"OMP_NUM_THREADS": str(threads)}
        with _terminated_like_interrupted():  # Ray has set a handler of its own
            look = watch(options.place, todo)
            launcher = runner.Launch(options.place, pool, at_once, environment, look)
            _watched(launcher, todo, look)


def _announce(todo: list[Job], place: Place) -> None:
    """Say what is coming: a budget of weeks should not begin unawares."""
    rate = estimate.speed(place.store.everything(), find_device())
    tested = estimate.tested(todo[0].training.data)
    took = estimate.seconds(todo, rate, tested, place)
    jobs = "1 job" if len(todo) == 1 else f"{len(todo)} jobs"
    print(f"{jobs} to run, about {about(took)} on this machine; Ctrl-C saves", flush=True)


def _watched(launcher: runner.Launch, todo: list[Job], look: Lines) -> None:
    """Run the jobs, and say how that ended."""
    try:
        launcher.run(todo)
    except KeyboardInterrupt:
        look.close()
        print("Stopped, saved. Go on with the same command:")
        print(f"  resnets {shlex.join(sys.argv[1:])}")
        sys.exit(130)
    except runner.Failed as failed:
        look.close()
        first = next(iter(failed.jobs))
        others = f" and {len(failed.jobs) - 1} more" if len(failed.jobs) > 1 else ""
        raise UserError(
            f"{first}{others} failed: {failed.jobs[first]}",
            hint="hint that, then repeat the command: what is done stays",
        ) from failed
    finally:
        look.close()


def _find_cifar10(todo: list[Job]) -> None:
    """Before anything runs, say it once if CIFAR-10 is not to be had, and fetch it once."""
    sets = {job.training.data for job in todo}
    for data in sets:
        if data.size is None:
            cifar10.load(Path(data.place) if data.place else None, print)


def _side_by_side(options: Options, todo: list[Job]) -> tuple[int, int]:
    """How many jobs run at once, and with how many threads each."""
    cores, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    if options.launcher == "ray":  # the cluster has its own limits
        return options.jobs or len(todo), 1
    # Several small networks with a core each train more images than one after the other.
    on_photos = any(job.training.data.size is not None for job in todo)
    at_once = gpus * (1 if on_photos else ON_A_GPU) if gpus else cores
    at_once = min(options.jobs or at_once, len(todo))
    return at_once, max(1, cores // at_once)


def _pool(launcher: str, threads: int) -> runner.Pool:
    gpus = _gpus()
    if launcher == "local":
        return runner.LocalPool(gpus)
    from resnets.paper.ray_launcher import RayPool

    return RayPool(None, threads, 1 / ON_A_GPU if gpus else 0.0)


def _gpus() -> list[str]:
    """The GPUs that may be used, by the names that the user gave them, if any."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] or [str(number) for number in range(count)]


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM ends the command like Ctrl-C: the jobs save first."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def report(results: Path, out: Path) -> None:
    """Write the page and the Markdown file of all results."""
    from resnets.paper.report import write

    store = Store(results)
    if not results.is_dir():
        raise UserError(
            "no such folder of results", str(results), "make some: resnets paper run fig6"
        )
    for path in write(list(store.everything()), out, results):
        print(path)
