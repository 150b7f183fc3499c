"""The list of images that a data folder excludes, which `resnets doctor --quarantine` writes."""

from __future__ import annotations

from pathlib import Path

from resnets.data.file_tree import QUARANTINE
from resnets.support.errors import UserError
from resnets.support.files import decode_text
from resnets.support.names import composed, listed

EXCLUDE = f"exclude such images: resnets doctor DATA --quarantine DATA/{QUARANTINE}"
"""What to do about images that cannot be read."""


def excludable(error: UserError) -> UserError:
    """The error about an image that cannot be read, with the hint to exclude it."""
    hint = f"{error.hint}, or {EXCLUDE}" if error.hint else EXCLUDE
    return UserError(error.message, error.location, hint)


def read_quarantine(data: Path) -> list[str]:
    """The paths that the quarantine file of a data folder lists, relative to that folder.

    Raises:
        UserError: if the file cannot be read, or is UTF-16.
    """
    path = data / QUARANTINE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot be read ({reason})", str(path)) from error
    lines = decode_text(content, str(path), "surrogateescape").split("\n")
    lines = [line.rstrip("\r") for line in lines]
    return [line.removeprefix("./") for line in lines if line and not line.startswith("#")]


class Quarantine:
    """The quarantine file of a data folder, and which of its lines matched an image.

    Args:
        data: the data folder; None excludes nothing.

    Raises:
        UserError: as `read_quarantine` does.
    """

    def __init__(self, data: Path | None) -> None:
        lines = [] if data is None else read_quarantine(data)
        self._lines = {composed(name): name for name in lines}
        self._matched: set[str] = set()

    def __bool__(self) -> bool:
        """Whether anything may be excluded."""
        return bool(self._lines)

    def __contains__(self, path: str) -> bool:
        """Whether an image is excluded, by its path below the data folder."""
        name = composed(path)
        if name not in self._lines:
            return False
        self._matched.add(name)
        return True

    @property
    def matched(self) -> int:
        """Number of images that were excluded."""
        return len(self._matched)

    def note(self) -> str:
        """A line about entries that match no image; empty if all do."""
        unused = [line for name, line in self._lines.items() if name not in self._matched]
        if not unused:
            return ""
        return f"{QUARANTINE}: {len(unused):,} of its lines match no image: {listed(unused)}"
