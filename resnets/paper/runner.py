"""Running the jobs of experiments: what is missing, several at a time, resumable at any point."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from resnets.paper.jobs import Job, Place
from resnets.paper.store import Outcome
from resnets.support.errors import UserError
from resnets.support.files import make_folder, writing

STARTS = 3
"""Times that a job is started whose machine was lost."""


SAVING = 30
"""Seconds that a run may take to save its state."""


class Pool(Protocol):
    """Whatever runs commands: this machine, or a cluster."""

    def start(
        self, key: str, command: list[str], environment: dict[str, str], output: Path, log: Path
    ) -> None:
        """Begin a command; it prints to `output` and tells to `log`."""

    def finished(self, timeout: float) -> list[tuple[str, int | None]]:
        """Commands that ended since the last call and their exit codes; None if the machine that
        ran one was lost. Waits up to `timeout` seconds for the first."""

    def stop(self) -> None:
        """Ask what is running to save and end, and wait for it."""


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def _hear_signals() -> None:
    """Undo that a shell has its background commands ignore SIGINT, and on Linux have this process
    asked to save and end when the one that started it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if LIBC is not None:
        LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


class LocalPool:
    """Processes of this machine.

    Args:
        gpus: the GPUs among which jobs are shared, as in `CUDA_VISIBLE_DEVICES`; none on a
            machine without.
    """

    def __init__(self, gpus: Sequence[str] = ()) -> None:
        self._gpus = list(gpus)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._on: dict[str, str] = {}

    def start(
        self, key: str, command: list[str], environment: dict[str, str], output: Path, log: Path
    ) -> None:
        if self._gpus:
            busy = list(self._on.values())
            self._on[key] = min(self._gpus, key=busy.count)
            environment = {**environment, "CUDA_VISIBLE_DEVICES": self._on[key]}
        with writing(log), output.open("wb") as out, log.open("ab") as err:
            self._running[key] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | environment,
                start_new_session=True,  # Ctrl-C reaches them through `stop`, once
                preexec_fn=_hear_signals,
            )

    def finished(self, timeout: float) -> list[tuple[str, int | None]]:
        until = time.monotonic() + timeout
        while True:
            ended = [
                (key, code) for key, p in self._running.items() if (code := p.poll()) is not None
            ]
            if ended or time.monotonic() >= until:
                break
            time.sleep(0.1)
        for key, _ in ended:
            del self._running[key]
            self._on.pop(key, None)
        return list(ended)

    def stop(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGINT)
        for process in self._running.values():
            process.wait()
        self._running.clear()


