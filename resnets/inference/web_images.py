"""Images on the web: downloads with limits of size, time and redirects."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import IO, Any

from resnets.data.images import ImageError
from resnets.version import __version__

SECONDS = 30.0
"""Until a URL has returned an image, redirects included."""
REDIRECTS = 5
_RESERVED = ":/?#[]@!$&'()*+,;=%"  # characters with a meaning in a URL; others are escaped


def fetch(url: str, max_bytes: int) -> bytes:
    """The content of an image file on the web, by HTTP or HTTPS.

    Raises:
        ImageError: if it cannot be downloaded, has more than `max_bytes`, takes more than
            `SECONDS`, or needs more than `REDIRECTS`.
    """
    # In a thread: nothing else bounds the time for all of it.
    results: list[bytes | Exception] = []
    until = time.monotonic() + SECONDS

    def work() -> None:
        try:
            results.append(_download(url, max_bytes, until))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not results:
        raise _too_slow(url)
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise ValueError(f"it leads to {newurl[:100]}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, max_bytes: int, until: float) -> bytes:
    try:
        request = urllib.request.Request(
            _escaped(url), headers={"User-Agent": f"resnets/{__version__}", "Accept": "image/*"}
        )
        with urllib.request.build_opener(_Redirects).open(request, timeout=SECONDS) as response:
            return _body(response, url, max_bytes, until)
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400:
            raise _unreadable(f"its redirects lead to no image ({error.code})", url) from error
        raise _unreadable(f"the server answered {error.code} {error.reason}", url) from error
    except urllib.error.URLError as error:
        raise _unreadable(f"cannot be reached ({error.reason})", url) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _unreadable(f"cannot be downloaded ({error})", url) from error


def _escaped(url: str) -> str:
    """The URL in ASCII; raises ValueError if it is malformed."""
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname or parts.username is not None:
        raise ValueError("not the URL of a host without a password")
    host = parts.netloc.encode("idna").decode()
    path, query = (urllib.parse.quote(part, safe=_RESERVED) for part in (parts.path, parts.query))
    return urllib.parse.urlunsplit((parts.scheme, host, path, query, ""))


def _body(response: Any, url: str, max_bytes: int, until: float) -> bytes:
    content = bytearray()
    while chunk := response.read1(1 << 16):  # what has arrived, without waiting for more
        content += chunk
        if len(content) > max_bytes:
            message = f"more than {max_bytes:,} bytes"
            raise ImageError("too-large", message, url, "download it first")
        if time.monotonic() > until:
            raise _too_slow(url)
    expected = response.headers["Content-Length"]
    if expected is not None and len(content) != int(expected):
        raise ValueError(f"it broke off after {len(content):,} of {int(expected):,} bytes")
    return bytes(content)


def _too_slow(url: str) -> ImageError:
    return _unreadable(f"no image within {SECONDS:g} seconds", url)


def _unreadable(message: str, url: str) -> ImageError:
    return ImageError("unreadable", message, url)
