"""The speed of trainings on this machine: a few updates of each kind of network, timed once.

As many trainings as will run side by side are timed side by side, each in a process of its own,
because they share caches, memory and GPUs. `python -m resnets.paper.speed` is such a process.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from resnets.data.cifar import Cifar, ImageArrays
from resnets.models import complexity, zoo
from resnets.paper.jobs import Training
from resnets.paper.runner import available_gpus
from resnets.support import devices
from resnets.support.errors import UserError
from resnets.support.files import cache_folder, remember
from resnets.training import hardware
from resnets.training.objective import CifarClassification
from resnets.training.recipe import Recipe
from resnets.training.trainer import Trainer
from resnets.version import __version__

BACKWARD = 3
"""Cost of a training step on one image, in forward passes."""
WARM_UP = 1
"""Updates that are not timed: libraries choose kernels, compilers compile."""
LONG_ENOUGH = 1.0
"""Seconds for which updates of a kind are timed, at least `FEWEST` of them."""
FEWEST = 2
PHOTOS = 16
"""Photographs in a timed batch on CPUs, where whole batches would take minutes."""
_UPDATES_ON_GPUS = 20
"""Updates on a GPU between two readings of the clock, which wait for it."""


@dataclass(frozen=True)
class Layout:
    """How many trainings run side by side, and the threads of each."""

    at_once: int
    threads: int


def kind(training: Training) -> str:
    """What decides a training's speed besides the number of its multiply-adds."""
    training = training.timed
    row = zoo.architecture(training.network)
    words = [row.stem, row.block, row.shortcut, row.order, training.data.size or 32]
    return " ".join(map(str, [*words, *(["muon"] if training.plan.optimizer.muon else [])]))


@cache
def cost(network: str, size: int) -> float:
    """Multiply-adds of one forward pass for an image of `size` pixels a side."""
    with torch.device("meta"):
        return float(complexity.multiply_adds(zoo.build(network).eval(), size))


class Speeds:
    """Multiply-adds per second of trainings side by side, measured once and then remembered.

    The cache folder keeps them for this machine and this version of the code, unless the machine
    was busy.

    Args:
        report: receives a line before something is measured.
    """

    def __init__(self, report: Callable[[str], None] = lambda line: None) -> None:
        self.report = report
        self._file = cache_folder("speed") / "trainings.json"
        try:
            self._known: dict[str, Any] = dict(json.loads(self._file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            self._known = {}

    def of(self, trainings: Iterable[Training], layout: Layout) -> dict[str, float]:
        """Multiply-adds per second of one training of each kind, as part of this layout.

        The smallest network of a kind that was not measured before stands for the others.

        Raises:
            UserError: if a training fails.
        """
        smallest: dict[str, Training] = {}
        for training in sorted(
            (t.timed for t in trainings), key=lambda t: zoo.architecture(t.network).layers
        ):
            smallest.setdefault(kind(training), training)
        machine = self._machine(layout)
        keys = {name: f"{machine} | {name}" for name in smallest}
        unknown = {n: t for n, t in smallest.items() if not _is_rate(self._known.get(keys[n]))}
        if unknown:
            crowded = busy()
            note = "it is busy: times hold for a busy machine" if crowded else "once"
            self.report(f"measuring the speed of trainings on this machine ({note}) ...")
            rates = measure({name: t.plan for name, t in unknown.items()}, layout)
            for name, training in unknown.items():
                once = BACKWARD * cost(training.network, training.data.size or 32)
                self._known[keys[name]] = rates[name] * once
            if not crowded:
                remember(self._file, json.dumps(self._known, indent=2).encode())
        return {name: self._known[key] for name, key in keys.items()}

    @staticmethod
    def _machine(layout: Layout) -> str:
        device = devices.find_device()
        code = f"{__version__} {devices.environment(device)['commit']} torch {torch.__version__}"
        name = devices.hardware_name(device)
        return f"{name} | {code} | {layout.at_once} x {layout.threads} threads"


def busy() -> bool:
    """Whether other programs use much of the processors, by the load of the last minute."""
    return os.getloadavg()[0] > (os.cpu_count() or 1) / 2 if hasattr(os, "getloadavg") else False


def _is_rate(value: Any) -> bool:
    return isinstance(value, float) and 0 < value < math.inf


def measure(plans: Mapping[str, Recipe], layout: Layout) -> dict[str, float]:
    """Images per second of each training, while `layout.at_once` of its kind run side by side.

    Raises:
        UserError: if a training fails.
    """
    gpus = available_gpus()
    text = json.dumps({name: plan.model_dump(mode="json") for name, plan in plans.items()})
    processes = []
    for number in range(layout.at_once):
        environment = {**os.environ, "OMP_NUM_THREADS": str(layout.threads)}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        process = subprocess.Popen(
            [sys.executable, "-m", "resnets.paper.speed", text], env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        processes.append(process)
    answers = []
    try:
        for process in processes:
            out, errors = process.communicate()
            if process.returncode:
                why = errors.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
                raise UserError(f"a training that measures the speed failed: {why[0]}")
            answers.append(json.loads(out.splitlines()[-1]))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return {name: statistics.mean(answer[name] for answer in answers) for name in plans}


def images_per_second(plan: Recipe, device: torch.device) -> float:
    """The speed of updates at images of the full size; the images are noise."""
    side = plan.photos.size if plan.cifar is None else 32
    small = plan.cifar is None and device.type == "cpu"
    batch = min(plan.batch, PHOTOS) if small else plan.batch
    plan = plan.model_copy(
        update={
            "dataset": "cifar10", "batch": batch, "progressive": None, "limit": None, "init": None,
            "micro_batch": plan.micro_batch if batch == plan.batch else None, "epochs": None,
            "iterations": 1_000_000, "schedule": plan.schedule.model_copy(update={"lr": 1e-5}),
        }
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (2 * batch, 3, side, side), np.uint8)
    noise = ImageArrays(pixels, np.arange(2 * batch, dtype=np.uint8) % 10)
    hardware.prepare(plan, device)
    settings = hardware.resolve(plan, device)
    trainer = Trainer(CifarClassification(plan, Cifar(noise, noise)), device, settings)
    together = 1 if device.type == "cpu" else _UPDATES_ON_GPUS

    def seconds() -> float:
        start, computing = time.perf_counter(), time.process_time()
        for _ in range(together):
            trainer.update()
        trainer.take_reading()  # waits for the device
        took = time.perf_counter() - start
        if device.type == "cpu":  # where other programs take the cores, only this is ours
            took = min(took, time.process_time() - computing)
        return took / together

    for _ in range(WARM_UP):
        seconds()
    times: list[float] = []
    while len(times) < FEWEST or sum(times) * together < LONG_ENOUGH:
        times.append(seconds())
    return batch / statistics.median(times)


def main(text: str) -> None:
    """Print the images per second of each recipe in a JSON object, by its name."""
    device = devices.find_device()
    plans = {
        name: Recipe.model_validate_json(json.dumps(p)) for name, p in json.loads(text).items()
    }
    print(json.dumps({name: images_per_second(plan, device) for name, plan in plans.items()}))


if __name__ == "__main__":
    main(sys.argv[1])