class Watch(Protocol):
    """Whoever looks on while jobs run."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def started(self, job: Job) -> None:
        """A job begins, or goes on."""

    def collected(self, outcome: Outcome) -> None:
        """A job has its result."""

    def looking(self, running: Sequence[Job]) -> None:
        """Time to look how far the running jobs are."""


def missing(jobs: Sequence[Job], place: Place) -> list[Job]:
    """What must still run, in an order in which it can: also what jobs need and nobody kept.

    Raises:
        UserError: if a result file is damaged or of another job.
    """
    todo: dict[str, Job] = {}

    def add(job: Job, for_its_files: bool) -> None:
        if job.key in todo or (job.finished(place) and not (for_its_files and _gone(job, place))):
            return
        for need in job.needs:
            add(need, for_its_files=True)
        todo[job.key] = job

    for job in jobs:
        add(job, for_its_files=False)
    return list(todo.values())


def _gone(job: Job, place: Place) -> bool:
    """Whether the files that other jobs read of this one are not there."""
    return not all(path.exists() for path in job.leaves(place))


@contextlib.contextmanager
def alone(place: Place) -> Iterator[None]:
    """Keep a second `paper run` out of the same run folders.

    Raises:
        UserError: if there is one at work.
    """
    make_folder(place.runs)
    lock = FileLock(place.runs / ".lock")
    with writing(place.runs):
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise UserError(
                "another `resnets paper run` is at work here",
                str(place.runs),
                "wait for its end, or give another --runs",
            ) from error
    try:
        yield
    finally:
        lock.release()


class Failed(Exception):
    """Some jobs failed; the others have their results."""

    def __init__(self, jobs: dict[str, str]) -> None:
        super().__init__(f"{len(jobs)} failed")
        self.jobs = jobs


@dataclass
class Launch:
    """Runs jobs in a pool, collecting each result as soon as there is one.

    Args:
        at_once: how many jobs run side by side.
        environment: variables of the jobs' processes, such as the number of threads.
    """

    place: Place
    pool: Pool
    at_once: int
    environment: dict[str, str]
    watch: Watch
    _waiting: dict[str, Job] = field(default_factory=dict)
    _running: dict[str, Job] = field(default_factory=dict)
    _starts: dict[str, int] = field(default_factory=dict)
    _failed: dict[str, str] = field(default_factory=dict)
    _told: dict[str, int] = field(default_factory=dict)
    """Bytes that earlier starts left in the logs."""

    def run(self, todo: Sequence[Job]) -> None:
        """Run what `missing` found.

        Raises:
            Failed: after all that could be done, if jobs failed.
            UserError: if results cannot be written.
            KeyboardInterrupt: after the running jobs have saved their state.
        """
        self._waiting = {job.key: job for job in todo}
        try:
            while self._waiting or self._running:
                self._fill()
                if not self._running:
                    break
                for key, code in self.pool.finished(timeout=1.0):
                    self._ended(self._running.pop(key), code)
                self.watch.looking(list(self._running.values()))
        finally:
            self.pool.stop()
        if self._failed:
            raise Failed(self._failed)

    def _fill(self) -> None:
        for key, job in list(self._waiting.items()):
            lost = next((need.key for need in job.needs if need.key in self._failed), None)
            if lost:
                self._failed[key] = f"needs {lost}"
                del self._waiting[key]
            elif len(self._running) < self.at_once and not self._must_wait(job):
                del self._waiting[key]
                self._start(job)

    def _must_wait(self, job: Job) -> bool:
        return any(need.key in self._waiting or need.key in self._running for need in job.needs)

    def _start(self, job: Job) -> None:
        _wait_for_the_last(self.place.run(job.key))
        output, log = self.place.output(job.key), self.place.log(job.key)
        make_folder(output.parent)
        command = [sys.executable, "-m", "resnets", *job.arguments(self.place)]
        self._starts[job.key] = self._starts.get(job.key, 0) + 1
        self._told[job.key] = log.stat().st_size if log.exists() else 0
        environment = {**self.environment, **job.environment(self.place)}
        self.pool.start(job.key, command, environment, output, log)
        self._running[job.key] = job
        self.watch.started(job)

    def _ended(self, job: Job, code: int | None) -> None:
        if code is None and self._starts[job.key] < STARTS:
            self.watch.note(f"{job.key}: its machine was lost; starting it again")
            self._waiting[job.key] = job
        elif code == 0:
            self._collect(job)
        else:
            self._fail(job, _last_words(self.place.log(job.key), self._told[job.key], code))

    def _collect(self, job: Job) -> None:
        try:
            outcome = job.collect(self.place)
        except UserError as error:
            self._fail(job, str(error))
            return
        self.place.store.write(outcome)
        self.watch.collected(outcome)

    def _fail(self, job: Job, why: str) -> None:
        self._failed[job.key] = why
        self.watch.note(f"{job.key} failed: {why}")


def _wait_for_the_last(folder: Path) -> None:
    """Let a run end that a killed command left behind: it is saving its state."""
    if not (folder / "recipe.json").exists():
        return
    with contextlib.suppress(Timeout), FileLock(folder / ".lock", timeout=SAVING):
        pass  # if it does not end, the new run says in whose way it is


def _last_words(log: Path, before: int, code: int | None) -> str:
    """What a failed job told last, after so many bytes of earlier starts."""
    new = log.read_bytes()[before:] if log.exists() else b""
    told = [line.strip() for line in new.decode(errors="replace").split("\n") if line.strip()]
    last = told[-1].removeprefix("resnets: ") if told else "it told nothing"
    if code is None:
        how = "its machine was lost"
    else:
        how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{last} ({how}; all it told: {log})"
