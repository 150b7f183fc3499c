"""Jobs on the machines of a Ray cluster; all state lies in folders that the machines share."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from resnets.support import ray_cluster
from resnets.support.errors import UserError


class RayPool:
    """Runs each job as a process on whichever machine of the cluster has room.

    The machines must have the same Python and package at the same place, and the working folder
    on a disk that they share.

    Args:
        address: of the cluster, for example `auto` on one of its machines or `HOST:6379`; if
            None, that in `RAY_ADDRESS`, or this machine alone.
        cpus_per_job: CPU cores that a job gets.
        gpus_per_job: GPUs that a job gets; 0.5 lets two share one.

    Raises:
        UserError: if Ray is not installed, the cluster does not answer, or none of its machines
            could ever run a job.
    """

    def __init__(self, address: str | None, cpus_per_job: int, gpus_per_job: float) -> None:
        ray = self._ray = ray_cluster.connect(address)
        # So that only the commands need this package on the machines, and can tell its absence.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        wanted = {"CPU": cpus_per_job, "GPU": gpus_per_job}
        if not any(_has_room(node, wanted) for node in ray.nodes()):
            ray.shutdown()
            raise UserError(
                f"no machine of the Ray cluster has {cpus_per_job} CPUs and {gpus_per_job:g} GPUs",
                hint="ask for less, or start one that has",
            )
        self._worker = ray.remote(_Worker).options(
            num_cpus=cpus_per_job, num_gpus=gpus_per_job, max_concurrency=2, max_restarts=0
        )
        self._workers: dict[str, Any] = {}
        self._codes: dict[Any, str] = {}

    def start(
        self, key: str, command: list[str], environment: dict[str, str], output: Path, log: Path
    ) -> None:
        """Begin a command as soon as a machine has room.

        Args:
            key: what the job is called.
            command: program and arguments; it runs in this working folder.
            environment: variables besides the machine's own and our `RESNETS_...`.
            output: a new file for what it prints.
            log: file to which what it tells is added.
        """
        ours = {k: v for k, v in os.environ.items() if k.startswith("RESNETS_")}
        worker = self._worker.remote()
        code = worker.run.remote(
            command,
            {**ours, **environment},
            str(Path.cwd()),
            str(output.absolute()),
            str(log.absolute()),
        )
        self._workers[key] = worker
        self._codes[code] = key

    def finished(self, timeout: float) -> list[tuple[str, int | None]]:
        """Jobs that ended since the last call and their exit codes.

        The code is None if the machine was lost: the job may be started again. Waits up to
        `timeout` seconds for the first.

        Raises:
            UserError: if a machine could not run a command at all.
        """
        if not self._codes:
            time.sleep(timeout)
            return []
        self._ray.wait(list(self._codes), num_returns=1, timeout=timeout)
        done, _ = self._ray.wait(list(self._codes), num_returns=len(self._codes), timeout=0)
        return [self._ended(code) for code in done]

    def _ended(self, code: Any) -> tuple[str, int | None]:
        key = self._codes.pop(code)
        worker = self._workers.pop(key)
        try:
            return key, int(self._ray.get(code))
        except self._ray.exceptions.RayTaskError as error:
            raise UserError(
                f"a machine of the cluster could not run it ({error.cause})",
                key,
                "all machines need the same Python, and the folders on a disk that they share",
            ) from error
        except self._ray.exceptions.RayError:
            return key, None
        finally:
            self._ray.kill(worker)  # its CPUs and GPUs are free for others

    def stop(self) -> None:
        """Have what is running save and end (SIGINT), wait for it, and leave Ray."""
        asked = {key: worker.interrupt.remote() for key, worker in self._workers.items()}
        if asked:
            self._ray.wait(list(asked.values()), num_returns=len(asked), timeout=ray_cluster.ANSWER)
        for code, key in self._codes.items():
            answered, _ = self._ray.wait([asked[key]], timeout=0)
            if answered:  # others have not begun
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.get(code)
            self._ray.kill(self._workers[key])
        self._workers.clear()
        self._codes.clear()
        self._ray.shutdown()


def _has_room(node: dict[str, Any], wanted: dict[str, float]) -> bool:
    has = node["Resources"]
    return node["Alive"] and all(has.get(name, 0) >= count for name, count in wanted.items())


class _Worker:
    """Lives on a machine of the cluster for one job; `run` and `interrupt` are two threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(
        self, command: list[str], environment: dict[str, str], folder: str, output: str, log: str
    ) -> int:
        with Path(output).open("wb") as out, Path(log).open("ab") as err:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=_hear_signals,
            )
        if self._stopped:
            self.interrupt()
        return self._process.wait()

    def interrupt(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)


def _hear_signals() -> None:
    """Undo that Ray's processes block SIGINT; save and end if Ray's process is gone (Linux)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
