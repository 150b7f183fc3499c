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
    """The image files that are named, each once, in a fixed order.

    Args:
        named: files of any ending, whether they exist or not; folders, for every file below
            them with an image's ending; patterns such as `photos/**/*.jpg`, for where the shell
            does not expand them. Hidden files and folders are left out of folders.

    Raises:
        UserError: if a folder or a pattern has no images, or a folder cannot be read.
    """
    found: dict[str, None] = {}
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
        found |= dict.fromkeys(inside)
    return list(found)


def _below(folder: str) -> Iterator[str]:
    for _, _, files in walk(Path(folder)):
        for name in files:
            yield str(Path(folder) / name)


def _endings() -> str:
    return ", ".join(sorted(EXTENSIONS))
