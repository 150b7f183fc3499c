"""Opening a data folder with boxes, whatever its format: the front of this package.

Formats are found by content: COCO JSON, VOC XML, YOLO txt, labelme JSON, one CSV, Tiny ImageNet's
table. A folder has one of them. Which images are to train on and which to test on is found as the
formats have it: by the names of annotation files, by VOC's lists, by folders, by YOLO's YAML.
Without any of these, a fifth of the images is set aside by a seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from resnets.data import hints, random_streams
from resnets.data.boxes import coco, csv_table, labelme, tsv_table, voc, yolo
from resnets.data.boxes.annotations import AnnotatedImage, BoxSet
from resnets.data.boxes.files import Tree
from resnets.data.boxes.orientation import upright_objects
from resnets.data.boxes.source import BoxError, Entry, OnFault, Part, refuse
from resnets.data.file_tree import left_out_line
from resnets.data.images import Header, ImageError, read_header
from resnets.data.quarantine import Quarantine
from resnets.data.samples import random_indices
from resnets.support.devices import cores
from resnets.support.errors import UserError
from resnets.support.names import composed, listed, printable
from resnets.support.parallel import in_threads

Split = Literal["train", "test"]
TEST_FRACTION = 0.2
"""Of a source without splits, this many images are set aside to test on."""
_START = 1 << 16  # bytes of a file in which its header usually ends
_CHUNK = 64  # headers that a thread reads in a row
_FORMATS = (coco, voc, yolo, labelme, csv_table, tsv_table)


@dataclass(frozen=True)
class Source:
    """The annotations of a data folder, before its images are looked at.

    Args:
        tree: the files of the data folder.
        format: name of the format.
        train, test: the entries of each split, with the same categories; None if there is none.
        unused: annotated images that are in neither split.
        quarantine: what the folder excludes.
        remarks: what a user should know of the splits, a line each.
    """

    tree: Tree
    format: str
    train: Part | None
    test: Part | None
    unused: frozenset[Path] = frozenset()
    quarantine: Quarantine = field(default_factory=lambda: Quarantine(None))
    remarks: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self.tree.root

    def notes(self) -> tuple[str, ...]:
        """What a user should know of the images, a line each."""
        excluded = self.quarantine.matched
        lines = [
            f"{excluded:,} in quarantine left out" if excluded else "",
            left_out_line(self.tree.left_out),
            self.quarantine.note(),
            *self.remarks,
        ]
        return tuple(printable(line) for line in lines if line)


def open_boxes(folder: Path, split: Split, seed: int = 0) -> BoxSet:
    """The images of one split with their boxes.

    Categories are those of the training images, also of the test set. Images that `.quarantine`
    lists are left out.

    Args:
        folder: a data folder.
        split: which images.
        seed: chooses the images to set aside in a folder without splits.

    Raises:
        UserError: if there are no boxes, more than one format, malformed annotations, images that
            do not exist or are not of the size that their annotations say, or test images of
            categories that the training images do not have.
    """
    return box_set(read_source(folder, seed), split)


def are_boxes(folder: Path) -> bool:
    """Whether this is a folder with boxes in any of the formats."""
    return folder.is_dir() and bool(_formats(Tree(folder)))


def read_source(folder: Path, seed: int = 0, on_fault: OnFault = refuse) -> Source:
    """Read the annotations of a folder.

    Args:
        folder: a data folder.
        seed: see `open_boxes`.
        on_fault: called with each fault of an entry or object, which is then left out; by default
            the first is raised.

    Raises:
        UserError: as `open_boxes`, for faults of whole files.
    """
    tree = Tree(folder)
    found = _formats(tree)
    known = ", ".join(one.NAME for one in _FORMATS)
    if not found:
        hint = hints.inside(folder) or f"the formats are {known}"
        raise UserError("has no boxes", str(folder), hint)
    if len(found) > 1:
        (one, names), (other, others) = list(found.items())[:2]
        raise UserError(
            f"has both {one} ({names[0]}) and {other} ({others[0]})",
            str(folder),
            "keep the annotations of one format in a folder",
        )
    format, names = next(iter(found.items()))
    reader = next(one for one in _FORMATS if format == one.NAME)
    parts = reader.read(tree, names, on_fault)
    quarantine = Quarantine(tree.root)
    excluded = {tree.path(name) for name in tree.images if name in quarantine}
    parts = [_usable(tree, part, excluded, on_fault) for part in parts if part.entries]
    if not parts:
        raise UserError("its annotations name no image", str(folder))
    return replace(_split(tree, format, parts, seed, on_fault), quarantine=quarantine)


def _formats(tree: Tree) -> dict[str, list[str]]:
    """The formats of a folder with their annotation files."""
    found = {one.NAME: one.find(tree) for one in _FORMATS}
    return {name: files for name, files in found.items() if files}


def _usable(tree: Tree, part: Part, excluded: set[Path], on_fault: OnFault) -> Part:
    """The part without excluded images and without the second of two entries of an image."""
    entries: list[Entry] = []
    first: dict[Path, Entry] = {}
    for entry in part.entries:
        if entry.file in excluded:
            continue
        if entry.file is not None and first.setdefault(entry.file, entry) is not entry:
            image = tree.name(entry.file)
            message = f"{image} is annotated twice, here and in {first[entry.file].location}"
            on_fault(BoxError("box-file", message, entry.location))
        else:
            entries.append(entry)
    return replace(part, entries=tuple(entries))


def _split(tree: Tree, format: str, parts: list[Part], seed: int, on_fault: OnFault) -> Source:
    """Which parts are to train on and which to test on."""
    by_split = {part.split: part for part in parts}
    test = by_split.get("val") or by_split.get("test")
    train = by_split.get("train") or by_split.get("trainval")
    if "trainval" in by_split and "test" in by_split:  # VOC 2007
        train, test = by_split["trainval"], by_split["test"]
    if train is None and test is None:
        train = by_split[None]
    remarks = []
    if train is not None and test is None:
        train, test = _set_aside(train, seed)
    elif train is not None and test is not None:
        train, test, remark = _disjoint(tree, train, test, on_fault)
        test = _with_categories(test, train, on_fault)
        remarks += [remark] if remark else []
    used = _files([part for part in (train, test) if part is not None])
    for part in parts:
        if count := len(_files([part]) - used):
            name = part.split or f"{Path(part.location).name}, which names no split"
            remarks.append(f"not used: {count:,} {'image' if count == 1 else 'images'} of {name}")
    return Source(tree, format, train, test, _files(parts) - used, remarks=tuple(remarks))


def _files(parts: list[Part]) -> frozenset[Path]:
    """The images of some parts."""
    return frozenset(e.file for part in parts for e in part.entries if e.file is not None)


def _disjoint(tree: Tree, train: Part, test: Part, on_fault: OnFault) -> tuple[Part, Part, str]:
    """Both parts without images in common, and a line about them.

    `trainval` is the images of `train` and `val`: if `val` is tested on, `train` remains. Any other
    image in both is a fault.
    """
    shared = _files([train]) & _files([test])
    if not shared:
        return train, test, ""
    images = f"{len(shared):,} {'image is' if len(shared) == 1 else 'images are'}"
    if (train.split, test.split) == ("trainval", "val"):
        rest = replace(train, entries=tuple(e for e in train.entries if e.file not in shared))
        remark = f"{images} in both trainval and val, and only tested on"
        return rest, test, remark
    names = sorted(tree.name(file) for file in shared)
    message = f"{images} in both {train.split} and {test.split}: {listed(names)}"
    hint = "give each image to one split; if there is only train, a fifth is set aside for testing"
    on_fault(BoxError("in-both-splits", message, test.location, hint))
    rest = replace(test, entries=tuple(e for e in test.entries if e.file not in shared))
    return train, rest, ""


def _set_aside(part: Part, seed: int) -> tuple[Part, Part]:
    """The part in two: images to train on, and a fifth to test on.

    A fifth of the images with objects, at least one, and a fifth of those without.
    """
    random = np.random.default_rng([seed, random_streams.TEST_SPLIT])
    order = sorted(
        range(len(part.entries)), key=lambda i: str(part.entries[i].file or part.entries[i].image)
    )
    aside: set[int] = set()
    for filled in (True, False):
        members = [i for i in order if bool(part.entries[i].objects) == filled]
        count = round(TEST_FRACTION * len(members))
        if filled and len(members) < 2:
            message = "fewer than two images have boxes, so none can be set aside for testing"
            raise UserError(message, part.location)
        chosen = random.permutation(len(members))[: max(count, int(filled))]
        aside |= {members[i] for i in chosen.tolist()}
    train = tuple(e for i, e in enumerate(part.entries) if i not in aside)
    test = tuple(e for i, e in enumerate(part.entries) if i in aside)
    return replace(part, split="train", entries=train), replace(part, split="test", entries=test)


def _with_categories(test: Part, train: Part, on_fault: OnFault) -> Part:
    """The test images with the categories of the training images, matched by name."""
    if test.categories == train.categories:
        return test
    number = {composed(name): index for index, name in enumerate(train.categories)}
    unknown = [name for name in test.categories if composed(name) not in number]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        names = ", ".join(train.categories[:8]) + (", ..." if len(train.categories) > 8 else "")
        error = BoxError(
            "unknown-category",
            f"category {unknown[0]!r}{more} of the test images is not one of the training "
            f"images: {names}",
            test.location,
            "give categories the same names in both",
        )
        on_fault(error)
    new = [number.get(composed(name)) for name in test.categories]
    entries = tuple(
        replace(
            entry,
            objects=tuple(
                replace(one, category=index)
                for one in entry.objects
                if (index := new[one.category]) is not None
            ),
        )
        for entry in test.entries
    )
    ids = None
    if test.ids is not None and train.ids is not None:
        ids = _ids(dict(zip(test.categories, test.ids, strict=True)), train)
    return replace(test, entries=entries, categories=train.categories, ids=ids)


def _ids(own: dict[str, int], train: Part) -> tuple[int, ...]:
    """COCO's ids of the training categories in the test file; new ones for those it lacks."""
    free = (number for number in range(1, 10**9) if number not in own.values())
    own = {composed(name): number for name, number in own.items()}
    names = map(composed, train.categories)
    return tuple(own[name] if name in own else next(free) for name in names)


