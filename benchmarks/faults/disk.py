"""Disks that are full at some write: one line, nothing half-written, and the work can go on.

The system refuses to write more than some number of bytes to any file (RLIMIT_FSIZE), as a full
disk would, at another write for every number.
"""

from __future__ import annotations

import json
import math
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.faults import Outcome, Report, tiny

SMALLEST, LARGEST = 50, 2_000_000
"""Bytes at which writes begin to fail: from the first line of metrics to the last checkpoint."""


@dataclass(frozen=True)
class _Work:
    """A command that writes.

    Args:
        name: what it does.
        command: for an output path.
        output: the name of the output.
        same: whether two outputs are equal.
    """

    name: str
    command: Callable[[Path], list[str]]
    output: str
    same: Callable[[Path, Path], bool]


def run(count: int, seed: int, report: Report) -> Outcome:
    """Fill the disk `count` times at random writes of trainings, exports and predictions."""
    draw = random.Random(seed)
    failures: list[str] = []
    refused = 0
    with tempfile.TemporaryDirectory(prefix="disk-") as place:
        folder = Path(place)
        works = _works(folder)
        wholes = [folder / f"whole-{n}" / work.output for n, work in enumerate(works)]
        for work, whole in zip(works, wholes, strict=True):
            whole.parent.mkdir()
            tiny.execute(work.command(whole), check=True)
        for number in range(count):
            which = number % len(works)
            work, out = works[which], folder / f"full-{number}" / works[which].output
            out.parent.mkdir()
            limit = round(math.exp(draw.uniform(math.log(SMALLEST), math.log(LARGEST))))
            done = tiny.execute(work.command(out), before=partial(_refuse_more_than, limit))
            refused += bool(done.returncode)
            what = f"{work.name} with {limit:,} bytes"
            failures += [f"{what}: {fault}" for fault in _faults(done, out)]
            again = tiny.execute(work.command(out)) if done.returncode else done
            if again.returncode:
                failures.append(f"{what}: again: {again.stderr.strip()[-200:]}")
            elif not work.same(out, wholes[which]):
                failures.append(f"{what}: another result")
            report(f"{number + 1} of {count} disks, {len(failures)} failures")
    return Outcome("disk", count, {"refused": refused}, failures)


def _refuse_more_than(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails, and does not kill
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _works(folder: Path) -> list[_Work]:
    training, _, photographs, *_ = tiny.trainings(folder)
    model, images = folder / "given", folder / "photos"
    words = [sys.executable, "-m", "benchmarks.faults.tiny"]

    def predict(out: Path) -> list[str]:
        return [*words, "predict", str(model), str(images), "--out", str(out), "--device", "cpu"]

    def export(out: Path) -> list[str]:
        return [*words, "export", str(model), "--to", "onnx", "--out", str(out)]

    def scores(out: Path) -> list[str]:
        evaluation = ["eval", str(model), str(images), "--device", "cpu"]
        return [*words, *evaluation, "--save-scores", str(out)]

    works = [
        _Work("CIFAR-10", training.command, "run", tiny.same_model),
        _Work("predictions", predict, "a.jsonl", _same_bytes),
        _Work("photographs", photographs.command, "run", tiny.same_model),
        _Work("scores", scores, "a.scores", _exists),
    ]
    if find_spec("onnxruntime") is not None:
        works.append(_Work("export", export, "onnx", _exists))
    return works


def _same_bytes(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def _exists(one: Path, other: Path) -> bool:
    return one.exists()


def _faults(done: subprocess.CompletedProcess[str], out: Path) -> list[str]:
    """What is wrong after a command that the system refused to let write."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("resnets: ")]
    traced = "Traceback" in done.stderr
    found = []
    if traced or (done.returncode, len(lines)) not in ((0, 0), (2, 1)):
        found.append(f"exit code {done.returncode}, {len(lines)} lines: {done.stderr[-300:]}")
    paths = [path for path in out.parent.rglob("*") if path.is_file() and path.name != ".lock"]
    for path in paths:
        if path.name.startswith("."):
            hidden_lock = path.name.endswith(".lock")
            found += [] if hidden_lock else [f"{path.name} is left"]
        elif path.suffix == ".json":
            try:
                json.loads(path.read_text())
            except ValueError:
                found.append(f"{path.name} is half-written")
        elif path.name.startswith("checkpoint-") or path.name == "model.safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                safe_open(path, framework="numpy")
            except SafetensorError:
                found.append(f"{path.name} is half-written")
    return found
