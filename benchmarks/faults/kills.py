"""Trainings that are killed at random moments, and must end with the same weights, bit for bit.

A kill is SIGKILL to all processes of a training at once: of a training by two processes, to the
workers and to torchrun, which started them.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.faults import Outcome, Report, tiny

KILLS_OF_A_TRAINING = 4
STARTING_SECONDS = 120
"""Time in which a training must begin its run folder."""


def run(count: int, seed: int, report: Report) -> Outcome:
    """Kill tiny trainings `count` times with SIGKILL, and resume them until they end."""
    draw = random.Random(seed)
    failures: list[str] = []
    killed = ended = by_two = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        folder = Path(place)
        kinds = tiny.trainings(folder)[: max(1, -(-count // KILLS_OF_A_TRAINING))]
        seconds = {}
        for kind in kinds:
            seconds[kind] = _start(kind, _whole(folder, kind)).wait_for_end()
            report(f"{kind}: {seconds[kind]:.1f} s without a kill")
        while killed < count:
            kind = kinds[ended % len(kinds)]
            out = folder / f"killed-{ended}"
            for _ in range(min(KILLS_OF_A_TRAINING, count - killed)):
                _start(kind, out).kill_after(draw.uniform(0, seconds[kind]))
                killed += 1
            last = tiny.execute(kind.command(out))
            ended += 1
            by_two += kind.processes == 2
            failures += _failures(f"training {ended} ({kind})", out, _whole(folder, kind), last)
            report(f"{killed} of {count} kills, {ended} trainings, {len(failures)} failures")
    facts: dict[str, int | float] = {"trainings": ended, "of them by two processes": by_two}
    return Outcome("kills", killed, facts, failures)


def _whole(folder: Path, kind: tiny.Training) -> Path:
    """The run folder of the training that was not killed."""
    return folder / f"whole-{kind.name}-{kind.processes}"


def _failures(
    what: str, out: Path, whole: Path, last: subprocess.CompletedProcess[str]
) -> list[str]:
    if last.returncode:
        return [f"{what}: exit code {last.returncode}: {last.stderr.strip()[-300:]}"]
    found = [] if tiny.same_model(out, whole) else [f"{what}: other weights"]
    return found + [f"{what}: {name} is left" for name in tiny.leftovers(out)]


class _Started:
    """A training in processes of its own, which has begun its run folder."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process, self.began = process, time.monotonic()

    def wait_for_end(self) -> float:
        """Seconds until it has ended."""
        if self.process.wait():
            raise RuntimeError(f"a training ended with exit code {self.process.returncode}")
        return time.monotonic() - self.began

    def kill_after(self, seconds: float) -> None:
        """Kill all its processes at once."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        for pid in _family(self.process.pid):  # torchrun's workers are in sessions of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _family(pid: int) -> list[int]:
    """A process and all its descendants, on Linux."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = children.read_text().split()
    except OSError:  # it has ended
        found = []
    return [pid, *(one for child in found for one in _family(int(child)))]


def _start(kind: tiny.Training, out: Path) -> _Started:
    """Start or resume a training; returns as soon as its run folder exists."""
    process = subprocess.Popen(
        kind.command(out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=tiny.environment(),
        start_new_session=True,
    )
    resumed, end = out.exists(), time.monotonic() + STARTING_SECONDS
    while not resumed and not out.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return _Started(process)
