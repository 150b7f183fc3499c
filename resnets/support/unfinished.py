"""Unfinished files and folders, next to what they will become.

Each is locked while its process writes it. The system lifts the lock when the process ends, however
it ends: one without a lock is a leftover of a process that was killed. The first write of a process
in a folder removes the leftovers there. On a file system without locks they stay.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import IO

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

ENDING = ".resnets-unfinished"
"""How the names of unfinished files and folders end; they begin with a dot."""


class _Removed(Exception):
    """Another process took a new file for a leftover, before it was locked."""


@contextlib.contextmanager
def file(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new file in the folder of `path`, open for writing; deleted at the end unless renamed.

    Raises:
        OSError: if it cannot be made.
    """
    remove_leftovers(path.absolute().parent)

    def make() -> Path:
        # A name of 255 bytes must not become too long.
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name[:40]}.", suffix=ENDING
        )
        opened.append(os.fdopen(descriptor, "wb"))
        return Path(name)

    opened: list[IO[bytes]] = []
    made, lock = _locked(make)
    try:
        with opened[-1] as new:
            yield made, new
    finally:
        made.unlink(missing_ok=True)
        _close(lock)


@contextlib.contextmanager
def folder(path: Path) -> Iterator[Path]:
    """A new folder in the folder of `path`; deleted at the end with all that is in it.

    Raises:
        OSError: if it cannot be made.
    """
    parent = path.absolute().parent
    remove_leftovers(parent)
    made, lock = _locked(
        lambda: Path(tempfile.mkdtemp(dir=parent, prefix=f".{path.name[:40]}.", suffix=ENDING))
    )
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        _close(lock)


@cache
def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left in a folder, once for each process."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(".") and path.name.endswith(ENDING):
                with contextlib.suppress(_Removed):
                    _remove(path)


def _remove(path: Path) -> None:
    lock = _lock(path)
    if lock is None:  # nobody knows whether its process lives
        return
    try:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    finally:
        _close(lock)


def _locked(make: Callable[[], Path]) -> tuple[Path, int | None]:
    """What `make` made, with its lock."""
    while True:
        made = make()
        with contextlib.suppress(_Removed):
            return made, _lock(made)


def _lock(path: Path) -> int | None:
    """An open descriptor that holds the lock of a file or folder; None without locks.

    Raises:
        _Removed: if another process has the lock, or `path` is gone.
    """
    if fcntl is None:
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    except FileNotFoundError as error:
        raise _Removed from error
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino != os.fstat(descriptor).st_ino:
            raise FileNotFoundError
    except (BlockingIOError, FileNotFoundError) as error:
        os.close(descriptor)
        raise _Removed from error
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _close(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)
