"""The work of chosen experiments: their jobs, which results are missing, and estimated times."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from resnets.data import cifar, datasets
from resnets.data.boxes.datasets import are_boxes, read_source
from resnets.data.samples import PhotoSet
from resnets.detection import localization
from resnets.detection.complexity import costs
from resnets.detection.improvements import PAPER_SIZE, PAPER_SIZES
from resnets.detection.objective import boxes_fingerprint
from resnets.paper import experiments
from resnets.paper.detector_jobs import SIZES, DetectorTest, DetectorTraining
from resnets.paper.experiments import Experiment, Setup
from resnets.paper.jobs import (
    DataSet,
    Ensemble,
    Evaluation,
    Job,
    LocalizationTest,
    Signals,
    Training,
    Workspace,
)
from resnets.paper.runner import missing, side_by_side
from resnets.paper.speed import BACKWARD, Layout, Speeds, cost, kind
from resnets.paper.store import BUDGETS, Store
from resnets.support.errors import UserError, nearest
from resnets.support.names import composed
from resnets.training import recipe_file
from resnets.training.objective import data_fingerprint

FORWARD_PASSES = {"center": 1, "ten-crop": 10, "dense": 50}
"""Cost of a test of one image, in passes of one crop of the training size."""
START = 5.0
"""Seconds that a command takes besides its arithmetic."""
NEEDED = {"photos": "photographs", "photos with boxes": "photographs with boxes"}


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
        if experiment.needs == "boxes":
            return Setup(budget, self.seeds, self._boxes(experiment.id, SIZES[budget]))
        with_boxes = experiment.needs == "photos with boxes"
        if not self.has_classes or (with_boxes and not self.has_boxes):
            hint = "give a folder like ImageNet's: train/CLASS/*.jpg and val/CLASS/*.jpg"
            hint += ", with boxes in Annotations" if with_boxes else ""
            raise UserError(f"{experiment.id} needs {NEEDED[experiment.needs]}", "--data", hint)
        located = self._located if with_boxes else None
        return Setup(budget, self.seeds, self._photos, located)

    @cached_property
    def has_boxes(self) -> bool:
        """Whether the images have boxes."""
        if self.data is None or "://" in self.data:
            return False
        return are_boxes(Path(datasets.local(self.data)))

    @cached_property
    def has_classes(self) -> bool:
        """Whether the images are given, and in folders of classes.

        If they have boxes, too, the categories of these must be classes: the folders train2017
        and val2017 of COCO are none.
        """
        if self.data is None:
            return False
        if not self.has_boxes:
            return True  # opening them says what is wrong
        try:
            classes = set(map(composed, self._opened.train.classes or ()))
        except UserError:
            return False
        source = read_source(Path(datasets.local(self.data)))
        part = source.train or source.test
        return part is not None and classes.issuperset(map(composed, part.categories))

    def fits(self, experiment: Experiment) -> bool:
        """Whether the images that an experiment needs are given."""
        if experiment.needs == "boxes":
            return self.has_boxes
        if experiment.needs == "photos with boxes":
            return self.has_boxes and self.has_classes
        return self.has_classes or not experiment.takes_data

    def _boxes(self, name: str, size: int) -> DataSet:
        """The images with boxes; raises `UserError` if there are none."""
        if self.data is None or not self.has_boxes:
            hint = "give a folder like VOCdevkit/VOC2007, or like COCO's"
            raise UserError(f"{name} needs images with boxes", "--data", hint)
        splits = self._splits
        location = str(Path(self.data).resolve())
        return DataSet(
            _group_name(location, "boxes"), location, boxes_fingerprint(splits),
            len(splits.train), self.image_size or size,
        )  # fmt: skip

    @cached_property
    def _splits(self) -> datasets.BoxSplits:
        """The images with boxes, opened once for all experiments."""
        assert self.data is not None
        return datasets.open_box_splits(self.data)

    @cached_property
    def _opened(self) -> PhotoSet:
        """The photographs, opened once for all experiments."""
        assert self.data is not None
        return datasets.open_training(self.data)

    @cached_property
    def _located(self) -> DataSet:
        """The photographs that have boxes, on which a localizer is trained."""
        splits = localization.with_boxes(self._splits)[0]
        fingerprint = boxes_fingerprint(splits)
        return replace(self._photos, fingerprint=fingerprint, images=len(splits.train))

    @cached_property
    def _photos(self) -> DataSet:
        """The photographs as a data set of jobs."""
        assert self.data is not None
        photos = self._opened
        location = self.data if "://" in self.data else str(Path(self.data).resolve())
        name = _group_name(location, "photos")
        fingerprint = data_fingerprint(recipe_file.load("imagenet-paper"), photos)
        return DataSet(name, location, fingerprint, len(photos.train), self.image_size or 224)


def _group_name(location: str, otherwise: str) -> str:
    """The name of a data set in those of its groups."""
    return re.sub(r"[^\w-]", "-", Path(location.rstrip("/")).name.split(".")[0]) or otherwise


def jobs_of(chosen: Sequence[Experiment], options: Options) -> list[Job]:
    """All jobs of some experiments; of an ensemble those of its members, if `only` is given.

    Raises:
        UserError: if options do not fit the experiments.
    """
    # If an experiment takes other images, --data is theirs, and CIFAR-10 is the cached one.
    cifar_data = None if any(e.takes_data for e in chosen) else options.data
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
        jobs: all its jobs; None if its images are not given.
        missing: the jobs that must still run.
        seconds: estimated time for these; None if there are none.
        at_once: how many of these run side by side.
    """

    experiment: Experiment
    jobs: list[Job] | None
    missing: list[Job]
    seconds: float | None = None
    at_once: int = 0

    @property
    def done(self) -> int:
        """Number of jobs that have their result."""
        return sum(job not in self.missing for job in self.jobs or ())


