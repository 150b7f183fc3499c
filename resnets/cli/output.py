"""Standard output and error, which may be closed, full, or unable to print a character."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


class OutputLost(OSError):
    """What was printed cannot be written: a closed pipe or terminal, or a full disk."""


class _Closed(io.StringIO):
    """A stream that was closed before this process began, as by `>&-` in a shell."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class _Output:
    """A text stream that raises `OutputLost` once, or nothing if it is `expendable`.

    Afterwards it prints to the null device.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.expendable = stream, False

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, action: Callable[..., object], *arguments: Any) -> None:
        try:
            action(*arguments)
        except OSError as error:
            self._discard()
            if not self.expendable:
                raise OutputLost(error.errno, error.strerror) from error
        except RuntimeError:  # a signal handler prints while the same stream is written
            if not self.expendable:
                raise

    def _discard(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Give this process three standard streams, which print any character, if need be escaped.

    Inside the block, `sys.stdout` and `sys.stderr` raise `OutputLost` if they cannot be written. A
    closed standard error is the exception: as with Unix tools, its messages are not the answer.
    """
    for number in range(3):  # a closed one would be given to the next file that is opened
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin = sys.stdin or io.StringIO()
    sys.stdout = _watch(sys.stdout or _Closed())
    sys.stderr = _watch(sys.stderr or io.StringIO())
    try:
        yield
    finally:
        with contextlib.suppress(OutputLost):
            sys.stdout.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _watch(stream: TextIO) -> _Output:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return _Output(stream)


@contextlib.contextmanager
def expendable() -> Iterator[None]:
    """Let work go on if nobody reads its output any more, inside `watched`."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, _Output)]
    for stream in streams:
        stream.expendable = True
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
            stream.expendable = False
