"""Files that are written whole or not at all, text that people wrote, and the cache folder."""

from __future__ import annotations

import atexit
import codecs
import contextlib
import errno
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from resnets.support import unfinished
from resnets.support.errors import UserError, one_line, valid_utf8

if TYPE_CHECKING:
    from filelock import FileLock

LARGE_FILE_BYTES = 4 << 20
"""Digests of files of at least this size are remembered."""
CLOCK_STEP_SECONDS = 2.0
"""The coarsest step of modification times (FAT): two changes within it can look like one."""


_LOST = {errno.ENOSPC, errno.EDQUOT, errno.EIO}
"""Failures of a sync that mean lost content; others mean that the file system cannot sync."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}
"""Failures of a lock that mean that the file system has no locks."""


def expand_user(text: str) -> str:
    """`text` with a `~` at its start replaced by the home folder, as shells do.

    Raises:
        UserError: if this user has no home folder.
    """
    if text != "~" and not text.startswith("~/"):
        return text
    expanded = os.path.expanduser(text)  # noqa: PTH111 (a Path drops what follows a last slash)
    if expanded.startswith("~"):
        raise UserError("this user has no home folder", text, "give the whole path")
    return expanded


def cache_folder(*parts: str) -> Path:
    """A folder or file in the platform's cache folder for this package.

    `RESNETS_CACHE` overrides the folder. What it holds is read from it. Where it cannot be
    written, new files go to a temporary folder, which is deleted when the process ends.
    """
    base = _cache_base()
    if base is None:
        return temporary_cache("this user has no home folder").joinpath(*parts)
    if valid_utf8(str(base)) != str(base):
        return temporary_cache(f"{base}: engines need a name of UTF-8").joinpath(*parts)
    path = base.joinpath(*parts)
    if os.path.lexists(path) and os.access(path, os.R_OK):
        return path
    # Another user, perhaps root, may own a part of the cache.
    folder = next(one for one in path.parents if one == base or one.is_dir())
    obstacle = _obstacle(folder)
    return temporary_cache(f"{folder}: {obstacle}").joinpath(*parts) if obstacle else path


def _cache_base() -> Path | None:
    """The platform's cache folder for this package; None if it would be in a home that is none."""
    override = os.environ.get("RESNETS_CACHE")
    if override:
        return Path(expand_user(override))
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "resnets" / "cache"
    if sys.platform not in ("darwin", "win32") and (general := os.environ.get("XDG_CACHE_HOME")):
        return Path(expand_user(general)) / "resnets"
    home = _home()
    if home is None:
        return None
    if sys.platform == "win32":
        return home / "resnets" / "cache"
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "resnets"


def _home() -> Path | None:
    """This user's home folder.

    None for users without one: containers and services give them `/`, or a folder that does not
    exist, which only root could fill.
    """
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if home.is_dir() and home != home.parent else None


@cache
def _obstacle(folder: Path) -> str:
    """Why no file can be written below `folder`; empty if one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


@cache
def temporary_folder() -> Path:
    """A folder that is deleted when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="resnets-cache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def temporary_cache(reason: str) -> Path:
    """The temporary folder, as the cache, which one line on stderr announces."""
    folder = temporary_folder()
    if os.environ.get("RANK", "0") == "0":
        print(
            f"resnets: no cache ({valid_utf8(reason)}); a temporary one is used: "
            "set RESNETS_CACHE to another folder",
            file=sys.stderr,
        )
    return folder


def existing_folder(path: Path, hint: str = "") -> Path:
    """`path`, if it is a folder; raises `UserError` if it is not."""
    if not path.is_dir():
        raise UserError("not a folder" if path.exists() else "no such folder", str(path), hint)
    return path


def refuse_unwritable(path: Path | None, option: str = "", endings: Collection[str] = ()) -> None:
    """Raise `UserError` if no file can be written at `path`; checked before long work.

    Args:
        path: a file that will be written; None is not checked.
        option: the command-line option with the path, for the message.
        endings: of the files that it writes, in lower case, the usual one first; "" for none. Any
            other file, such as a photograph, would be replaced by mistake.
    """
    if path is None:
        return
    with writing(path):
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # raises if the name is too long
        if path.is_dir():
            raise UserError("is a folder", f"{option} {path}".strip(), "give the name of a file")
        refuse_device(path)
        if not path.absolute().parent.is_dir():
            raise UserError("no such folder", str(path.parent), "make it first")
        if endings and path.suffix.lower() not in endings:
            hint = f"give a name ending in {next(iter(endings))}"
            raise UserError("the ending does not fit this kind of file", f"{option} {path}", hint)
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            pass


def refuse_device(path: Path) -> None:
    """Raise `UserError` if `path` is a device or a pipe.

    A rename would replace it by a file, and reading it could wait forever.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError("is a device or a pipe", str(path), "give the name of a file")


def refuse_replacing(path: Path, force: bool = False) -> None:
    """Raise `UserError` if writing `path` would replace a file, unless that is wanted."""
    if not force and os.path.lexists(path):
        raise UserError("exists already", str(path), "give another name, or --force")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of writing at `path` into a `UserError`."""
    try:
        yield
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        blocking = next(one for one in (path, *path.parents) if os.path.lexists(one))
        kind = "folder" if blocking.is_dir() else "file"
        raise UserError(
            f"cannot write: the {kind} {blocking} is in the way",
            str(path),
            "move it away or give another name",
        ) from error
    except OSError as error:
        hint = _WRITE_HINTS.get(error.errno or 0, "free space or choose a writable folder")
        raise UserError(f"cannot write: {error.strerror or error}", str(path), hint) from error


