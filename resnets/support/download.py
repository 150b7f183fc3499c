"""Downloads: from a URL, or as an npm package, whose mirrors many firewalls let through.

All that this package reads from the network comes through `opened` and `chunks`.
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from resnets.support.errors import UserError, one_line
from resnets.support.files import atomic_write
from resnets.version import __version__

CONNECT_SECONDS = 15
DOWNLOAD_SECONDS = 1800
SLOW_AFTER_SECONDS, SLOW_BYTES_PER_SECOND = 20, 200_000
REDIRECTS = 5
_RESERVED = ":/?#[]@!$&'()*+,;=%"  # characters with a meaning in a URL; others are escaped


class SourceFailed(Exception):
    """A download failed; the message says why in a few words."""


class TooLarge(SourceFailed):
    """A download has more bytes than allowed."""


@contextmanager
def failures() -> Iterator[None]:
    """Turn an error of the network into a `SourceFailed`."""
    try:
        yield
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400:
            raise SourceFailed(f"its redirects lead to no file ({error.code})") from error
        raise SourceFailed(f"the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        reason = error.reason
        why = one_line(reason) if isinstance(reason, OSError) else reason
        raise SourceFailed(f"cannot be reached ({why})") from error
    except http.client.IncompleteRead as error:
        raise SourceFailed("the connection broke off") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SourceFailed(f"the download failed ({one_line(error)})") from error


@contextmanager
def opened(url: str, timeout: float = CONNECT_SECONDS, accept: str = "*/*") -> Iterator[IO[bytes]]:
    """Open a `file`, `http` or `https` URL for reading.

    Args:
        url: may have characters that need an escape.
        timeout: the most seconds to wait for the host, each time.
        accept: media types that are wanted.

    Raises:
        SourceFailed: if it is malformed, cannot be reached, or reading it fails in the block.
    """
    headers = {"User-Agent": f"resnets/{__version__}", "Accept": accept}
    with failures():
        request = urllib.request.Request(_escaped(url), headers=headers)
        with urllib.request.build_opener(_Redirects).open(request, timeout=timeout) as response:
            yield response


def chunks(
    source: IO[bytes],
    *,
    most: int | None = None,
    seconds: float = DOWNLOAD_SECONDS,
    slow: float = 0.0,
) -> Iterator[bytes]:
    """The content of an open URL as it arrives.

    Args:
        source: of `opened`, or any other file.
        most: bytes that it may have.
        seconds: until all must have arrived.
        slow: the least bytes in a second, after `SLOW_AFTER_SECONDS`.

    Raises:
        TooLarge: if it has more bytes.
        SourceFailed: if it is too slow, or ends before the announced length.
    """
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)  # does not wait for more
    start, received = time.monotonic(), 0
    while chunk := read(1 << 16):
        received += len(chunk)
        if most is not None and received > most:
            raise TooLarge(f"more than {most:,} bytes")
        yield chunk
        elapsed = time.monotonic() - start
        if elapsed > seconds or (elapsed > SLOW_AFTER_SECONDS and received < elapsed * slow):
            raise SourceFailed(f"too slow ({received / elapsed / 1000:.0f} kB/s)")
    headers = getattr(source, "headers", None)
    expected = headers["Content-Length"] if headers is not None else None
    if expected is not None and received != int(expected):
        raise SourceFailed(f"broke off after {received:,} of {int(expected):,} bytes")


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise ValueError(f"it leads to {newurl[:100]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _escaped(url: str) -> str:
    """The URL in ASCII; raises ValueError if it is malformed."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        return url
    if not parts.hostname or parts.username is not None:
        raise ValueError("not the URL of a host without a password")
    host = parts.netloc.encode("idna").decode()
    path, query = (urllib.parse.quote(part, safe=_RESERVED) for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def download(url: str, path: Path, begun: Callable[[], None] = lambda: None) -> Path:
    """Download `url` to `path`, whole or not at all; gives up if it is too slow.

    Args:
        url: what to download.
        path: the file to write.
        begun: called when the host has answered.

    Raises:
        SourceFailed: if the host cannot be reached, the download breaks off or is too slow, or the
            file cannot be written.
    """
    with opened(url) as source:
        begun()
        content = chunks(source, slow=SLOW_BYTES_PER_SECOND)
        try:
            atomic_write(path, lambda file: file.writelines(content))
        except UserError as error:
            raise SourceFailed(str(error)) from error
    return path


def npm_pack(package: str, folder: Path, begun: Callable[[], None] = lambda: None) -> Path:
    """Download the archive of an npm package such as `name@1.0.0` into `folder`.

    Args:
        package: name and version.
        folder: where to write it.
        begun: called when npm starts.

    Raises:
        SourceFailed: if npm is not installed or fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise SourceFailed("npm is not installed")
    begun()
    try:
        subprocess.run(
            [npm, "pack", "--silent", package], cwd=folder, timeout=DOWNLOAD_SECONDS, check=True,
            capture_output=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return next(folder.glob("*.tgz"))
    except subprocess.TimeoutExpired as error:
        raise SourceFailed(f"no answer within {DOWNLOAD_SECONDS} s") from error
    except (subprocess.CalledProcessError, OSError, StopIteration) as error:
        raise SourceFailed("npm pack failed") from error
