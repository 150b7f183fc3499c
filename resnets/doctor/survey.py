"""The files of a data folder, and what their names and places alone tell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnets.data import folders, label_files
from resnets.doctor.findings import Report
from resnets.support.errors import UserError


@dataclass
class Images:
    """Every image file of a data folder, with its split and class as numbers."""

    files: folders.ImageFolder
    splits: list[str]
    classes: list[str]
    split_of: list[int]


def survey(report: Report) -> Images:
    """List the images of `report.folder`; what is wrong goes into the report."""
    return _Survey(report).images()


class _Survey:
    """Walks once through the folder."""

    def __init__(self, report: Report) -> None:
        self.report, self.folder = report, report.folder
        self._names: list[str] = []
        self._classes: dict[str, int] = {}
        self._labels: list[int] = []
        self._splits: list[int] = []
        self._quarantined = set(folders.read_quarantine(self.folder))

    def images(self) -> Images:
        train = folders.subfolder(self.folder, folders.TRAIN)
        val = folders.subfolder(self.folder, folders.VAL)
        listed = label_files.find_class_indices(self.folder)
        parts = {"all": self.folder}
        if listed is not None:
            self._listed(listed)
            parts.clear()
        elif train is not None or val is not None:
            parts = {n: p for n, p in (("train", train), ("val", val)) if p is not None}
            self._count_ignored_beside(parts)
        for split, root in parts.items():
            self._split(split, root)
        splits = list(self.report.splits)
        names = folders.ImageFolder(self.folder, self._names, self._labels, None)
        return Images(names, splits, list(self._classes), self._splits)

    def _split(self, split: str, root: Path) -> None:
        self.report.splits[split] = {}
        found = folders.flat_layout(root) if split == "val" else None
        if found is not None:
            self._mapped(split, *found)
            return
        for entry in self._entries(root):
            path = self._relative(Path(entry.path))
            if entry.name.startswith("."):
                self._ignore("hidden", entry)
            elif folders.is_folder(entry):
                self.report.splits[split][entry.name] = 0
                self._class(split, entry.name, Path(entry.path), ())
            elif folders.is_image(entry):
                self.report.add("unlabelled", "an image outside the class folders", path)
            else:
                self._ignore_ending(entry)

    def _class(self, split: str, name: str, folder: Path, above: tuple[str, ...]) -> None:
        real = os.path.realpath(folder)
        if real in above:
            self.report.ignored["a link back to a folder above it"] += 1
            return
        for entry in self._entries(folder):
            if entry.name.startswith("."):
                self._ignore("hidden", entry)
            elif folders.is_folder(entry):
                self._class(split, name, Path(entry.path), (*above, real))
            elif entry.is_symlink() and not Path(entry.path).is_file():
                path = self._relative(Path(entry.path))
                self.report.add("unreadable", "a link to a file that is not there", path)
            elif folders.is_image(entry):
                self._image(split, name, self._relative(Path(entry.path)))
            else:
                self._ignore_ending(entry)

    def _image(self, split: str, name: str, path: str) -> None:
        if path in self._quarantined:
            self.report.ignored["in quarantine"] += 1
            return
        counts = self.report.splits[split]
        counts[name] = counts.get(name, 0) + 1
        self._names.append(path)
        self._labels.append(self._classes.setdefault(name, len(self._classes)))
        self._splits.append(list(self.report.splits).index(split))

    def _mapped(self, split: str, root: Path, mapping: Path) -> None:
        """A flat folder whose images' classes are in a file."""
        try:
            entries = label_files.read_class_names(mapping, root)
        except UserError as error:
            self.report.add("label-file", str(error), self._relative(mapping))
            return
        self._labelled(split, root, mapping, entries)

    def _listed(self, listed: Path) -> None:
        """A flat folder whose images' classes are numbers in a file."""
        self.report.splits["listed"] = {}
        try:
            entries = label_files.read_class_indices(listed)
        except UserError as error:
            self.report.add("label-file", str(error), self._relative(listed))
            return
        self._labelled("listed", self.folder, listed, entries)

    def _labelled(
        self,
        split: str,
        root: Path,
        listing: Path,
        entries: Sequence[label_files.Entry[Any]],
    ) -> None:
        there = {e.name: e for e in self._entries(root)}
        for name, label, line in entries:
            if name in there or label_files.image_exists(root, name):
                self._image(split, str(label), self._relative(root / name))
            else:
                where = f"{listing.name}, line {line}: names an image that is not there"
                self.report.add("label-file", where, self._relative(root / name[:200]))
        for name in there.keys() - {entry.image for entry in entries}:
            entry = there[name]
            if name.startswith("."):
                self._ignore("hidden", entry)
            elif folders.is_image(entry):
                path = self._relative(root / name)
                self.report.add("unlabelled", f"{listing.name} does not list it", path)
            elif name != listing.name:
                self._ignore_ending(entry)

    def _count_ignored_beside(self, parts: dict[str, Path]) -> None:
        """Folders and files beside train and val are used for nothing."""
        used = {path.name for path in parts.values()}
        for entry in self._entries(self.folder):
            if (
                entry.name not in used
                and not entry.name.startswith(".")
                and folders.is_folder(entry)
            ):
                self.report.ignored[f"beside {' and '.join(sorted(used))}"] += 1

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda e: e.name)
        except OSError as error:
            reason = error.strerror or str(error)
            self.report.add("unreadable", f"the folder: {reason}", self._relative(folder))
            return []

    def _ignore(self, reason: str, entry: os.DirEntry[str]) -> None:
        if entry.name != folders.QUARANTINE:
            self.report.ignored[reason] += 1

    def _ignore_ending(self, entry: os.DirEntry[str]) -> None:
        ending = Path(entry.name).suffix.lower() or "no ending"
        self.report.ignored[f"not an image by its ending ({ending})"] += 1

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.folder)).as_posix()
