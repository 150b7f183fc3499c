"""Image files below a folder, and what is left out and why.

One walk for all that read folders: training, tests, predictions and the doctor see the same files.
A listing is made anew each time, because no date shows for sure that a folder has not changed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from resnets.data.images import is_candidate
from resnets.support.errors import UserError

QUARANTINE = ".quarantine"
"""File in a data folder that lists images to exclude; see `resnets.data.quarantine`."""

SYSTEM_FOLDERS = frozenset({
    "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin",
    "recycler", "recycled", "system volume information", "lost+found", "found.000", "__macosx",
    "__pycache__",
})  # fmt: skip
"""Folders that operating systems, NAS devices and archivers add, in lower case. Those that begin
with a dot are hidden anyway."""

HIDDEN, LOOP = "hidden", "a link back to a folder above it"
GONE, OUTSIDE = "a link to a file that is not there", "an image outside the class folders"
NO_IMAGE = "not an image by its ending"
"""Why files and folders are left out. The ending follows the last reason."""


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file that may be an image, by its ending or its first bytes."""
    return is_file(entry) and is_candidate(entry.path)


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file or a link to a file."""
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to a folder."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def excluded(entry: os.DirEntry[str]) -> str | None:
    """Why an entry is left out whatever it contains: hidden files, folders of the system."""
    if entry.name.startswith("."):
        return HIDDEN
    if entry.name.lower() in SYSTEM_FOLDERS and is_folder(entry):
        return f"folder of the system ({entry.name})"
    return None


class FileTree:
    """The images below a folder, in a fixed order.

    Args:
        folder: all paths are relative to it.
        label_file: a file in it that is not an image, but not left out either.

    Attributes:
        left_out: number of files and folders that were left out so far, by reason.
    """

    def __init__(self, folder: Path, label_file: str = "") -> None:
        self.folder, self._label_file = folder, label_file
        self.left_out: Counter[str] = Counter()

    def entries(self, below: str = "") -> list[os.DirEntry[str]]:
        """The entries of a folder that count, sorted by name; raises `UserError`."""
        try:
            with os.scandir(self.folder / below) as found:
                everything = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            self.refuse(below, error.strerror or str(error))
            return []
        kept = []
        for entry in everything:
            reason = excluded(entry)
            if reason is None:
                kept.append(entry)
            elif entry.name != QUARANTINE:
                self.leave_out(joined(below, entry.name), reason)
        return kept

    def folders(self, below: str = "") -> list[str]:
        """Names of the folders in a folder; raises `UserError`."""
        return [entry.name for entry in self.entries(below) if is_folder(entry)]

    def class_folders(self) -> list[str]:
        """Names of the folders in the tree's folder; files beside them are left out."""
        found = []
        for entry in self.entries():
            if is_folder(entry):
                found.append(entry.name)
            elif is_image(entry):
                self.leave_out(entry.name, OUTSIDE)
            else:
                self.leave_out_file(entry.name, entry)
        return found

    @property
    def files_left_out(self) -> int:
        """Number of files that were left out so far, other than hidden ones."""
        return self.left_out.total() - self.left_out[HIDDEN]

    def images(self, below: str = "") -> Iterator[str]:
        """The paths of the images below a folder, in the order of `files`; raises `UserError`."""
        for path, entry in self.files(below):
            if is_image(entry):
                yield path
            else:
                self.leave_out_file(path, entry)

    def files(
        self, below: str = "", above: tuple[str, ...] = ()
    ) -> Iterator[tuple[str, os.DirEntry[str]]]:
        """Everything below a folder that is no folder: first its own, then that of its folders.

        Links that lead to a folder above them are not followed.

        Args:
            below: the folder, a path relative to `folder`.
            above: real paths of the folders above it, if they are known.

        Raises:
            UserError: if a folder cannot be read.
        """
        if not above:
            root, own = os.path.realpath(self.folder), os.path.realpath(self.folder / below)
            if below and _is_within(root, own):
                self.leave_out(below, LOOP)
                return
            above = root, own
        inside = []
        for entry in self.entries(below):
            if is_folder(entry):
                inside.append(entry)
            else:
                yield joined(below, entry.name), entry
        for entry in inside:
            path = joined(below, entry.name)
            real = os.path.join(above[-1], entry.name)  # noqa: PTH118
            if entry.is_symlink():
                real = os.path.realpath(real)
                if any(_is_within(one, real) for one in above):
                    self.leave_out(path, LOOP)
                    continue
            yield from self.files(path, (*above, real))

    def leave_out_file(self, path: str, entry: os.DirEntry[str]) -> None:
        """Count a file that is no image."""
        if path == self._label_file:
            return
        ending = os.path.splitext(entry.name)[1].lower() or "no ending"  # noqa: PTH122
        gone = entry.is_symlink() and not is_file(entry)
        self.leave_out(path, GONE if gone else f"{NO_IMAGE} ({ending})")

    def leave_out(self, path: str, reason: str) -> None:
        """Count a file or folder that is left out."""
        self.left_out[reason] += 1

    def refuse(self, folder: str, reason: str) -> None:
        """Raise `UserError` for a folder that cannot be read."""
        raise UserError(f"the folder cannot be read: {reason}", str(self.folder / folder))


def joined(folder: str, name: str) -> str:
    """The path of an entry of a folder, relative to the tree."""
    return f"{folder}/{name}" if folder else name


def left_out_line(left_out: Counter[str]) -> str:
    """What was left out, in one line; empty if nothing was.

    Such as `left out: not an image by its ending: 12 (.txt 9, .pdf 3), hidden: 2`.
    """
    endings: Counter[str] = Counter()
    others = []
    for reason, count in left_out.most_common():
        if reason.startswith(NO_IMAGE):
            endings[reason.partition("(")[2][:-1]] += count
        else:
            others.append(f"{reason}: {count:,}")
    if endings:
        kinds = ", ".join(f"{ending} {count:,}" for ending, count in endings.most_common(5))
        kinds += ", ..." if len(endings) > 5 else ""
        others.insert(0, f"{NO_IMAGE}: {endings.total():,} ({kinds})")
    return f"left out: {', '.join(others)}" if others else ""


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
