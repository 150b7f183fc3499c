"""Time and memory of a training step against depth, batch, resolution and processes."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.measure import Report, Table, rows
from resnets.kernels.fuse import use_cpu_kernels
from resnets.models import zoo
from resnets.support.devices import has_bf16
from resnets.support.errors import UserError
from resnets.support.timing import throughput
from resnets.training import hardware, recipe_file

DEPTHS = (20, 56, 110, 218, 434, 866, 1202)
BATCHES = (16, 32, 64, 128, 256)
SIZES = (16, 24, 32, 48, 64)
RECIPE = """network = "cifar-resnet20"
iterations = {steps}
batch = 128
test_every = {steps}
log_every = 10
[schedule]
kind = "linear"
lr = 0.1
"""


def measure(
    *, deepest: int, rounds: int, seconds: float, device: torch.device, report: Report
) -> list[Table]:
    """Measure time and memory of an image against depth, batch and resolution.

    Args:
        deepest: layers of the deepest network.
        rounds: of each case.
        seconds: length of a round.
        device: of the training steps.
        report: called with lines about the progress.
    """
    hardware.prepare(recipe_file.load("cifar10-paper"), device)
    depths = [depth for depth in DEPTHS if depth <= deepest]
    cases = {
        "depth": ({f"{d} layers": _Step(d, 32, 32, device) for d in depths}, depths),
        "batch": ({f"batch {b}": _Step(20, b, 32, device) for b in BATCHES}, BATCHES),
        "resolution": ({f"{s} pixels": _Step(20, 64, s, device) for s in SIZES}, SIZES),
    }
    tables = []
    for against, (steps, places) in cases.items():
        report(f"time and memory against {against}")
        tables += _tables(against, steps, places, rounds, seconds, device)
    return tables


class _Step:
    """A training step of a CIFAR network on a batch that never changes."""

    def __init__(self, depth: int, batch: int, size: int, device: torch.device) -> None:
        self.layers, self.batch, self.size = depth, batch, size
        self.device = device
        self.images = torch.randn(batch, 3, size, size, device=device).contiguous(
            memory_format=torch.channels_last
        )
        self.labels = torch.arange(batch, device=device) % 10
        self.made: tuple[nn.Module, torch.optim.Optimizer] | None = None

    def _network(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        if self.made is None:
            network = zoo.build(f"cifar-resnet{self.layers}").to(self.device)
            network = network.to(memory_format=torch.channels_last).train()
            if hardware.resolve(recipe_file.load("cifar10-paper"), self.device).kernels != "none":
                use_cpu_kernels(network)
            self.made = network, torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)
        return self.made

    def loss(self) -> Tensor:
        """The loss of one forward pass."""
        network, _ = self._network()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_bf16(self.device)):
            return F.cross_entropy(network(self.images), self.labels)

    def __call__(self) -> None:
        _, optimizer = self._network()
        loss = self.loss()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def saved_megabytes(self) -> float:
        """Megabytes for each image that the forward pass keeps for the backward pass."""
        parameters = {p.data_ptr() for p in self._network()[0].parameters()}
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if tensor.data_ptr() not in parameters:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = self.loss()  # keeps the saved tensors alive, so that no address is used twice
        del loss
        return sum(sizes.values()) / self.batch / 1e6


def _tables(
    against: str,
    steps: dict[str, _Step],
    places: Sequence[int],
    rounds: int,
    seconds: float,
    device: torch.device,
) -> list[Table]:
    """Tables of milliseconds and of megabytes for each image, with fits of a line."""
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for name, step in steps.items():
        rates = throughput({name: step}, step.batch, rounds, seconds, finish)[name]
        times[name] = [1000 / rate for rate in rates]
        memory[name] = [step.saved_megabytes()]
        step.made = None
    first = next(iter(steps))
    facts = {"network": "cifar-resnet", "rounds": rounds, "places": list(places)}
    made = []
    for what, unit, values in (("time", "ms/image", times), ("memory", "MB/image", memory)):
        middles = [statistics.median(found) for found in values.values()]
        power = {"depth": 1, "batch": 0, "resolution": 2}[against]
        work = [float(place**power) for place in places]
        made.append(
            Table(
                f"{what} of a training step against {against}",
                unit,
                first,
                rows(values, first),
                {**facts, **fit_line(work, middles)},
            )
        )
    return made


def fit_line(work: Sequence[float], cost: Sequence[float]) -> dict[str, Any]:
    """Fit `cost = fixed + each * work` by least squares of the relative errors.

    If all work is the same, `fixed` is the median and `each` is 0.

    Returns:
        `fixed` and `each`, in the unit of cost, and `off`: the deviation of each point from the
        line, in percent.
    """
    if len(set(work)) == 1:
        fixed, each = statistics.median(cost), 0.0
    else:
        weights = torch.tensor([1 / c for c in cost], dtype=torch.float64)
        x = torch.tensor(work, dtype=torch.float64)
        matrix = torch.stack([torch.ones_like(x), x], 1) * weights[:, None]
        solution = torch.linalg.lstsq(
            matrix, torch.ones(len(work), 1, dtype=torch.float64)
        ).solution
        fixed, each = (float(v) for v in solution.flatten())
    off = [100 * (c / (fixed + each * w) - 1) for w, c in zip(work, cost, strict=True)]
    return {"fixed": fixed, "each": each, "off": [round(value, 1) for value in off]}


def processes(rounds: int, steps: int, report: Report) -> Table:
    """Measure images per second of a training by one process and by two, with a core each."""
    found: dict[str, list[float]] = {"1 process": [], "2 processes": []}
    for round_ in range(rounds):
        for count, (name, values) in enumerate(found.items(), 1):
            report(f"{name}, round {round_ + 1}")
            values.append(_train(count, steps))
    return Table(
        "training cifar-resnet20, batch 128, one thread a process",
        "images/s",
        "1 process",
        rows(found, "1 process"),
        {"rounds": rounds, "steps": steps},
    )


def _train(count: int, steps: int) -> float:
    """Images per second of a short training by `count` processes of one thread each."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    with tempfile.TemporaryDirectory() as folder:
        recipe, out = Path(folder) / "recipe.toml", Path(folder) / "run"
        recipe.write_text(RECIPE.format(steps=steps))
        command = [sys.executable, *(launch if count > 1 else []), "-m", "resnets", "train"]
        command += [str(recipe), "--limit", "2560", "--device", "cpu", "--out", str(out)]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        if done.returncode:
            raise UserError(done.stderr.strip().splitlines()[-1], f"training by {count} processes")
        lines = (out / "metrics.jsonl").read_text().splitlines()
    rates = [float(json.loads(line).get("images_per_second", 0)) for line in lines]
    return statistics.median([rate for rate in rates if rate][1:])
