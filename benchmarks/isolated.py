"""Contenders in processes of their own.

Our training changes settings of its whole process, such as the memory allocator's. A peer in the
same process would profit from them, which its users do not.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from resnets.support.timing import Run


class IsolatedContender:
    """Calls the function that `make(*arguments)` returns, in another process.

    Args:
        make: a function at the top level of a module; called in that process before the first run.
        arguments: of `make`; they are pickled.
    """

    def __init__(self, make: Callable[..., Run], *arguments: object) -> None:
        self._make, self._arguments = make, arguments
        self._started: tuple[Connection, BaseProcess] | None = None

    def __call__(self) -> None:
        """Run once.

        Raises:
            RuntimeError: if the run failed, or the process ended.
        """
        self._send("run")

    def finish(self) -> None:
        """Wait until the GPU of that process is idle."""
        self._send("finish")

    def _send(self, command: str) -> None:
        new = self._started is None
        if self._started is None:
            context = multiprocessing.get_context("spawn")
            pipe, other_end = context.Pipe()
            usual = multiprocessing.get_start_method()
            process = context.Process(target=_serve, args=(other_end, usual))
            self._started = pipe, process  # before it starts, for an interrupt may come meanwhile
            with _interrupts_blocked():
                process.start()
            other_end.close()
        pipe, _ = self._started
        try:
            if new:
                pipe.send((self._make, self._arguments))
            pipe.send(command)
            failure = pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("a contender's process has ended") from error
        if failure:
            raise RuntimeError(failure)

    def close(self) -> None:
        """Kill the process, if there is one, and those that it started, such as data loaders.

        Killing is quick, for an interrupted user waits, and safe, for they write no files.
        """
        if self._started is None:
            return
        pipe, process = self._started
        pipe.close()
        if process.pid is None or process.exitcode is not None:
            return
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):  # no group yet, or ended
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C for a new process until it has its own process group."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it later would unblock interrupts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, start_method: str) -> None:
    """Execute the commands that come through the pipe, until its other end is closed.

    The function comes through the pipe too, because importing its module takes seconds.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides
    multiprocessing.set_start_method(start_method, force=True)  # for data loaders
    run: Run | None = None
    with contextlib.suppress(EOFError, OSError):
        make, arguments = pipe.recv()
        while command := pipe.recv():
            try:
                run = run or make(*arguments)
                run() if command == "run" else _synchronize()
                pipe.send("")
            except Exception as error:
                pipe.send(f"{type(error).__name__}: {error}")


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
