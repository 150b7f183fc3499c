"""Which files of a data folder are images, of which split and class; what is left out and why.

The folder is read as a training reads it, but its faults become findings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnets.data import folders, hints, label_files
from resnets.data.file_tree import GONE, OUTSIDE, QUARANTINE, FileTree, is_image, joined
from resnets.data.layouts import Layout, find_layout, flat_layout
from resnets.data.quarantine import Quarantine
from resnets.doctor.report import Report
from resnets.support.errors import UserError


@dataclass
class ImageList:
    """Every image file of a data folder, with its split and class as numbers."""

    files: folders.ImageFolder
    splits: list[str]
    classes: list[str]
    split_of: list[int]


def list_images(report: Report) -> ImageList:
    """List the images of `report.folder`, and report what file names alone show to be wrong."""
    return _Lister(report).images()


class _ReportedTree(FileTree):
    """A tree whose faults are added to a report.

    Args:
        report: of the data folder.
        below: the tree's folder, relative to the data folder.
        label_file: see `FileTree`.
    """

    def __init__(self, report: Report, below: str, label_file: str = "") -> None:
        super().__init__(report.folder / below, label_file)
        self._report, self._below = report, below

    def leave_out(self, path: str, reason: str) -> None:
        super().leave_out(path, reason)
        path = joined(self._below, path)
        if reason == GONE:
            self._report.add("unreadable", GONE, path)
        elif reason == OUTSIDE:
            self._report.add("unlabelled", OUTSIDE, path)
        else:
            self._report.ignored[reason] += 1

    def refuse(self, folder: str, reason: str) -> None:
        path = joined(self._below, folder).rstrip("/") or "."
        self._report.add("unreadable", f"the folder: {reason}", path)


class _Lister:
    def __init__(self, report: Report) -> None:
        self.report, self.folder = report, report.folder
        self._names: list[str] = []
        self._classes: dict[str, int] = {}
        self._labels: list[int] = []
        self._splits: list[int] = []
        try:
            self._quarantine = Quarantine(self.folder)
        except UserError as error:
            self._quarantine = Quarantine(None)
            report.add("quarantine", error.reason, QUARANTINE)

    def images(self) -> ImageList:
        numbers = label_files.find_class_indices(self.folder)
        if numbers is not None and self.report.table in (None, numbers):
            self._add_listed("listed", self.folder, numbers)
        else:
            self._add_layout(self._layout())
        if note := self._quarantine.note():
            self.report.add("quarantine", note, QUARANTINE)
        files = folders.ImageFolder(self.folder, self._names, self._labels, None)
        return ImageList(files, list(self.report.splits), list(self._classes), self._splits)

    def _layout(self) -> Layout:
        """The folder's layout; if it is unclear, that is reported, and all folders are classes."""
        try:
            layout = find_layout(self.report.table or self.folder)
        except UserError as error:
            hint = f"; {error.hint}" if error.hint else ""
            self.report.add("layout", error.message + hint, self._relative(Path(error.location)))
            return Layout(self.folder)
        for note in layout.notes:
            self.report.add("not-used", note.removeprefix("left out: "))
        single = layout.train is None and layout.val is None and layout.table is None
        if single and (hint := hints.inside_folders(self.folder)):
            self.report.add("layout", hint)
        return layout

    def _add_layout(self, layout: Layout) -> None:
        if layout.table is not None:
            self._add_table(layout.table)
        elif layout.train is None and layout.val is None:
            self._add_class_folders("all", self.folder)
        else:
            if layout.train is not None:
                self._add_class_folders("train", layout.train)
            if layout.val is not None:
                flat = flat_layout(layout.val)
                if flat is None:
                    self._add_class_folders("val", layout.val)
                else:
                    self._add_listed("val", *flat)

    def _add_class_folders(self, split: str, root: Path) -> None:
        below = self._relative(root)
        tree = _ReportedTree(self.report, "" if below == "." else below)
        counts = self.report.splits.setdefault(split, {})
        for name in tree.class_folders():
            counts[name], before, found = 0, tree.files_left_out, False
            for image in tree.images(name):
                found = True
                self._add_image(split, name, self._relative(root / image))
            if not found and tree.files_left_out > before:
                files = tree.files_left_out - before
                detail = f"class {name} is lost: all its files ({files:,}) are left out"
                self.report.add("empty-class", detail, name)

    def _add_image(self, split: str, name: str, path: str) -> None:
        if path in self._quarantine:
            self.report.ignored["in quarantine"] += 1
            return
        counts = self.report.splits[split]
        counts[name] = counts.get(name, 0) + 1
        self._names.append(path)
        self._labels.append(self._classes.setdefault(name, len(self._classes)))
        self._splits.append(list(self.report.splits).index(split))

    def _add_table(self, table: Path) -> None:
        """Images of a folder with a table that gives the class of each, and perhaps its split."""
        tree = _ReportedTree(self.report, "", table.name)
        files = list(tree.images())
        try:
            names = label_files.FileNames(files, self.folder, table.stem)
            entries, unused = label_files.read_table(table, names)
        except UserError as error:
            self.report.splits["all"] = {}
            self.report.add("label-file", str(error), self._relative(table))
            return
        if unused:
            detail = f"split test of {table.name}, as val holds the test images"
            self.report.add("not-used", detail)
        split = any(entry.tested for entry in entries)
        for name in ("train", "val") if split else ("all",):
            self.report.splits[name] = {}
        for entry in entries:
            part = ("val" if entry.tested else "train") if split else "all"
            self._add_image(part, entry.label, entry.image)
        for name in sorted(set(files) - {entry.image for entry in (*entries, *unused)}):
            self.report.add("unlabelled", f"{table.name} does not list it", name)

    def _add_listed(self, split: str, root: Path, listing: Path) -> None:
        """Images of a flat folder whose classes are listed in a file, by name or number."""
        self.report.splits[split] = {}
        below = self._relative(root)
        tree = _ReportedTree(self.report, "" if below == "." else below, listing.name)
        entries = {entry.name: entry for entry in tree.entries()}
        try:
            listed: Sequence[label_files.Entry[Any]]
            if listing.name == label_files.CLASS_INDEX_FILE and split == "listed":
                listed = label_files.read_class_indices(listing)
            else:
                listed = label_files.read_class_names(listing, root, entries)
        except UserError as error:
            self.report.add("label-file", str(error), self._relative(listing))
            return
        for name, label, line, _ in listed:
            if name in entries or label_files.image_exists(root, name):
                self._add_image(split, str(label), self._relative(root / name))
            else:
                detail = f"{listing.name}, line {line}: lists an image that does not exist"
                self.report.add("label-file", detail, self._relative(root / name[:200]))
        for name in sorted(entries.keys() - {entry.image for entry in listed}):
            if is_image(entries[name]):
                path = self._relative(root / name)
                self.report.add("unlabelled", f"{listing.name} does not list it", path)
            elif not entries[name].is_dir():
                tree.leave_out_file(name, entries[name])

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.folder)).as_posix()
