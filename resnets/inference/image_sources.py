"""Images that are not files of this machine: standard input, and URLs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from resnets.support.errors import UserError

STANDARD_INPUT = "-"
MAX_BYTES = 32_000_000
"""Of standard input, or of what a URL returns."""
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


@dataclass(frozen=True)
class ImageContent:
    """An image file that has a name, but no path.

    Args:
        name: as the user gave it.
        read: returns the file's bytes; raises `UserError`.
    """

    name: str
    read: Callable[[], bytes]


def is_url(name: str) -> bool:
    """Whether a name has the form of a URL, such as `https://...`."""
    return _URL.match(name) is not None


def open_sources(files: Iterable[str], verb: str, *, redirect: bool) -> dict[str, ImageContent]:
    """The images among `files` that are not files, by name.

    Args:
        files: names.
        verb: of the command, for hints.
        redirect: whether results go to a file, which cannot be resumed for standard input.

    Raises:
        UserError: as `open_source`; for standard input with `redirect`.
    """
    names = [file for file in files if file == STANDARD_INPUT or is_url(file)]
    if STANDARD_INPUT in names and redirect:
        hint = "leave out --out, and redirect the output: --json > FILE"
        raise UserError("standard input has no name to resume from", STANDARD_INPUT, hint)
    return {name: open_source(name, verb) for name in names}


def open_source(name: str, verb: str = "predict") -> ImageContent:
    """The image behind `-` or a URL, which command `verb` needs.

    Standard input is read at once: in a thread, it could not be interrupted.

    Raises:
        UserError: if standard input cannot be read or is too large, or a URL is not one of
            HTTP. What a URL returns is checked when it is read.
    """
    if name == STANDARD_INPUT:
        content = _standard_input(verb)
        return ImageContent(name, lambda: content)
    scheme = name.partition(":")[0].lower()
    if scheme not in ("http", "https"):
        raise UserError(f"cannot open {scheme} URLs", name, "give http:// or https://")
    from resnets.inference.web_images import fetch  # costs milliseconds

    return ImageContent(name, lambda: fetch(name, MAX_BYTES))


def _standard_input(verb: str) -> bytes:
    hint = f"pipe an image: resnets {verb} MODEL {STANDARD_INPUT} < photo.jpg"
    if sys.stdin is None or sys.stdin.closed:
        raise UserError("standard input is closed", STANDARD_INPUT, hint)
    if sys.stdin.isatty():
        raise UserError("standard input is a terminal", STANDARD_INPUT, hint)
    try:
        content = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"standard input cannot be read ({error.strerror or error})"
        raise UserError(message, STANDARD_INPUT, hint) from error
    if len(content) > MAX_BYTES:
        raise UserError(f"more than {MAX_BYTES:,} bytes", STANDARD_INPUT, "give the file's name")
    return content
