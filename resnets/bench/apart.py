"""A contender in a process of its own, as its users run it, with nothing of ours in it.

Our training changes settings of its whole process, such as the memory allocator's, which would help
whoever runs beside it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from resnets.support.turns import Run


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
        if self._started is None:
            context = multiprocessing.get_context("spawn")
            pipe, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, self._make, self._arguments))
            process.start()
            there.close()
            self._started = pipe, process
        pipe, _ = self._started
        try:
            pipe.send(what)
            failure = pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("a contender's process has ended") from error
        if failure:
            raise RuntimeError(failure)

    def close(self) -> None:
        """End the process, if there is one."""
        if self._started is None:
            return
        pipe, process = self._started
        pipe.close()
        process.join(10)
        if process.is_alive():
            process.kill()


def _serve(pipe: Connection, make: Callable[..., Run], arguments: tuple[object, ...]) -> None:
    """Does what it is told to, until the other side ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side decides
    run: Run | None = None
    with contextlib.suppress(EOFError, OSError):
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
