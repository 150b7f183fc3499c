"""Runs the jobs of experiments: several at a time, and resumable at any point."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from filelock import Timeout

from resnets.paper.jobs import Job, Workspace
from resnets.paper.store import Outcome
from resnets.support.errors import UserError, nearest
from resnets.support.files import locked, make_folder, writing
from resnets.support.idle import yield_session
from resnets.support.signal_handlers import STOPPING, handling, listen_in_child

LAUNCHERS = ("local", "ray")
STARTS = 3
"""Times that a job is started if its machine is lost."""
SAVING = 30
"""Seconds that an interrupted run may take to save its state."""
TRAININGS_PER_GPU = 4
"""CIFAR-10 trainings that share a GPU, since a single one does not keep it busy."""


class Pool(Protocol):
    """Runs commands: on this machine, or on a cluster."""

    def start(
        self, key: str, command: list[str], environment: dict[str, str], output: Path, log: Path
    ) -> None:
        """Start a command, with its standard output and standard error in files.

        Args:
            key: of the job.
            command: program and arguments, run in the current folder.
            environment: variables besides those of the machine.
            output: a new file for the standard output.
            log: a file to which the standard error is appended.
        """

    def finished(self, timeout: float) -> list[tuple[str, int | None]]:
        """Keys and exit codes of the commands that ended since the last call.

        The code is None if the machine was lost: the job can be started again. Waits up to
        `timeout` seconds for the first command.
        """

    def stop(self) -> None:
        """Interrupt the running commands, so that they save and end, and wait for them."""


class JobProgress(Protocol):
    """Shows the progress of the jobs to the user."""

    def note(self, text: str) -> None:
        """Print a line."""

    def started(self, job: Job) -> None:
        """A job was started, or resumed."""

    def collected(self, outcome: Outcome) -> None:
        """A job has its result."""

    def update(self, running: Sequence[Job]) -> None:
        """Called about every second with the running jobs."""


class LocalPool:
    """Runs commands as processes of this machine.

    Args:
        gpus: the GPUs that the jobs share, as in `CUDA_VISIBLE_DEVICES`; none on a machine
            without GPUs.
        idle: whether this process yields to all other work, so that its jobs do.
    """

    def __init__(self, gpus: Sequence[str] = (), idle: bool = False) -> None:
        self._gpus, self._idle = list(gpus), idle
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._gpu_of: dict[str, str] = {}

    def start(
        self, key: str, command: list[str], environment: dict[str, str], output: Path, log: Path
    ) -> None:
        if self._gpus:
            busy = list(self._gpu_of.values())
            self._gpu_of[key] = min(self._gpus, key=busy.count)
            environment = {**environment, "CUDA_VISIBLE_DEVICES": self._gpu_of[key]}
        with writing(log), output.open("wb") as out, log.open("ab") as err:
            self._running[key] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | environment,
                start_new_session=True,  # Ctrl-C reaches them once, through `stop`
                preexec_fn=self._in_child,
            )

    def _in_child(self) -> None:
        listen_in_child()
        if self._idle:
            yield_session()

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
            self._gpu_of.pop(key, None)
        return list(ended)

    def stop(self) -> None:
        for process in self._running.values():
            process.send_signal(signal.SIGINT)
        for process in self._running.values():
            process.wait()
        self._running.clear()


def check_launcher(launcher: str) -> None:
    """Raise `UserError` if there is no such launcher, naming the nearest."""
    if launcher not in LAUNCHERS:
        hint = nearest(launcher, LAUNCHERS)
        raise UserError(f"unknown launcher {launcher!r}", "--launcher", hint)


def make_pool(launcher: str, threads: int, idle: bool = False) -> Pool:
    """The pool of a launcher, whose jobs have `threads` threads each.

    Args:
        idle: whether the jobs on this machine yield to all other work, as this process does.

    Raises:
        UserError: if the cluster cannot be used.
    """
    gpus = available_gpus()
    if launcher == "local":
        return LocalPool(gpus, idle)
    from resnets.paper.ray_launcher import RayPool

    return RayPool(None, cpus_per_job=threads, gpus_per_job=1 / TRAININGS_PER_GPU if gpus else 0.0)


def available_gpus() -> list[str]:
    """The GPUs that may be used, by their names in `CUDA_VISIBLE_DEVICES` if it is set."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] or [str(number) for number in range(count)]


