"""What is wrong with a folder of images, found before a training fails or learns from it.

No fault of the folder stops the examination: each becomes a finding of the report. The line of a
finding is worded here, at `report.add`; the heading of its kind in `resnets.doctor.report.KINDS`.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageStat

from resnets.data import folders, label_files, png_chunks
from resnets.data.image_formats import ENDINGS
from resnets.data.images import Header, ImageError, decode, read_header
from resnets.doctor import duplicates
from resnets.doctor.report import Report
from resnets.support.devices import cores
from resnets.support.errors import UserError
from resnets.support.files import existing_folder, write_bytes
from resnets.support.parallel import in_threads

_SMALLEST_SIDE = 32  # pixels
_LARGEST_RATIO = 5  # of the longer side to the shorter
_LARGEST_IMBALANCE = 10  # of the largest class to the smallest
_LEAST_DEVIATION = 5  # of pixels, on the scale 0..255
_CHUNK = 32  # images that a thread examines in a row
_PIXEL_KINDS = {
    "L": "greyscale", "LA": "greyscale", "1": "greyscale", "CMYK": "CMYK",
    "P": "with a palette", "PA": "with a palette", "RGBA": "with transparency",
}  # fmt: skip
Progress = Callable[[int, int], None]


def examine(folder: Path, threads: int | None = None, progress: Progress | None = None) -> Report:
    """Read and decode every image of a data folder and report what is wrong.

    Args:
        folder: in any layout of `resnets.data.folders`.
        threads: how many images are decoded at once; as many as there are cores by default.
        progress: called with the number of images done and the number of all.

    Raises:
        UserError: if there is no such folder; nothing else.
    """
    began = monotonic()
    report = Report(existing_folder(folder, "give a folder of images"))
    images = _FolderWalk(report).images()
    report.images = len(images.files)
    check_files(images, report, threads or cores(), progress)
    _check_classes(report)
    report.finish(began)
    return report


def quarantine(report: Report, path: Path) -> int:
    """Add the files that cannot be read to the list at `path`; return the number of such files.

    A data folder's own list, `.quarantine`, is applied whenever it is read. No image is touched.

    Raises:
        UserError: if the list cannot be read or written.
    """
    try:
        old = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise UserError(f"cannot be read ({error})", str(path)) from error
    lines = old.decode("utf-8", "surrogateescape").splitlines()
    lines = lines or ["# Images that `resnets doctor` could not read, below the data folder."]
    # In a list, "#" begins a comment.
    bad = [f"./{p}" if p.startswith("#") else p for p in report.unreadable_files if "\n" not in p]
    lines += [name for name in bad if name not in set(lines)]
    write_bytes(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    return len(bad)


# The files of the folder: which of them are images, of which split and class.


@dataclass
class Images:
    """Every image file of a data folder, with its split and class as numbers."""

    files: folders.ImageFolder
    splits: list[str]
    classes: list[str]
    split_of: list[int]


class _FolderWalk:
    """Walks once through `report.folder` and reports what file names alone show to be wrong."""

    def __init__(self, report: Report) -> None:
        self.report, self.folder = report, report.folder
        self._names: list[str] = []
        self._classes: dict[str, int] = {}
        self._labels: list[int] = []
        self._splits: list[int] = []
        try:
            self._quarantined = set(folders.read_quarantine(self.folder))
        except UserError as error:
            self._quarantined = set()
            report.add("unreadable", error.message, folders.QUARANTINE)

    def images(self) -> Images:
        """List the images."""
        train = folders.subfolder(self.folder, folders.TRAIN)
        val = folders.subfolder(self.folder, folders.VAL)
        numbers = label_files.find_class_indices(self.folder)
        if numbers is not None:
            self._add_listed("listed", self.folder, numbers)
        elif train is None and val is None:
            self._add_split("all", self.folder)
        else:
            parts = {name: path for name, path in (("train", train), ("val", val)) if path}
            self._count_unused({path.name for path in parts.values()})
            for split, root in parts.items():
                self._add_split(split, root)
        files = folders.ImageFolder(self.folder, self._names, self._labels, None)
        return Images(files, list(self.report.splits), list(self._classes), self._splits)

    def _add_split(self, split: str, root: Path) -> None:
        try:
            flat = folders.flat_layout(root) if split == "val" else None
        except UserError:  # reported by `_entries` below
            flat = None
        if flat is not None:
            self._add_listed(split, *flat)
            return
        self.report.splits[split] = {}
        for entry in self._entries(root):
            if entry.name.startswith("."):
                self._ignore_hidden(entry)
            elif folders.is_folder(entry):
                self.report.splits[split][entry.name] = 0
                self._add_class(split, entry.name, Path(entry.path), ())
            elif folders.is_image(entry):
                path = self._relative(Path(entry.path))
                self.report.add("unlabelled", "an image outside the class folders", path)
            else:
                self._ignore_ending(entry)

    def _add_class(self, split: str, name: str, folder: Path, above: tuple[str, ...]) -> None:
        real = os.path.realpath(folder)
        if real in above:
            self.report.ignored["a link back to a folder above it"] += 1
            return
        for entry in self._entries(folder):
            path = self._relative(Path(entry.path))
            if entry.name.startswith("."):
                self._ignore_hidden(entry)
            elif folders.is_folder(entry):
                self._add_class(split, name, Path(entry.path), (*above, real))
            elif entry.is_symlink() and not Path(entry.path).is_file():
                self.report.add("unreadable", "a link to a file that is not there", path)
            elif folders.is_image(entry):
                self._add_image(split, name, path)
            else:
                self._ignore_ending(entry)

    def _add_image(self, split: str, name: str, path: str) -> None:
        if path in self._quarantined:
            self.report.ignored["in quarantine"] += 1
            return
        counts = self.report.splits[split]
        counts[name] = counts.get(name, 0) + 1
        self._names.append(path)
        self._labels.append(self._classes.setdefault(name, len(self._classes)))
        self._splits.append(list(self.report.splits).index(split))

    def _add_listed(self, split: str, root: Path, listing: Path) -> None:
        """Images of a flat folder whose classes are listed in a file, by name or number."""
        self.report.splits[split] = {}
        entries = {entry.name: entry for entry in self._entries(root)}
        try:
            listed: Sequence[label_files.Entry[Any]]
            if listing.name == label_files.CLASS_INDEX_FILE:
                listed = label_files.read_class_indices(listing)
            else:
                listed = label_files.read_class_names(listing, entries)
        except UserError as error:
            self.report.add("label-file", str(error), self._relative(listing))
            return
        for name, label, line in listed:
            if name in entries or label_files.image_exists(root, name):
                self._add_image(split, str(label), self._relative(root / name))
            else:
                detail = f"{listing.name}, line {line}: lists an image that does not exist"
                self.report.add("label-file", detail, self._relative(root / name[:200]))
        for name in entries.keys() - {entry.image for entry in listed}:
            entry = entries[name]
            if name.startswith("."):
                self._ignore_hidden(entry)
            elif folders.is_image(entry):
                path = self._relative(root / name)
                self.report.add("unlabelled", f"{listing.name} does not list it", path)
            elif name != listing.name:
                self._ignore_ending(entry)

    def _count_unused(self, used: set[str]) -> None:
        """Folders next to train and val."""
        for entry in self._entries(self.folder):
            visible = not entry.name.startswith(".")
            if entry.name not in used and visible and folders.is_folder(entry):
                self.report.ignored[f"beside {' and '.join(sorted(used))}"] += 1

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda e: e.name)
        except OSError as error:
            reason = error.strerror or str(error)
            self.report.add("unreadable", f"the folder: {reason}", self._relative(folder))
            return []

    def _ignore_hidden(self, entry: os.DirEntry[str]) -> None:
        if entry.name != folders.QUARANTINE:
            self.report.ignored["hidden"] += 1

    def _ignore_ending(self, entry: os.DirEntry[str]) -> None:
        ending = Path(entry.name).suffix.lower() or "no ending"
        self.report.ignored[f"not an image by its ending ({ending})"] += 1

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.folder)).as_posix()


# The content of the files.


@dataclass
class _Content:
    """What one file contains.

    Args:
        size: bytes.
        digest: part of the content's SHA-256.
        header: None if the image cannot be decoded.
        hash: the image's `difference_hash`, where there is a header.
        blank: whether it shows almost one colour.
        fault: kind and detail of a finding.
    """

    size: int = 0
    digest: bytes = bytes(16)
    header: Header | None = None
    hash: int = 0
    blank: bool = False
    fault: tuple[str, str] | None = None


def _examine_file(files: folders.ImageFolder, index: int) -> _Content:
    found = _Content()
    try:
        content = files.read(index)
    except UserError as error:
        found.fault = "unreadable", error.message
        return found
    found.size = len(content)
    found.digest = hashlib.sha256(content).digest()[:16]
    try:
        header = read_header(content, "")
        image = decode(content, "", duplicates.DECODED_SIDE)
    except ImageError as error:
        found.fault = error.kind, error.reason
        return found
    found.blank = max(ImageStat.Stat(image).stddev) < _LEAST_DEVIATION
    found.header, found.hash = header, duplicates.difference_hash(image)
    found.fault = _damage(header, content)
    return found


def _damage(header: Header, content: bytes) -> tuple[str, str] | None:
    """Damage that decoders pass over: JPEGs filled up with grey, PNGs with flipped bits."""
    if header.format == "PNG" and not png_chunks.checksums_match(content):
        return "damaged", "its checksums do not fit its content"
    if header.format != "JPEG":
        return None
    zeros = len(content) - len(content.rstrip(b"\0"))
    if zeros >= 512:
        return "damaged", f"ends in {zeros:,} zero bytes, as after a broken download"
    if content.find(b"\xff\xd9", content.rfind(b"\xff\xda")) < 0:
        return "damaged", "has no end marker"
    return None


def check_files(images: Images, report: Report, threads: int, progress: Progress | None) -> None:
    """Examine every file, then compare the images.

    Args:
        images: with one class of no name where images have none.
        report: gets what is found.
        threads: how many images are decoded at once.
        progress: called with the number of images done and the number of all.
    """
    count = len(images.files)
    digests, hashes = np.zeros(count, "V16"), np.zeros(count, np.uint64)
    decoded, sides = np.zeros(count, bool), np.zeros(count, np.int32)
    oddities: dict[tuple[str, str], list[str]] = defaultdict(list)

    def chunk(start: int) -> list[_Content]:
        indices = range(start, min(start + _CHUNK, count))
        return [_examine_file(images.files, index) for index in indices]

    starts = range(0, count, _CHUNK)
    for start, contents in zip(starts, in_threads(chunk, starts, threads), strict=True):
        for index, content in enumerate(contents, start):
            _record(content, images.files.name(index), report, oddities)
            if content.header:
                digests[index], hashes[index], decoded[index] = content.digest, content.hash, True
                sides[index] = min(content.header.width, content.header.height)
        if progress:
            progress(start + len(contents), count)
    for (kind, detail), paths in oddities.items():
        report.add(kind, detail, *paths)
    if decoded.any():
        least, median, most = np.percentile(sides[decoded], (0, 50, 100)).tolist()
        report.sizes = round(least), round(median), round(most)
    groups = duplicates.find_groups(
        images.files, digests=digests, hashes=hashes, usable=decoded, threads=threads
    )
    for same_file, group in groups:
        _report_duplicates(images, report, group, same_file)


def _record(
    content: _Content, path: str, report: Report, oddities: dict[tuple[str, str], list[str]]
) -> None:
    """Add what one file contains to the report, and its oddities to those of all files."""
    report.bytes += content.size
    if content.fault:
        report.add(*content.fault, path)
    header = content.header
    if header is None:
        return
    for oddity in _oddities(header, content.blank, path):
        oddities[oddity].append(path)
    report.facts[f"{header.format} files"] += 1
    if header.mode in _PIXEL_KINDS:
        report.facts[_PIXEL_KINDS[header.mode]] += 1
    elif header.mode.startswith("I"):
        report.facts["16-bit greyscale" if "16" in header.mode else "32-bit greyscale"] += 1
    elif header.mode == "F":
        report.facts["floating-point greyscale"] += 1
    if header.orientation != 1:
        report.facts["turned by EXIF data"] += 1


def _oddities(header: Header, blank: bool, path: str) -> list[tuple[str, str]]:
    """Kinds and details of findings that are reported once for all their files."""
    found = []
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS.get(header.format, (ending,)):
        named = f"named {ending}" if ending else "without an ending"
        found.append(("wrong-ending", f"{header.format} content {named}"))
    if blank:
        found.append(("blank", "nothing to see, or values in a small part of their range"))
    shorter, longer = sorted((header.width, header.height))
    if shorter < _SMALLEST_SIDE:
        found.append(("odd-size", f"shorter side below {_SMALLEST_SIDE} pixels"))
    if longer > _LARGEST_RATIO * shorter:
        found.append(("odd-size", f"more than {_LARGEST_RATIO} times as long as wide"))
    return found


def _report_duplicates(
    images: Images, report: Report, group: NDArray[np.int64], same_file: bool
) -> None:
    """Report a group of files that show the same image."""
    classes = sorted({images.classes[k] for k in images.files.labels[group]})
    splits = sorted({images.splits[images.split_of[i]] for i in group})
    paths = sorted(images.files.name(int(i)) for i in group)
    how = "the same file" if same_file else "looks the same"
    if len(classes) > 1:
        report.add("mislabelled", f"{how} in classes {', '.join(classes)}", *paths)
    if len(splits) > 1:
        report.add("leak", f"{how} in {' and '.join(splits)}", *paths)
    if len(classes) == len(splits) == 1:
        where = f" in class {classes[0]}" if classes[0] else ""
        report.add("duplicate", f"{how} {len(paths)} times{where}", *paths)


# The classes.


def _check_classes(report: Report) -> None:
    splits = report.splits
    if "listed" in splits:
        return
    if "train" not in splits and "all" not in splits:
        report.add("layout", "there is val, but no train")
    for split, counts in splits.items():
        filled = sorted(name for name, images in counts.items() if images)
        if not filled:
            report.add("layout", "no images", "" if split == "all" else split)
        elif split != "val":
            _check_training_classes(report, counts, filled)
    train, val = splits.get("train"), splits.get("val", {})
    if train is None or not any(val.values()):
        return
    for name in sorted(train.keys() | val.keys()):
        if val.get(name) and not train.get(name):
            detail = f"class {name}: {val[name]:,} images in val, none in train"
            report.add("unknown-class", detail, f"val/{name}")
        elif train.get(name) and not val.get(name):
            detail = f"class {name}: {train[name]:,} images in train, none in val"
            report.add("missing-in-val", detail, f"train/{name}")


def _check_training_classes(report: Report, counts: dict[str, int], filled: list[str]) -> None:
    if len(filled) == 1:
        report.add("layout", f"only one class, {filled[0]}; a classifier needs two or more")
    for name in sorted(counts.keys() - set(filled)):
        report.add("empty-class", f"class {name} has no images", name)
    smallest, largest = min(filled, key=counts.__getitem__), max(filled, key=counts.__getitem__)
    if counts[largest] > _LARGEST_IMBALANCE * counts[smallest]:
        detail = (
            f"{largest} has {counts[largest]:,} images, {smallest} {counts[smallest]:,}: "
            f"{counts[largest] / counts[smallest]:.0f} times as many"
        )
        report.add("imbalance", detail)
