"""The work of chosen experiments: their jobs, which results are missing, and estimated times."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from torch.nn import functional as F

from resnets.data import cifar, datasets
from resnets.models import complexity, zoo
from resnets.paper import experiments
from resnets.paper.experiments import Experiment, Setup
from resnets.paper.jobs import DataSet, Ensemble, Evaluation, Job, Signals, Training, Workspace
from resnets.paper.runner import missing
from resnets.paper.store import BUDGETS, Outcome, Store
from resnets.support import devices
from resnets.support.errors import UserError, nearest
from resnets.training import hardware, recipe_file
from resnets.training.objective import data_fingerprint

FORWARD_PASSES = {"center": 1, "ten-crop": 10, "dense": 50}
"""Cost of a test of one image, in passes of one crop of the training size."""
BACKWARD = 3
"""Cost of a training step on one image, in forward passes."""
START = 5.0
"""Seconds that a command takes besides its arithmetic."""
NEWEST = 10
"""Number of the newest trainings from which the speed of the machine is taken."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `paper list` and `paper run`.

    Args:
        budget: `full`, `short` or `smoke`.
        seeds: trainings of each network.
        only: networks to which the jobs are limited; all if empty.
        data: folder or address of the images.
        image_size: pixels a side of photographs; 224 if not given.
        results: folder of the store.
        runs: folder for run folders and other files of jobs.
    """

    budget: str
    seeds: int
    only: tuple[str, ...] = ()
    data: str | None
    image_size: int | None
    results: Path
    runs: Path

    @property
    def workspace(self) -> Workspace:
        """Where results and run folders are."""
        return Workspace(Store(self.results), self.runs)

    def setup(self, experiment: Experiment, cifar_data: str | None) -> Setup:
        """How one experiment is run, with CIFAR-10 from `cifar_data`.

        Raises:
            UserError: if the budget is unknown, or photographs are needed and not given.
        """
        budget = next((b for b in BUDGETS if b == self.budget), None)
        if budget is None:
            hint = nearest(self.budget, BUDGETS)
            raise UserError(f"unknown budget {self.budget!r}", "--budget", hint)
        if experiment.needs == "nothing":
            return Setup(budget, self.seeds)
        if experiment.needs == "cifar10":
            data = DataSet("cifar10", cifar_data, "50k/10k", 50_000)
            return Setup(budget, self.seeds, data)
        if self.data is None:
            raise UserError(
                f"{experiment.id} needs photographs",
                "--data",
                "give a folder like ImageNet's: train/CLASS/*.jpg and val/CLASS/*.jpg",
            )
        return Setup(budget, self.seeds, self._photos)

    @cached_property
    def _photos(self) -> DataSet:
        """The photographs, opened once for all experiments."""
        assert self.data is not None
        photos = datasets.open_training(self.data)
        location = self.data if "://" in self.data else str(Path(self.data).resolve())
        name = re.sub(r"[^\w-]", "-", Path(location.rstrip("/")).name.split(".")[0]) or "photos"
        fingerprint = data_fingerprint(recipe_file.load("imagenet-paper"), photos)
        return DataSet(name, location, fingerprint, len(photos.train), self.image_size or 224)


def jobs_of(chosen: Sequence[Experiment], options: Options) -> list[Job]:
    """All jobs of some experiments; of an ensemble those of its members, if `only` is given.

    Raises:
        UserError: if options do not fit the experiments.
    """
    # If an experiment needs photographs, --data is theirs, and CIFAR-10 is the cached one.
    cifar_data = None if any(e.needs == "photos" for e in chosen) else options.data
    jobs = [job for e in chosen for job in e.jobs(options.setup(e, cifar_data))]
    if options.only and jobs:
        jobs = limited(jobs, options.only)
    if options.image_size and jobs and not any(job.training.data.size for job in jobs):
        raise UserError("CIFAR-10's images have 32 pixels a side", "--image-size", "leave it out")
    return jobs


def limited(jobs: Sequence[Job], only: Sequence[str]) -> list[Job]:
    """The jobs about the networks `only`; of an ensemble, those of its members.

    Raises:
        UserError: if no job is about one of the networks.
    """
    jobs = [one for job in jobs for one in (job.tests if isinstance(job, Ensemble) else [job])]
    known = list(dict.fromkeys(job.training.network for job in jobs))
    for name in only:
        if name not in known:
            raise UserError(
                f"none of the experiments has network {name!r}", "--only", nearest(name, known)
            )
    return [job for job in jobs if job.training.network in only]


@dataclass(frozen=True)
class Status:
    """How far an experiment is.

    Args:
        jobs: all its jobs; None if its photographs are not given.
        missing: the jobs that must still run.
        seconds: estimated time for these; None if there are none.
    """

    experiment: Experiment
    jobs: list[Job] | None
    missing: list[Job]
    seconds: float | None

    @property
    def done(self) -> int:
        """Number of jobs that have their result."""
        return sum(job not in self.missing for job in self.jobs or ())


def statuses(options: Options) -> Iterator[Status]:
    """The status of every experiment.

    Raises:
        UserError: if a result is damaged.
    """
    workspace = options.workspace
    outcomes = list(workspace.store.everything())
    speed = cache(lambda: measured_speed(outcomes, devices.find_device()))
    for experiment in experiments.EXPERIMENTS:
        if experiment.needs == "photos" and options.data is None:
            yield Status(experiment, None, [], None)
            continue
        setup = options.setup(experiment, None)  # --data is the folder of photographs here
        jobs = experiment.jobs(setup)
        todo = missing(jobs, workspace)
        took = seconds(todo, speed(), test_images(setup.data), workspace) if todo else None
        yield Status(experiment, jobs, todo, took)


def fetch_cifar10(jobs: Iterable[Job], report: Callable[[str], None]) -> None:
    """Download CIFAR-10 once before jobs run, if they need it; raises `UserError` if impossible."""
    for data in {job.training.data for job in jobs}:
        if data.size is None:
            cifar.load("cifar10", Path(data.location) if data.location else None, report)


@cache
def cost(network: str, size: int) -> float:
    """Multiply-adds of one forward pass for an image of `size` pixels a side."""
    with torch.device("meta"):
        return float(complexity.multiply_adds(zoo.build(network).eval(), size))


def work(job: Job, test_images: int) -> float:
    """Multiply-adds of a job; 0 for those that take moments."""
    training = job.training
    size = training.data.size or 32
    if isinstance(job, Training):
        return BACKWARD * job.steps() * job.plan.batch * cost(job.network, size)
    if isinstance(job, Signals):
        return BACKWARD * max(job.steps) * training.plan.batch * cost(training.network, size)
    if isinstance(job, Evaluation):
        return FORWARD_PASSES[job.views] * test_images * cost(training.network, size)
    return 0.0


def seconds(jobs: Sequence[Job], speed: float, test_images: int, workspace: Workspace) -> float:
    """Time for the rest of `jobs`, with the whole machine at work on them.

    Args:
        speed: multiply-adds in a second.
        test_images: number of images of a test.
    """
    left = sum(work(job, test_images) * (1 - job.fraction_done(workspace)) for job in jobs)
    return left / speed + START * len(jobs)


def estimated_seconds(todo: Sequence[Job], workspace: Workspace) -> float:
    """Time for missing jobs on this machine."""
    speed = measured_speed(workspace.store.everything(), devices.find_device())
    return seconds(todo, speed, test_images(todo[0].training.data), workspace)


def test_images(data: DataSet | None) -> int:
    """Number of images of a test, accurate enough for an estimate."""
    return max(1, data.images // 10) if data else 0


def measured_speed(outcomes: Iterable[Outcome], device: torch.device) -> float:
    """Multiply-adds in a second of training on this machine, if all of it is used.

    Taken from the newest trainings on this machine; if there are none, a short measurement.
    """
    name, cores = devices.hardware_name(device), os.cpu_count() or 1
    found: list[tuple[str, float]] = []
    for outcome in outcomes:
        facts = outcome.provenance
        # A smoke test spends its seconds on the start.
        skipped = outcome.kind != "training" or outcome.group.budget == "smoke"
        if skipped or facts.get("hardware") != name:
            continue
        try:
            plan = outcome.identity["plan"]
            size = 32 if plan["dataset"] == "cifar10" else plan["photos"]["size"]
            images = outcome.values["iterations"] * plan["batch"]
            shares = cores / facts["threads"] if device.type == "cpu" else 1
            speed = BACKWARD * images * cost(outcome.network, size) / facts["seconds"] * shares
        except (UserError, KeyError, TypeError, ZeroDivisionError):
            continue  # from a version with other networks or keys
        found.append((str(facts.get("finished", "")), speed))
    if found:
        return statistics.median(speed for _, speed in sorted(found)[-NEWEST:])
    if device.type != "cpu":
        return _speed_of_steps(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in jobs; several threads would wait for busy cores
    try:
        return cores * _speed_of_steps(device)
    finally:
        torch.set_num_threads(threads)


def _speed_of_steps(device: torch.device, name: str = "cifar-resnet20", batch: int = 64) -> float:
    """Multiply-adds in a second of a few training steps, in the settings of a training.

    Only the time counts: the images are noise, and the loss is the plain cross-entropy.
    """
    settings = hardware.resolve(recipe_file.load("cifar10-paper"), device)
    network = zoo.build(name).to(device).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 32, 32, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        network.get_parameter("fc.bias").tolist()  # waits for the device
        times.append(time.perf_counter() - start)
    return BACKWARD * batch * cost(name, 32) / min(times[1:])