def side_by_side(jobs: Sequence[Job], limit: int | None, launcher: str) -> tuple[int, int]:
    """How many jobs run at a time, and with how many threads each.

    Args:
        limit: the most jobs at a time; by default what the GPUs, or without them the cores, allow.
    """
    if launcher == "ray":  # the cluster has its own limits
        return limit or len(jobs), 1
    # Several small networks with a core each train more images than one after the other.
    cores, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    photos = any(job.training.data.size is not None for job in jobs)
    possible = gpus * (1 if photos else TRAININGS_PER_GPU) if gpus else cores
    at_once = min(limit or possible, len(jobs))
    return at_once, max(1, cores // at_once)


def missing(jobs: Sequence[Job], workspace: Workspace) -> list[Job]:
    """The jobs that must still run, prerequisites first.

    A finished job runs again if another needs its file and it was not kept.

    Raises:
        UserError: if a result file is damaged, or belongs to another job.
    """
    todo: dict[str, Job] = {}

    def add(job: Job, for_its_file: bool) -> None:
        if job.key in todo:
            return
        file = job.file(workspace) if for_its_file else None
        if job.is_finished(workspace.store) and (file is None or file.exists()):
            return
        for need in job.prerequisites:
            add(need, for_its_file=True)
        todo[job.key] = job

    for job in jobs:
        add(job, for_its_file=False)
    return list(todo.values())


@contextlib.contextmanager
def exclusive(workspace: Workspace) -> Iterator[None]:
    """Keep a second `paper run` out of the same run folders.

    Raises:
        UserError: if another one uses them.
    """
    make_folder(workspace.runs)
    busy = UserError(
        "another `resnets paper run` uses this folder",
        str(workspace.runs),
        "wait until it ends, or give another --runs",
    )
    with locked(workspace.runs / ".lock", busy):
        yield


class JobsFailed(Exception):
    """Some jobs failed; the others have their results.

    Args:
        jobs: the reasons, by the keys of the jobs.
    """

    def __init__(self, jobs: dict[str, str]) -> None:
        super().__init__(f"{len(jobs)} failed")
        self.jobs = jobs


class Runner:
    """Runs jobs in a pool and collects each result as soon as there is one.

    Args:
        at_once: how many jobs run at a time.
        environment: variables of the jobs' processes, such as the number of threads.
    """

    def __init__(
        self,
        workspace: Workspace,
        pool: Pool,
        progress: JobProgress,
        *,
        at_once: int,
        environment: dict[str, str],
    ) -> None:
        self.workspace, self.pool, self.progress = workspace, pool, progress
        self.at_once, self.environment = at_once, environment
        self._waiting: dict[str, Job] = {}
        self._running: dict[str, Job] = {}
        self._starts: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        self._old_log_bytes: dict[str, int] = {}

    def run(self, todo: Sequence[Job]) -> None:
        """Run the jobs that `missing` returned. Other signals stop them as Ctrl-C does.

        Raises:
            JobsFailed: if jobs failed, after all others have ended.
            UserError: if results cannot be written.
            KeyboardInterrupt: after the running jobs have saved their state.
        """
        self._waiting = {job.key: job for job in todo}
        others = [number for number in STOPPING if number != signal.SIGINT]
        with handling(_interrupt, *others):  # replaces a handler that Ray may have set
            self._run()
        if self._failed:
            raise JobsFailed(self._failed)

    def _run(self) -> None:
        try:
            while self._waiting or self._running:
                self._fill()
                if not self._running:
                    break
                for key, code in self.pool.finished(timeout=1.0):
                    self._ended(self._running.pop(key), code)
                self.progress.update(list(self._running.values()))
        finally:
            self.pool.stop()

    def _fill(self) -> None:
        """Start jobs until `at_once` are running."""
        for key, job in list(self._waiting.items()):
            needs = [need.key for need in job.prerequisites]
            failed = next((need for need in needs if need in self._failed), None)
            if failed:
                self._failed[key] = f"needs {failed}"
                del self._waiting[key]
            elif len(self._running) < self.at_once and not any(
                need in self._waiting or need in self._running for need in needs
            ):
                del self._waiting[key]
                self._start(job)

    def _start(self, job: Job) -> None:
        _wait_until_saved(self.workspace.run_folder(job.key))
        output, log = (self.workspace.file(job.key, ending) for ending in ("out", "log"))
        make_folder(output.parent)
        command = [sys.executable, "-m", "resnets", *job.arguments(self.workspace)]
        self._starts[job.key] = self._starts.get(job.key, 0) + 1
        self._old_log_bytes[job.key] = log.stat().st_size if log.exists() else 0
        environment = {**self.environment, **job.environment(self.workspace)}
        self.pool.start(job.key, command, environment, output, log)
        self._running[job.key] = job
        self.progress.started(job)

    def _ended(self, job: Job, code: int | None) -> None:
        if code is None and self._starts[job.key] < STARTS:
            self.progress.note(f"{job.key}: its machine was lost; starting it again")
            self._waiting[job.key] = job
        elif code == 0:
            self._collect(job)
        else:
            log = self.workspace.file(job.key, "log")
            self._fail(job, _last_line(log, self._old_log_bytes[job.key], code))

    def _collect(self, job: Job) -> None:
        try:
            outcome = job.collect(self.workspace)
        except UserError as error:
            self._fail(job, str(error))
            return
        self.workspace.store.write(outcome)
        self.progress.collected(outcome)

    def _fail(self, job: Job, why: str) -> None:
        self._failed[job.key] = why
        self.progress.note(f"{job.key} failed: {why}")


def _interrupt(number: int) -> None:
    raise KeyboardInterrupt


def _wait_until_saved(folder: Path) -> None:
    """Wait for a run whose command was killed: it is still saving its state."""
    if not (folder / "recipe.json").exists():
        return
    with contextlib.suppress(Timeout), locked(folder / ".lock", timeout=SAVING):
        pass  # if it does not end, the new run reports the lock


def _last_line(log: Path, old_bytes: int, code: int | None) -> str:
    """The last line of a failed job's log, after the bytes of earlier starts, and how it ended."""
    new = log.read_bytes()[old_bytes:] if log.exists() else b""
    lines = [line.strip() for line in new.decode(errors="replace").split("\n") if line.strip()]
    last = lines[-1].removeprefix("resnets: ") if lines else "no message"
    if code is None:
        how = "its machine was lost"
    else:
        how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{last} ({how}; full log: {log})"
