"""Temporary handlers of POSIX signals, and the POSIX signals of child processes."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


STOPPING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU")
    if hasattr(signal, name)
)
"""Signals that end a work that can be resumed: Ctrl-C, `kill`, a closed terminal, and those that
batch systems such as Slurm send before a time limit."""


@contextmanager
def handling(handler: Callable[[int], None], *numbers: signal.Signals) -> Iterator[None]:
    """Call `handler` with the number of each of these signals that arrives inside the block.

    The previous handlers are restored at the end. `nohup`, which ignores SIGHUP, stays in force.
    Only the main thread may use this.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        handler(number)

    before = {
        number: signal.signal(number, handle)
        for number in numbers
        if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def listen_in_child(unblock: bool = False) -> None:
    """Receive SIGINT, and end with the parent; called in a child process before its command.

    Shells have background commands ignore SIGINT, which this undoes. On Linux the child receives
    SIGTERM when its parent is killed.

    Args:
        unblock: also unblock SIGINT and SIGTERM, which Ray's processes block.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if unblock:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
