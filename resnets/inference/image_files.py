"""Which image files a user means: files, folders with all below them, patterns."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from resnets.data.folders import walk
from resnets.data.images import EXTENSIONS
from resnets.support.errors import UserError


def images(named: Sequence[str]) -> list[str]:
    """The image files that are named, each once and by its first name, in a fixed order.

    Args:
        named: files of any ending, whether they exist or not; folders, for every file below
            them with an image's ending; patterns such as `photos/**/*.jpg`, for where the shell
            does not expand them. Hidden files and folders are left out of folders.

    Raises:
        UserError: if a folder or a pattern has no images, or a folder cannot be read.
    """
    found: dict[str, str] = {}
    places = _Places()
    for name in named:
        if os.path.isdir(name):  # noqa: PTH112 (never raises)
            inside = list(_below(name))
            if not inside:
                raise UserError("no images in this folder", name, f"looked for {_endings()}")
        elif glob.has_magic(name) and not os.path.lexists(name):
            matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (may be absolute)
            inside = [match for match in matches if not os.path.isdir(match)]  # noqa: PTH112
            if not inside:
                raise UserError("no file has such a name", name)
        else:
            inside = [name]
        if len(named) == 1:  # one folder or pattern gives a file one name only
            return list(dict.fromkeys(inside))
        for file in inside:
            found.setdefault(places[file], file)
    return list(found.values())


class _Places:
    """Where files are, so that `a.jpg`, `./a.jpg` and `/here/a.jpg` are one; links are others."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        folder, file = os.path.split(name)
        place = self._folders.get(folder)
        if place is None:
            # With .. behind a link, only the system knows where it leads.
            absolute = os.path.realpath if ".." in folder else os.path.abspath
            place = self._folders[folder] = absolute(folder)
        return f"{place}/{file}"


def plain(name: str) -> str:
    """A name as the same file is called without `./` and doubled slashes."""
    needless = "./" in name or "//" in name
    return os.path.normpath(name) if needless and ".." not in name else name


def _below(folder: str) -> Iterator[str]:
    for _, _, files in walk(Path(folder)):
        for name in files:
            yield str(Path(folder) / name)


def _endings() -> str:
    return ", ".join(sorted(EXTENSIONS))
