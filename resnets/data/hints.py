"""Where the images probably are, for the hint of an error about a folder that holds none."""

from __future__ import annotations

from pathlib import Path

from resnets.data.archives import is_archive
from resnets.data.layouts import wrapped
from resnets.support.names import listed


def inside(folder: Path) -> str:
    """A hint at the data inside `folder`, in a folder or an archive; empty if there are none."""
    return inside_folders(folder) or _inside_archives(folder)


def inside_folders(folder: Path) -> str:
    """A hint at the data folder around which `folder` is another one; empty if it is not."""
    inner = wrapped(folder)
    return f"did you mean {inner}?" if inner != folder else ""


def _inside_archives(folder: Path) -> str:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return ""
    archives = [one for one in entries if is_archive(one) and not one.name.startswith(".")]
    if len(archives) == 1:
        return f"did you mean {archives[0]}?"
    names = listed(one.name for one in archives)
    return f"unpack its archives, or give one of them: {names}" if archives else ""
