"""How long experiments would take on this machine."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from functools import cache

import torch
from torch.nn import functional as F

from resnets.models import complexity, zoo
from resnets.paper.jobs import DataSet, Evaluation, Job, Place, Signals, Training
from resnets.paper.store import Outcome
from resnets.support import devices
from resnets.support.errors import UserError
from resnets.training import hardware, recipe_file

VIEWS = {"center": 1, "ten-crop": 10, "dense": 50}
"""Crops of the training size that cost as much as a test of one image."""
BACKWARD = 3
"""A training step costs as much as this many forward passes."""
START = 5.0
"""Seconds that a command takes beside its arithmetic."""
NEWEST = 10
"""Trainings whose speed is taken for the machine's."""


@cache
def cost(network: str, size: int) -> float:
    """Multiply-adds of one forward pass for an image of `size` pixels a side."""
    with torch.device("meta"):
        return float(complexity.multiply_adds(zoo.build(network).eval(), size))


def work(job: Job, tested: int) -> float:
    """Multiply-adds of a job; 0 for those that take moments.

    Args:
        tested: images of a test.
    """
    training = job.training
    size = training.data.size or 32
    if isinstance(job, Training):
        return BACKWARD * job.steps() * job.plan.batch * cost(job.network, size)
    if isinstance(job, Signals):
        return BACKWARD * max(job.steps) * training.plan.batch * cost(training.network, size)
    if isinstance(job, Evaluation):
        return VIEWS[job.views] * tested * cost(training.network, size)
    return 0.0


def speed(outcomes: Iterable[Outcome], device: torch.device) -> float:
    """Multiply-adds in a second that this machine does in training, all of it at work.

    Taken from the newest trainings that ran here, else measured for a moment.
    """
    name, cores = devices.hardware_name(device), os.cpu_count() or 1
    seen: list[tuple[str, float]] = []
    for outcome in outcomes:
        facts = outcome.provenance
        # A smoke test spends its seconds on the start.
        if outcome.kind != "training" or outcome.budget == "smoke" or facts.get("hardware") != name:
            continue
        try:
            plan = outcome.identity["plan"]
            size = 32 if plan["dataset"] == "cifar10" else plan["photos"]["size"]
            images = outcome.values["iterations"] * plan["batch"]
            shares = cores / facts["threads"] if device.type == "cpu" else 1
            rate = BACKWARD * images * cost(outcome.network, size) / facts["seconds"] * shares
        except (UserError, KeyError, TypeError, ZeroDivisionError):
            continue  # of another version, whose networks or keys were others
        seen.append((str(facts.get("finished", "")), rate))
    if seen:
        return statistics.median(rate for _, rate in sorted(seen)[-NEWEST:])
    if device.type != "cpu":
        return _measured(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the jobs will; several would wait for one that another uses
    try:
        return cores * _measured(device)
    finally:
        torch.set_num_threads(threads)


def _measured(device: torch.device, name: str = "cifar-resnet20", batch: int = 64) -> float:
    """The speed of a few steps, in the settings that a training would use."""
    settings = hardware.resolve(recipe_file.load("cifar10-paper"), device)
    network = zoo.build(name).to(device).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, 32, 32, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    laps = []
    for _ in range(4):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        network.get_parameter("fc.bias").tolist()  # waits for the device
        laps.append(time.perf_counter() - start)
    return BACKWARD * batch * cost(name, 32) / min(laps[1:])


def seconds(jobs: Sequence[Job], rate: float, tested: int, place: Place) -> float:
    """Time for what is left of `jobs` with the whole machine at work on them."""
    left = sum(work(job, tested) * (1 - job.share(place)) for job in jobs)
    return left / rate + START * len(jobs)


def tested(data: DataSet | None) -> int:
    """Images of a test, near enough for an estimate."""
    return max(1, data.images // 10) if data else 0
