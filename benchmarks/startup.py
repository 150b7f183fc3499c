"""Start-up: the time of whole commands, each in a new process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import Report, Table, rows
from resnets.support.errors import UserError

MODEL = "cifar-resnet20"


def measure(model: str, rounds: int, report: Report) -> Table:
    """Measure seconds from start to end of commands, with warm caches.

    Args:
        model: for `predict`, with one photograph of 500 x 375 pixels.
        rounds: of each command.
        report: called with lines about the progress.
    """
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.jpg"
        noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(noise).resize((500, 375), Image.Resampling.BICUBIC).save(picture)
        commands = {
            "python -c pass": ["-c", "pass"],
            "python -c 'import torch'": ["-c", "import torch"],
            "resnets --help": ["-m", "resnets", "--help"],
            "resnets info cifar-resnet20": ["-m", "resnets", "info", MODEL],
            f"resnets predict {model} IMAGE": ["-m", "resnets", "predict", model, str(picture)],
            f"resnets predict {model} IMAGE --runtime torch": [
                "-m", "resnets", "predict", model, str(picture), "--runtime", "torch",
            ],
        }  # fmt: skip
        for name, command in commands.items():
            report(f"{name}: first time")
            _seconds(command)
        found: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                found[name].append(_seconds(command))
    return Table("start to end of a command", "seconds", "", rows(found, None), {"rounds": rounds})


def _seconds(arguments: Sequence[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["the command failed"]
        raise UserError(last[0].removeprefix("resnets: "), " ".join(arguments[1:]))
    return time.perf_counter() - start
