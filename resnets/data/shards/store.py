"""Files of shards: in a local folder, or at a URL from which they are downloaded when needed."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from resnets.support.download import SourceFailed, chunks, failures, opened
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, cache_folder, locked, make_folder

CACHE_LIMIT = "RESNETS_SHARD_CACHE_GB"
"""Environment variable: gigabytes that downloaded shards may occupy."""

HINT = "copy or write the shards again"
_URL_HINT = "check the URL and the network"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_RETRY_PAUSES = (0.5, 2.0)  # seconds before the second and third attempt
_TOUCH_EVERY = 30.0  # seconds between two updates of a shard's time of last use
_SECONDS = 60.0  # to wait for a server, each time


@dataclass(frozen=True)
class ShardFile:
    """A shard, or the index of a split.

    Args:
        name: relative to the folder of the shards.
        size: in bytes; None for shards from other writers, whose size is not known.
        sha256: of its content; empty for shards from other writers.
        images: number of images.
    """

    name: str
    size: int | None
    sha256: str
    images: int

    @staticmethod
    def from_json(values: dict[str, Any], location: str, trusted: bool = False) -> ShardFile:
        """Check the description of a file; `trusted` ones may name any path or URL.

        Raises:
            UserError: if the name could lead out of the folder of the shards.
            KeyError, TypeError: if a value is missing or has the wrong type.
        """
        file = ShardFile(values["file"], values["bytes"], values["sha256"], values["images"])
        if not (isinstance(file.size, int) or (trusted and file.size is None)):
            raise TypeError("bytes")
        if not trusted and not _PLAIN_NAME.fullmatch(file.name):
            message = f"{file.name!r} is not a plain file name"
            raise UserError(message, location, "do not trust these shards")
        return file

    def to_json(self) -> dict[str, Any]:
        """The values that `from_json` reads."""
        return {
            "file": self.name,
            "bytes": self.size,
            "sha256": self.sha256,
            "images": self.images,
        }

    def check_size(self, size: int, location: str, hint: str = HINT) -> None:
        """Raise `UserError` if a file does not have the described size."""
        if self.size is not None and size != self.size:
            fault = "is truncated" if size < self.size else "is not the one that was written"
            message = f"the shard {fault}: {size:,} of {self.size:,} bytes"
            raise UserError(message, location, hint)


class Store(Protocol):
    """Access to the files of a set of shards; safe in threads and processes."""

    location: str
    """The folder or URL."""

    remote: bool
    """Whether files are downloaded, so that few of them should be needed at a time."""

    hint: str
    """What to do about a shard whose content does not match the index."""

    def path(self, file: ShardFile) -> Path:
        """The local path of a file, downloaded if necessary.

        Raises:
            UserError: if it cannot be downloaded, or the download is damaged.
        """


class FolderStore:
    """Shards in a local folder."""

    remote = False
    hint = HINT

    def __init__(self, folder: Path) -> None:
        self.folder, self.location = folder, str(folder)

    def path(self, file: ShardFile) -> Path:
        return self.folder / file.name

    def check(self, files: list[ShardFile]) -> None:
        """Raise `UserError` for the first file that is missing or has another size."""
        for file in files:
            path = self.path(file)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise UserError("the shard is missing", str(path), HINT) from error
            file.check_size(size, str(path))


class UrlStore:
    """Shards at a URL, kept in the cache folder once they are downloaded.

    Args:
        url: of the folder, without a slash at its end.
        version: distinguishes this content from other content at the same URL; may be empty.
    """

    remote = True

    def __init__(self, url: str, version: bytes = b"") -> None:
        self.location = url
        digest = hashlib.sha256(url.encode() + b"\0" + version).hexdigest()[:24]
        self.folder = cache_folder("shards", digest)
        self.hint = HINT
        if not version:  # a change of the shards at the URL cannot be detected
            self.hint = f"if the shards changed, delete {cache_folder('shards')}"
        self._touched: dict[str, float] = {}

    def path(self, file: ShardFile) -> Path:
        path = self.folder / file.name
        if "://" in file.name:
            digest = hashlib.sha256(file.name.encode()).hexdigest()[:16]
            path = self.folder / f"{digest}-{file.name.rpartition('/')[2]}"
        now = time.monotonic()
        if now - self._touched.get(file.name, -_TOUCH_EVERY) < _TOUCH_EVERY and path.exists():
            return path
        if not self._is_complete(path, file):
            make_folder(path.parent)
            with locked(path.with_name(f".{path.name}.lock")):
                if not self._is_complete(path, file):
                    self._download(path, file)
                    enforce_cache_limit(path)
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used shards are deleted first
        self._touched[file.name] = now
        return path

    @staticmethod
    def _is_complete(path: Path, file: ShardFile) -> bool:
        try:
            return path.stat().st_size == file.size or file.size is None
        except OSError:
            return False

    def _download(self, path: Path, file: ShardFile) -> None:
        url = join_url(self.location, file.name)

        def write(target: IO[bytes]) -> None:
            for pause in (*_RETRY_PAUSES, None):
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

    def _copy(self, url: str, target: IO[bytes], file: ShardFile) -> None:
        digest = hashlib.sha256()
        with _failures(url), _open(url) as source:
            for chunk in chunks(source, seconds=math.inf):
                digest.update(chunk)
                target.write(chunk)
        file.check_size(target.tell(), url, self.hint)
        if file.sha256 and digest.hexdigest() != file.sha256:
            raise UserError("the shard is damaged: its SHA-256 differs", url, HINT)


def join_url(base: str, file: str) -> str:
    """The URL of a file below `base`; `file` itself if it is a URL."""
    return file if "://" in file else f"{base}/{file}"


@contextlib.contextmanager
def _failures(url: str) -> Iterator[None]:
    """Turn a failed download, also by fsspec, into a `UserError`."""
    try:
        with failures():
            yield
    except SourceFailed as failure:
        raise UserError(str(failure), url, _URL_HINT) from failure


def _open(url: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Open a `file`, `http` or `https` URL, or any other that fsspec supports, for reading."""
    scheme = url.partition("://")[0]
    if scheme in ("file", "http", "https"):
        return opened(url, _SECONDS)
    try:
        import fsspec
    except ImportError as error:
        raise UserError(f"{scheme}:// URLs need fsspec", url, "pip install fsspec") from error
    try:
        file: contextlib.AbstractContextManager[IO[bytes]] = fsspec.open(url, "rb")
    except ImportError as error:
        hint = "install the package that the message names, such as s3fs"
        raise UserError(f"fsspec needs a plugin ({error})", url, hint) from error
    return file


def read_url(url: str) -> bytes:
    """The whole content of a small file.

    Raises:
        UserError: if it cannot be reached, the connection breaks off, or its scheme is unknown.
    """
    with _failures(url), _open(url) as source:
        return b"".join(chunks(source))


def cache_limit() -> float | None:
    """Bytes that downloaded shards may occupy, from `RESNETS_SHARD_CACHE_GB`; None for no limit.

    Raises:
        UserError: if the variable is not a positive number.
    """
    text = os.environ.get(CACHE_LIMIT)
    if not text:
        return None
    try:
        gigabytes = float(text)
        if not gigabytes > 0:
            raise ValueError
    except ValueError as error:
        raise UserError(f"{text!r} is not a positive number of gigabytes", CACHE_LIMIT) from error
    return gigabytes * 1e9


def enforce_cache_limit(newest: Path) -> None:
    """Delete the least recently used shards, except `newest`, until the limit is respected."""
    limit = cache_limit()
    if limit is None:
        return
    root = make_folder(cache_folder("shards"))
    with locked(root / ".bound.lock"):
        shards = []
        for path in root.rglob("*.tar"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                shards.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in shards)
        for _, size, path in sorted(shards):
            if total <= limit:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                total -= size