_WRITE_HINTS = {
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EACCES: "choose a writable folder",
    errno.EROFS: "choose a writable folder",
    errno.ENOSPC: "free space or choose another folder",
    errno.EDQUOT: "free space or choose another folder",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def make_folder(path: Path) -> Path:
    """Create `path` and its parents, if they do not exist.

    Raises:
        UserError: if that fails.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def atomic_write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call `write` with an unfinished file in the folder of `path`, then rename it to `path`.

    The file is synced before, and its folder after. If this process is killed, the next one that
    writes in the folder deletes the unfinished file.

    Raises:
        UserError: if it cannot be written, for example on a full disk; `path` is then unchanged.
    """
    with writing(path):
        refuse_device(path)
        with unfinished.file(path) as (temporary, file):
            write(file)
            file.flush()
            _sync(file.fileno())
            file.close()  # Windows renames no open file
            with contextlib.suppress(OSError):  # some file systems have no permissions
                temporary.chmod(0o644)
            temporary.replace(path)
    with contextlib.suppress(OSError):  # the file is there
        sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the renames in a folder, to disk; on POSIX systems only.

    Raises:
        OSError: if content is lost. A file system that cannot sync is no error.
    """
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _LOST:
            raise


@contextlib.contextmanager
def locked(path: Path, busy: UserError | None = None, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file until the block, or this process, ends.

    On a file system without locks nothing keeps other processes out.

    Args:
        path: the lock file; it stays.
        busy: raised at once if another process holds the lock; by default this call waits.
        timeout: the most seconds to wait; negative for any time.

    Raises:
        UserError: `busy`, or if the file cannot be written.
        filelock.Timeout: after `timeout` seconds.
    """
    from filelock import Timeout  # costs milliseconds

    try:
        held = _acquire(path, timeout if busy is None else 0)
    except Timeout as error:
        if busy is None:
            raise
        raise busy from error
    try:
        yield
    finally:
        if held is not None:
            held.release()


def _acquire(path: Path, timeout: float) -> FileLock | None:
    """The lock, held; None on a file system without locks."""
    from filelock import FileLock, Timeout

    with writing(path):
        if not path.exists():  # filelock would retry where no file can be made
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o644))
    lock = FileLock(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "flock not supported")
            lock.acquire(timeout=timeout)
    except Timeout:
        raise
    except NotImplementedError:
        return None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        with writing(path):
            raise
    return lock


def read_text(path: Path, *, errors: str = "strict", hint: str = "") -> str:
    """The text of a file that a person wrote: UTF-8, with or without a byte order mark.

    Line ends are read as newlines.

    Args:
        path: the file.
        errors: what becomes of bytes that are not UTF-8, as in `bytes.decode`.
        hint: what to do if there is no such file.

    Raises:
        UserError: if the file cannot be read or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError("no such file", str(path), hint) from error
    except OSError as error:
        raise UserError(f"cannot be read ({one_line(error)})", str(path)) from error
    return decode_text(content, str(path), errors).replace("\r\n", "\n").replace("\r", "\n")


def decode_text(content: bytes, location: str, errors: str = "strict") -> str:
    """UTF-8 as text, without a byte order mark; line ends stay as they are.

    Raises:
        UserError: naming `location`, if it is UTF-16 or, unless `errors` allows it, not UTF-8.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:4096]:
        raise UserError("is not UTF-8 text (perhaps UTF-16)", location, "save it as UTF-8")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            "is not UTF-8 text", f"{location}, line {line}", "save it as UTF-8"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically write `content`; raises `UserError` like `atomic_write`."""
    atomic_write(path, lambda file: file.write(content))


def write_json(path: Path, value: Any) -> None:
    """Atomically write `value` as indented JSON; raises `UserError` like `atomic_write`."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def remember(path: Path, content: bytes) -> None:
    """Write a file in the cache that only saves time: without it, where it cannot be written."""
    with contextlib.suppress(UserError):
        make_folder(path.parent)
        write_bytes(path, content)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits; remembered like `remembered_digest`.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        return remembered_digest(path, "sha256", digest)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", str(path)) from error


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file; raises `OSError` if it cannot be read."""
    import hashlib  # costs milliseconds, which `resnets --help` does not have to wait for

    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def remembered_digest(path: Path, kind: str, compute: Callable[[Path], str]) -> str:
    """`compute(path)`, remembered in the cache folder until the file changes.

    A file counts as unchanged while its path, size, dates and inode are the same.
    Digests of small files, and of files that were modified a moment ago, are not remembered.
    Where the cache folder cannot be written, nothing is remembered.

    Args:
        path: the file.
        kind: name of the digest; change it when `compute` changes.
        compute: returns the digest of a file.

    Raises:
        OSError: if there is no such file.
        Exception: whatever `compute` raises.
    """
    import hashlib

    identity = _file_identity(path)
    if identity["size"] < LARGE_FILE_BYTES:
        return compute(path)
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    record = cache_folder("digests", f"{name}.json")
    digests = _recorded_digests(record, identity)
    if kind not in digests:
        digests[kind] = compute(path)
        settled = time.time() - identity["mtime_ns"] / 1e9 > CLOCK_STEP_SECONDS
        if settled and _file_identity(path) == identity:
            remember(record, json.dumps({"file": identity, "digests": digests}).encode())
    return digests[kind]


def _file_identity(path: Path) -> dict[str, Any]:
    facts = path.stat()
    return {
        "path": str(path.resolve()),
        "size": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
        "ctime_ns": facts.st_ctime_ns,  # which tools that preserve dates cannot set
        "inode": facts.st_ino,
    }


def _recorded_digests(record: Path, identity: dict[str, Any]) -> dict[str, str]:
    """Digests by kind; none if the record is missing, damaged or of another state."""
    try:
        known = json.loads(record.read_bytes())
        if known["file"] == identity:
            return {str(kind): str(digest) for kind, digest in known["digests"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    return {}
