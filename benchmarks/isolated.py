"""A contender in a process of its own, as its users run it, with nothing of ours in it.

Our training changes settings of its whole process, such as the memory allocator's, which would help
whoever runs beside it.
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


class Apart:
    """What `make(*arguments)` gives, run over there at every call.

    Args:
        make: a function at the top of a module, called at the first run.
        arguments: for it; they are pickled.
    """

    def __init__(self, make: Callable[..., Run], *arguments: object) -> None:
        self._make, self._arguments = make, arguments
        self._started: tuple[Connection, BaseProcess] | None = None

    def __call__(self) -> None:
        """One run.

        Raises:
            RuntimeError: if it failed, or its process ended.
        """
        self._ask("run")

    def finish(self) -> None:
        """Wait until the GPU over there has done what it was given."""
        self._ask("finish")

    def _ask(self, what: str) -> None:
        new = self._started is None
        if self._started is None:
            context = multiprocessing.get_context("spawn")
            pipe, there = context.Pipe()
            usual = multiprocessing.get_start_method()
            process = context.Process(target=_serve, args=(there, usual))
            self._started = pipe, process  # before it starts: an interrupt may come meanwhile
            with _interrupts_wait():
                process.start()
            there.close()
        pipe, _ = self._started
        try:
            if new:
                pipe.send((self._make, self._arguments))
            pipe.send(what)
            failure = pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("a contender's process has ended") from error
        if failure:
            raise RuntimeError(failure)

    def close(self) -> None:
        """End the process, if there is one, and those that it started, such as data loaders.

        At once, whatever they do: they leave nothing behind, and an interrupted user waits.
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
def _interrupts_wait() -> Iterator[None]:
    """Keep Ctrl-C from what is started until it has left for a group of its own."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it would let interrupts in again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, start_method: str) -> None:
    """Does what it is told to, until the other side ends.

    What to do comes by the pipe, because importing it takes seconds.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side decides
    multiprocessing.set_start_method(start_method, force=True)  # of data loaders: the usual one
    run: Run | None = None
    with contextlib.suppress(EOFError, OSError):
        make, arguments = pipe.recv()
        while what := pipe.recv():
            try:
                run = run or make(*arguments)
                run() if what == "run" else _wait()
                pipe.send("")
            except Exception as error:
                pipe.send(f"{type(error).__name__}: {error}")


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
