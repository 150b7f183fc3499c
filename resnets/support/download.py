"""Downloads: from a URL, or as an npm package, whose mirrors many firewalls let through."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from resnets.support.errors import one_line

CONNECT_SECONDS = 15
DOWNLOAD_SECONDS = 1800
SLOW_AFTER_SECONDS, SLOW_BYTES_PER_SECOND = 20, 200_000


class SourceFailed(Exception):
    """A download failed; the message says why in a few words."""


def download(url: str, path: Path, begun: Callable[[], None] = lambda: None) -> Path:
    """Download `url` to `path`; gives up if it is too slow.

    Args:
        url: what to download.
        path: the file to write.
        begun: called when the host has answered.

    Raises:
        SourceFailed: if the host cannot be reached, or the download breaks off or is too slow.
    """
    start, received = time.monotonic(), 0
    try:
        with (
            path.open("wb") as file,
            urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as response,
        ):
            begun()
            while chunk := response.read1(1 << 16):  # what has arrived, without waiting for more
                file.write(chunk)
                received += len(chunk)
                elapsed = time.monotonic() - start
                slow = received < elapsed * SLOW_BYTES_PER_SECOND
                if elapsed > DOWNLOAD_SECONDS or (elapsed > SLOW_AFTER_SECONDS and slow):
                    raise SourceFailed(f"too slow ({received / elapsed / 1000:.0f} kB/s)")
            expected = response.headers["Content-Length"]
    except urllib.error.URLError as error:
        reason = error.reason
        why = one_line(reason) if isinstance(reason, OSError) else reason
        raise SourceFailed(f"cannot be reached ({why})") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise SourceFailed(f"download failed ({one_line(error)})") from error
    if expected is not None and received != int(expected):
        raise SourceFailed(f"broke off after {received:,} of {int(expected):,} bytes")
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