def box_set(source: Source, split: Split, on_fault: OnFault = refuse) -> BoxSet:
    """The images of one split of a source.

    Args:
        source: from `read_source`.
        split: which images.
        on_fault: called with each image that is missing, cannot be read, or is not of the size
            that its annotations say; it is then left out.

    Raises:
        UserError: if the source has no such split, or no boxes in it.
    """
    part = source.train if split == "train" else source.test
    if part is None:
        other = "testing" if split == "train" else "training"
        message = "; ".join([f"has annotations for {other} only", *source.remarks])
        hint = f"name annotations after their split, such as {split}.json" if source.unused else ""
        raise UserError(message, str(source.folder), hint)
    _report_missing([entry for entry in part.entries if entry.file is None], on_fault)
    entries = [entry for entry in part.entries if entry.file is not None]
    images = []
    for entry, header in zip(entries, _headers(entries), strict=True):
        try:
            if isinstance(header, UserError):
                raise header
            images.append(_annotated(source.folder, entry, header))
        except UserError as error:
            on_fault(error)
    boxes = BoxSet(tuple(images), part.categories, split, source.format, part.ids)
    if not any(image.objects for image in boxes.images):
        raise UserError(f"no image of the {split} split has a box", part.location)
    return boxes


def _report_missing(missing: list[Entry], on_fault: OnFault) -> None:
    for number, entry in enumerate(missing):
        more = len(missing) - 1 - number
        others = f" (and {more:,} more)" if on_fault is refuse and more else ""
        message = f"annotates an image that does not exist: {entry.image[:200]}{others}"
        hint = "put the images below the data folder"
        on_fault(BoxError("missing-image", message, entry.location, hint))


