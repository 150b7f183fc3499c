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

from resnets.support.turns import Run


class Apart:
    """What `make(*arguments)` gives, run over there at every call.

    Args:
        make: a function at the top of a module; what it raises is raised at the first call.
        arguments: for it; they are pickled.
    """

    def __init__(self, make: Callable[..., Run], *arguments: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, arguments))
        self._process.start()
        there.close()

    def __call__(self) -> None:
        """One run.

        Raises:
            RuntimeError: if it failed, or its process ended.
        """
        try:
            self._pipe.send(True)
            failure = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("a contender's process has ended") from error
        if failure:
            raise RuntimeError(failure)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._pipe.send(False)
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Connection, make: Callable[..., Run], arguments: tuple[object, ...]) -> None:
    """Runs when told to, until the other side ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side decides
    run: Run | None = None
    with contextlib.suppress(EOFError, OSError):
        while pipe.recv():
            try:
                run = run or make(*arguments)
                run()
                pipe.send("")
            except Exception as error:
                pipe.send(f"{type(error).__name__}: {error}")
