"""What the readers of all formats have in common: entries, faults, checked values, split names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from resnets.data.boxes.annotations import Object
from resnets.support.errors import UserError
from resnets.support.names import composed

LARGEST = 1e6
"""No coordinate is larger: an image has at most 100 million pixels."""

BoxFault = Literal["box-file", "missing-image", "image-size", "unknown-category", "in-both-splits"]
"""What is wrong: an annotation file is malformed; an annotated image does not exist, or more than
one could be meant; the file's size of an image is not that of the image; a category is not among
those declared, or not among those of the training images; a test image is a training image."""

OnFault = Callable[[UserError], None]
"""Called with each fault; the entry or object with the fault is then left out."""


class BoxError(UserError):
    """A fault in annotations.

    Args:
        kind: the kind of fault.
        message, location, hint: as for `UserError`.
    """

    def __init__(self, kind: BoxFault, message: str, location: str = "", hint: str = "") -> None:
        super().__init__(message, location, hint)
        self.kind: BoxFault = kind

    def __reduce__(self) -> tuple[type[BoxError], tuple[str, ...]]:
        return BoxError, (self.kind, self.message, self.location, self.hint)


def refuse(error: UserError) -> None:
    """Raise the fault: what readers do by default."""
    raise error


@dataclass(frozen=True)
class Entry:
    """An image as its annotation file describes it.

    Args:
        file: the image; None if there is no such file.
        image: the image's name in the annotation file, for messages.
        size: width and height by the annotation file; None if it does not say.
        objects: its objects; their categories number those of the `Part`.
        location: the annotation file, for messages.
        id: the source's id.
        fractions: whether boxes are fractions of the image instead of pixels.
    """

    file: Path | None
    image: str
    size: tuple[int, int] | None
    objects: tuple[Object, ...]
    location: str
    id: int | str | None = None
    fractions: bool = False


@dataclass(frozen=True)
class Part:
    """The entries of one split.

    Args:
        split: `train`, `trainval`, `val` or `test`; None if the source does not say.
        entries: the images.
        categories: their names.
        ids: COCO's ids of the categories.
        location: where it was read, for messages.
    """

    split: str | None
    entries: tuple[Entry, ...]
    categories: tuple[str, ...]
    ids: tuple[int, ...] | None = None
    location: str = ""


@dataclass(frozen=True)
class NamedObject:
    """An object of a format that has no list of categories.

    Args:
        name: its category.
        object: the object, of category 0.
    """

    name: str
    object: Object


def numbered(
    entries: Iterable[tuple[Entry, Sequence[NamedObject]]], split: str | None, location: str
) -> Part:
    """A part whose categories are the sorted names of its objects, in whatever Unicode form."""
    entries = list(entries)
    first: dict[str, str] = {}
    for _, objects in entries:
        for one in objects:
            first.setdefault(composed(one.name), one.name)
    names = sorted(first.values())
    number = {composed(name): index for index, name in enumerate(names)}
    filled = [
        replace(
            entry,
            objects=tuple(replace(o.object, category=number[composed(o.name)]) for o in objects),
        )
        for entry, objects in entries
    ]
    return Part(split, tuple(filled), tuple(names), None, location)


def repeated(names: Sequence[str]) -> str | None:
    """The first name that an earlier one equals, in whatever Unicode form; None if all differ."""
    seen: set[str] = set()
    for name in map(composed, names):
        if name in seen:
            return name
        seen.add(name)
    return None


_SPLIT = re.compile(
    r"(?<![a-z])(trainval|train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?)(?![a-z])"
)


def split_of(path: str) -> str | None:
    """The split that a path names: `train`, `trainval`, `val`, `test` or None.

    The last part of the path that names one counts: `annotations/instances_val2017.json` is `val`.
    """
    for part in reversed(path.lower().split("/")):
        if found := _SPLIT.findall(part):
            name: str = found[-1]
            if name == "trainval":
                return name
            return next(split for split in ("train", "val", "test") if name.startswith(split))
    return None


def split_of_folder(path: str) -> str | None:
    """The split that the folders of a path name, not its file: `train-12.jpg` may show a train."""
    return split_of(path.rpartition("/")[0])


def agree(one: str | None, other: str | None) -> bool:
    """Whether something of split `one` may belong to split `other`."""
    if one is None or other is None or one == other:
        return True
    return "trainval" in (one, other) and {one, other} <= {"trainval", "train", "val"}


# Values, which annotation files may get wrong in every way.


def malformed(message: str, location: str, hint: str = "") -> BoxError:
    return BoxError("box-file", message, location, hint)


def number(value: Any, what: str, location: str) -> float:
    """A finite number of JSON; raises `BoxError` for anything else, strings included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise malformed(f"{what} is {_shown(value)}, not a number", location)
    return _bounded(float(value) if abs(value) <= LARGEST else math.inf, value, what, location)


def number_of_text(text: str | None, what: str, location: str) -> float:
    """A finite number of XML, CSV or YOLO's text; raises `BoxError` for anything else."""
    stripped = (text or "").strip()
    try:
        if "_" in stripped:
            raise ValueError
        value = float(stripped)
    except ValueError as error:
        raise malformed(f"{what} is {_shown(text)}, not a number", location) from error
    return _bounded(value, stripped, what, location)


def _bounded(value: float, shown: Any, what: str, location: str) -> float:
    if not abs(value) <= LARGEST:
        raise malformed(f"{what} is {_shown(shown)}, not a coordinate in an image", location)
    return value


def category_number(value: float, location: str) -> int:
    """A category's number; raises `BoxError` if it is negative or has a fraction."""
    if value < 0 or value != int(value):
        raise malformed(f"category {value:g} is not a whole number from 0", location)
    return int(value)


def image_size(sides: Iterable[float], location: str) -> tuple[int, int] | None:
    """An image's width and height; None where one is 0; raises `BoxError` if it is negative."""
    width, height = sides
    if not width or not height:
        return None
    if width < 0 or height < 0 or width != int(width) or height != int(height):
        raise malformed(f"the image's size is {width:g} x {height:g}", location)
    return int(width), int(height)


def corners(
    x1: float, y1: float, x2: float, y2: float, location: str
) -> tuple[float, float, float, float]:
    """A box; raises `BoxError` if its width or height is negative."""
    if x2 < x1 or y2 < y1:
        raise malformed(
            f"the box is {x2 - x1:g} x {y2 - y1:g} pixels",
            location,
            "a box must not end before it begins",
        )
    return x1, y1, x2, y2


def bounds(outline: Sequence[float]) -> tuple[float, float, float, float]:
    """The smallest box around points x, y, x, y, ..."""
    xs, ys = outline[::2], outline[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
