"""Images on the web: downloads with limits of size, time and redirects."""

from __future__ import annotations

import threading

from resnets.data.images import ImageError
from resnets.support.download import SourceFailed, TooLarge, chunks, opened

SECONDS = 30.0
"""Until a URL has returned an image, redirects included."""


def fetch(url: str, max_bytes: int) -> bytes:
    """The content of an image file on the web, by HTTP or HTTPS.

    Raises:
        ImageError: if it cannot be downloaded, has more than `max_bytes`, takes more than
            `SECONDS`, or needs too many redirects.
    """
    # In a thread: nothing else bounds the time for all of it.
    results: list[bytes | Exception] = []

    def work() -> None:
        try:
            results.append(_download(url, max_bytes))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not results:
        raise ImageError("unreadable", f"no image within {SECONDS:g} seconds", url)
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def _download(url: str, max_bytes: int) -> bytes:
    try:
        with opened(url, SECONDS, "image/*") as source:
            return b"".join(chunks(source, most=max_bytes, seconds=SECONDS))
    except TooLarge as failure:
        raise ImageError("too-large", str(failure), url, "download it first") from failure
    except SourceFailed as failure:
        raise ImageError("unreadable", str(failure), url) from failure