def statuses(options: Options, report: Callable[[str], None]) -> Iterator[Status]:
    """The status of every experiment.

    Args:
        report: receives a line before the speed of the machine is measured.

    Raises:
        UserError: if a result is damaged, or the speed cannot be measured.
    """
    workspace = options.workspace
    list(workspace.store.everything())  # finds damaged results
    found: list[tuple[Status, Layout, int]] = []
    for experiment in experiments.EXPERIMENTS:
        if not options.fits(experiment):
            found.append((Status(experiment, None, []), Layout(0, 0), 0))
            continue
        setup = options.setup(experiment, None)  # --data is the folder of photographs here
        jobs = experiment.jobs(setup)
        todo = missing(jobs, workspace)
        layout = layout_of(todo) if todo else Layout(0, 0)
        status = Status(experiment, jobs, todo, at_once=layout.at_once)
        found.append((status, layout, test_images(setup.data)))
    speeds = Speeds(report)
    for layout in {layout for _, layout, _ in found}:  # one measurement for all experiments
        todo = [job for status, own, _ in found if own == layout for job in status.missing]
        speeds.of((job.training for job in todo if work(job, 1)), layout)
    for status, layout, images in found:
        if status.missing:
            took = seconds(status.missing, images, workspace, layout, speeds)
            status = replace(status, seconds=took)
        yield status


def fetch_cifar10(jobs: Iterable[Job], report: Callable[[str], None]) -> None:
    """Download CIFAR-10 once before jobs run, if they need it; raises `UserError` if impossible."""
    for data in {job.training.data for job in jobs}:
        if data.size is None:
            cifar.load("cifar10", Path(data.location) if data.location else None, report)


def work(job: Job, test_images: int) -> float:
    """Multiply-adds of a job; 0 for those that take moments."""
    training = job.training
    size = training.data.size or 32
    if isinstance(job, DetectorTraining | DetectorTest):
        return _detector_work(job, test_images)
    if isinstance(job, Training):
        return _training_work(job, size, test_images)
    if isinstance(job, Signals):
        return BACKWARD * max(job.steps) * training.plan.batch * cost(training.network, size)
    if isinstance(job, Evaluation):
        return FORWARD_PASSES[job.views] * test_images * cost(training.network, size)
    if isinstance(job, LocalizationTest):  # by classifier and localizer
        return 2 * FORWARD_PASSES[job.views] * test_images * cost(training.network, size)
    return 0.0


def _training_work(job: Training, size: int, test_images: int) -> float:
    """Multiply-adds of a training: its updates, the first of them on smaller images, and tests."""
    plan = job.plan.in_iterations(job.images)
    small = min(plan.steps, int(plan.progressive.until)) if plan.progressive else 0
    full = cost(job.network, size)
    updates = (plan.steps - small) * full
    if plan.progressive:
        updates += small * cost(job.network, plan.progressive.size)
    tests = math.ceil(plan.steps / plan.test_every) * min(test_images, plan.limit or test_images)
    return BACKWARD * plan.batch * updates + tests * full


def _detector_work(job: DetectorTraining | DetectorTest, test_images: int) -> float:
    """Multiply-adds of a detector's training or test, on photographs of 4 x 3.

    Of alternating training, the steps count as if each trained all.
    """
    training = job.training
    plan = training.plan.in_iterations(training.images)
    settings = plan.detection
    one = costs(training.network, settings, settings.size, settings.size * 4 // 3)
    shared = one.trunk + one.rpn + one.rpn_outputs
    tested = float(shared + settings.test_proposals * one.region)
    if isinstance(job, DetectorTest):
        scales = sum((side / PAPER_SIZE) ** 2 for side in PAPER_SIZES) if job.multiscale else 0
        regions = settings.test_proposals * one.region
        regions *= (1 + len(job.others)) * (1 + job.refine) * (1 + job.multiscale)
        image = shared * (1 + scales) + regions
        return test_images * (1 + len(job.others)) * image
    tests = math.ceil(plan.steps / plan.stages / plan.test_every)
    updates = BACKWARD * plan.steps * plan.batch * (shared + settings.rois * one.region)
    return updates + tests * min(test_images, plan.limit or test_images) * tested


def seconds(
    jobs: Sequence[Job], test_images: int, workspace: Workspace, layout: Layout, speeds: Speeds
) -> float:
    """Time for the rest of `jobs`, of which some run side by side.

    A job starts, in the order of `jobs`, as soon as one before it ends; the time is that of the
    last one's end.

    Args:
        test_images: number of images of a test.
        layout: how many jobs run side by side, and the threads of each.
        speeds: of trainings on this machine.

    Raises:
        UserError: if the speed cannot be measured.
    """
    found = speeds.of((job.training for job in jobs if work(job, test_images)), layout)
    free = [0.0] * layout.at_once
    for job in jobs:
        left = work(job, test_images) * (1 - job.fraction_done(workspace))
        took = START + (left / found[kind(job.training)] if left else 0.0)
        heapq.heapreplace(free, free[0] + took)
    return max(free)


def layout_of(jobs: Sequence[Job], limit: int | None = None) -> Layout:
    """How many of the jobs run side by side here, and the threads of each."""
    return Layout(*side_by_side(jobs, limit, "local"))


def estimated_seconds(
    todo: Sequence[Job], workspace: Workspace, layout: Layout, report: Callable[[str], None]
) -> float:
    """Time for missing jobs on this machine; raises `UserError` like `seconds`."""
    images = test_images(todo[0].training.data)
    return seconds(todo, images, workspace, layout, Speeds(report))


def test_images(data: DataSet | None) -> int:
    """Number of images of a test, accurate enough for an estimate."""
    return max(1, data.images // 10) if data else 0