def _annotated(folder: Path, entry: Entry, header: Header) -> AnnotatedImage:
    assert entry.file is not None
    width, height = header.upright_size
    name = entry.file.relative_to(folder).as_posix()
    objects = upright_objects(entry, header)
    return AnnotatedImage(entry.file, name, width, height, objects, entry.id)


def _headers(entries: list[Entry]) -> Iterator[Header | UserError]:
    """The header of each image, or what is wrong with it."""

    def chunk(start: int) -> list[Header | UserError]:
        return [header_of(entry.file) for entry in entries[start : start + _CHUNK] if entry.file]

    for headers in in_threads(chunk, range(0, len(entries), _CHUNK), cores()):
        yield from headers


def header_of(path: Path) -> Header | UserError:
    """An image's header, or what is wrong with it; the start of the file usually suffices."""
    try:
        with path.open("rb") as file:
            content = file.read(_START)
            try:
                return read_header(content, str(path))
            except ImageError:
                return read_header(content + file.read(), str(path))
    except OSError as error:
        message = f"the image cannot be read ({error.strerror or error})"
        return ImageError("unreadable", message, str(path))
    except ImageError as error:
        return error


def random_subset(boxes: BoxSet, limit: int | None) -> BoxSet:
    """At most `limit` of the images, drawn at random but always the same."""
    if limit is None or limit >= len(boxes):
        return boxes
    indices = random_indices(len(boxes), limit).tolist()
    return replace(boxes, images=tuple(boxes.images[i] for i in indices))


def unused_categories(boxes: BoxSet) -> tuple[str, ...]:
    """The categories of which no image has an object: a test cannot measure them."""
    used = {one.category for image in boxes.images for one in image.objects}
    return tuple(name for index, name in enumerate(boxes.categories) if index not in used)
