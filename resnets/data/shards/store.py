"""Where shards lie: a folder, or an address from which they are fetched when they are needed."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from filelock import FileLock

from resnets.data.shards.index import HINT, File
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, cache_folder, make_folder

BOUND = "RESNETS_SHARD_CACHE_GB"
_PAUSES = (0.5, 2.0)  # seconds before the second and third attempt
_TOUCH_EVERY = 30.0  # seconds between two notes that a shard is in use
_PIECE = 1 << 20
_MEND = "check the address and the network"


class Store(Protocol):
    """Gives the files of a set of shards; safe in threads and processes."""

    where: str
    windowed: bool
    """Whether few shards should be needed at a time."""

    hint: str
    """How to hint a shard that is not what its index says."""

    def path(self, file: File) -> Path:
        """The file on this machine; raises `UserError` if it is absent or damaged."""


class FolderStore:
    """Shards in a folder of this machine."""

    windowed = False
    hint = HINT

    def __init__(self, folder: Path) -> None:
        self.folder, self.where = folder, str(folder)

    def path(self, file: File) -> Path:
        return self.folder / file.file

    def check(self, files: list[File]) -> None:
        """Raise `UserError` for the first file that is missing or of another size."""
        for file in files:
            path = self.path(file)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise UserError("the shard is missing", str(path), HINT) from error
            refuse_size(size, file, str(path))


class WebStore:
    """Shards at an address, kept in the cache folder once they were needed.

    Args:
        url: the folder's address, without a slash at its end.
        key: what tells this content from another at the same address, if anything does.
    """

    windowed = True

    def __init__(self, url: str, key: bytes = b"") -> None:
        self.where = url
        digest = hashlib.sha256(url.encode() + b"\0" + key).hexdigest()[:24]
        self.folder = cache_folder("shards", digest)
        self.hint = HINT
        if not key:  # nobody tells when shards of others change
            self.hint = f"if the shards changed, delete {cache_folder('shards')}"
        self._touched: dict[str, float] = {}

    def path(self, file: File) -> Path:
        path = self.folder / file.file
        if "://" in file.file:
            digest = hashlib.sha256(file.file.encode()).hexdigest()[:16]
            path = self.folder / f"{digest}-{file.file.rpartition('/')[2]}"
        now = time.monotonic()
        if now - self._touched.get(file.file, -_TOUCH_EVERY) < _TOUCH_EVERY and path.exists():
            return path
        if not self._whole(path, file):
            make_folder(path.parent)
            with FileLock(path.with_name(f".{path.name}.lock")):
                if not self._whole(path, file):
                    self._fetch(path, file)
                    keep_within_bound(path)
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used go first
        self._touched[file.file] = now
        return path

    @staticmethod
    def _whole(path: Path, file: File) -> bool:
        try:
            return path.stat().st_size == file.bytes or (file.bytes is None)
        except OSError:
            return False

    def _fetch(self, path: Path, file: File) -> None:
        url = address(self.where, file.file)

        def write(target: IO[bytes]) -> None:
            for pause in (*_PAUSES, None):
                target.seek(0)
                target.truncate()
                try:
                    self._copy(url, target, file)
                    return
                except UserError:
                    if pause is None:
                        raise
                    time.sleep(pause)

        atomic_write(path, write)

    def _copy(self, url: str, target: IO[bytes], file: File) -> None:
        digest = hashlib.sha256()
        with opened(url) as source:
            while piece := source.read(_PIECE):
                digest.update(piece)
                target.write(piece)
            if getattr(source, "length", 0):  # what the server announced and did not send
                raise UserError("the connection broke off", url, _MEND)
        refuse_size(target.tell(), file, url, self.hint)
        if file.sha256 and digest.hexdigest() != file.sha256:
            raise UserError("the shard is damaged: its SHA-256 differs", url, HINT)


def refuse_size(size: int, file: File, where: str, hint: str = HINT) -> None:
    """Raise `UserError` if a file has not the size that it should have."""
    if file.bytes is not None and size != file.bytes:
        what = "is truncated" if size < file.bytes else "is not the one that was written"
        raise UserError(f"the shard {what}: {size:,} of {file.bytes:,} bytes", where, hint)


def address(base: str, file: str) -> str:
    """The address of a file below `base`, or the file's own where it is one."""
    return file if "://" in file else f"{base}/{file}"


@contextlib.contextmanager
def opened(url: str) -> Iterator[IO[bytes]]:
    """The content behind an address: file, http and https, others by fsspec.

    Raises:
        UserError: if it cannot be reached, breaks off, or its kind is not known.
    """
    try:
        with _open(url) as source:
            yield source
    except urllib.error.HTTPError as error:
        raise UserError(f"cannot be fetched ({error.code} {error.reason})", url, _MEND) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise UserError(f"cannot be fetched ({reason})", url, _MEND) from error


def _open(url: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    if url.partition("://")[0] in ("file", "http", "https"):
        answer: IO[bytes] = urllib.request.urlopen(url, timeout=60)
        return contextlib.closing(answer)
    try:
        import fsspec
    except ImportError as error:
        raise UserError("this kind of address needs fsspec", url, "pip install fsspec") from error
    try:
        found: contextlib.AbstractContextManager[IO[bytes]] = fsspec.open(url, "rb")
    except ImportError as error:
        hint = "pip install what it names, such as s3fs"
        raise UserError(f"fsspec needs a plugin ({error})", url, hint) from error
    return found


def fetched(url: str) -> bytes:
    """The whole of a small file; raises like `opened`."""
    with opened(url) as source:
        return source.read()


def bound() -> float | None:
    """Bytes that cached shards may take up, or None."""
    text = os.environ.get(BOUND)
    if not text:
        return None
    try:
        value = float(text)
        if not value > 0:
            raise ValueError
    except ValueError as error:
        raise UserError(f"{text!r} is no number of gigabytes", BOUND) from error
    return value * 1e9


def keep_within_bound(newest: Path) -> None:
    """Delete the least recently used shards, but not `newest`, until the bound is kept."""
    most = bound()
    if most is None:
        return
    root = make_folder(cache_folder("shards"))
    with FileLock(root / ".bound.lock"):
        shards = []
        for path in root.rglob("*.tar"):
            with contextlib.suppress(OSError):
                facts = path.stat()
                shards.append((facts.st_mtime_ns, facts.st_size, path))
        total = sum(size for _, size, _ in shards)
        for _, size, path in sorted(shards):
            if total <= most:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size
