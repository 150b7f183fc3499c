"""Files that are either whole or absent, and the folders for caches."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from resnets.support.errors import UserError


def cache_folder(*parts: str) -> Path:
    """The platform's cache folder for this package; `RESNETS_CACHE` overrides it."""
    override = os.environ.get("RESNETS_CACHE")
    if override:
        base = Path(override)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches" / "resnets"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "resnets" / "cache"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resnets"
    return base.joinpath(*parts)


def existing_folder(path: Path, hint: str = "") -> Path:
    """`path`, if it is a folder; raises `UserError` if it is not."""
    if not path.is_dir():
        raise UserError("not a folder" if path.exists() else "no such folder", str(path), hint)
    return path


def refuse_unwritable(path: Path | None, option: str = "") -> None:
    """Raise `UserError` if a file at `path` could not be written for lack of a folder.

    Args:
        path: the file to be written; nothing is checked for None.
        option: the option that gave it, for the message.
    """
    if path is None:
        return
    if path.is_dir():
        raise UserError("is a folder", f"{option} {path}".strip(), "give the name of a file")
    if not path.absolute().parent.is_dir():
        raise UserError("no such folder", str(path.parent), "make it first")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write at `path` into a `UserError`."""
    try:
        yield
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        there = next(place for place in (path, *path.parents) if os.path.lexists(place))
        kind = "folder" if there.is_dir() else "file"
        raise UserError(
            f"cannot write: the {kind} {there} is in the way",
            str(path),
            "move it away or give another name",
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write: {reason}", str(path), "free space or choose a writable folder"
        ) from error


def make_folder(path: Path) -> Path:
    """Create `path` and its parents.

    Raises:
        UserError: if the system refuses.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` on a temporary file beside `path`, sync it, then rename it to `path`.

    Raises:
        UserError: if the folder is read-only or the disk full; `path` is then untouched.
    """
    with writing(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's content, or a folder's renames, survive a power cut, where systems allow it."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically write `content`; raises `UserError` like `atomic_write`."""
    atomic_write(path, lambda file: file.write(content))


def write_json(path: Path, value: Any) -> None:
    """Atomically write `value` as indented JSON; raises `UserError` like `atomic_write`."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())
