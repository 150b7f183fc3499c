"""Jobs on the machines of a Ray cluster; all state is in folders that the machines share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from resnets.support import ray_cluster
from resnets.support.errors import UserError


class RayPool:
    """Runs each command as a process on any machine of the cluster that has room.

    The machines must have the same Python and packages at the same paths, and share a disk with
    the current folder.

    Args:
        address: of the cluster, for example `auto` on one of its machines or `HOST:6379`; if
            None, that in `RAY_ADDRESS`, or this machine alone.
        cpus_per_job: CPU cores for a job.
        gpus_per_job: GPUs for a job; with 0.5 two jobs share a GPU.

    Raises:
        UserError: if Ray is not installed, the cluster does not answer, or none of its machines
            could ever run a job.
    """

    def __init__(self, address: str | None, cpus_per_job: int, gpus_per_job: float) -> None:
        ray = self._ray = ray_cluster.connect(address)
        # By value: on a machine without this package `run` fails, with a clear message.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        wanted = {"CPU": cpus_per_job, "GPU": gpus_per_job}
        if not any(_has_room(node, wanted) for node in ray.nodes()):
            ray.shutdown()
            raise UserError(
                f"no machine of the Ray cluster has {cpus_per_job} CPUs and {gpus_per_job:g} GPUs",
                hint="request less, or start a machine that has it",
            )
        self._worker = ray.remote(_Worker).options(
            num_cpus=cpus_per_job, num_gpus=gpus_per_job, max_concurrency=2, max_restarts=0
        )
        self._workers: dict[str, Any] = {}
        self._codes: dict[Any, str] = {}

    def start(
        self, key: str, command: list[str], environment: dict[str, str], output: Path, log: Path
    ) -> None:
        """Start a command as soon as a machine has room, with our `RESNETS_...` variables."""
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
        """See `Pool.finished`; raises `UserError` if a machine could not run a command at all."""
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
                "all machines need the same Python and packages, and a disk that they share",
            ) from error
        except self._ray.exceptions.RayError:
            return key, None
        finally:
            self._ray.kill(worker)  # its CPUs and GPUs are free for others

    def stop(self) -> None:
        """Interrupt the running commands (SIGINT), wait until they have saved, and leave Ray."""
        interrupts = {key: worker.interrupt.remote() for key, worker in self._workers.items()}
        if interrupts:
            self._ray.wait(
                list(interrupts.values()),
                num_returns=len(interrupts),
                timeout=ray_cluster.ANSWER,
            )
        for code, key in self._codes.items():
            running, _ = self._ray.wait([interrupts[key]], timeout=0)
            if running:  # the others have not started
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
    """Runs one command on a machine of the cluster; `run` and `interrupt` are two threads."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def run(
        self, command: list[str], environment: dict[str, str], folder: str, output: str, log: str
    ) -> int:
        from resnets.support.signal_handlers import listen_in_child

        with Path(output).open("wb") as out, Path(log).open("ab") as err:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=partial(listen_in_child, unblock=True),
            )
        if self._stopped:
            self.interrupt()
        return self._process.wait()

    def interrupt(self) -> None:
        self._stopped = True
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
