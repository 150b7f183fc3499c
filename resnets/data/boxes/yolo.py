"""YOLO's texts: one an image, a line for each object, in fractions of the upright image.

A line is `class x y width height` with the centre of the box, or `class x1 y1 x2 y2 x3 y3 ...`
with a polygon. A YAML file names the classes and the folders of the splits; without it, the
folders' own names do. An image without a text has no objects.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from resnets.data.boxes.annotations import AnnotatedImage, Object
from resnets.data.boxes.files import Tree, read_text, read_yaml, stem_of
from resnets.data.boxes.source import (
    BoxError,
    Entry,
    OnFault,
    Part,
    bounds,
    category_number,
    corners,
    malformed,
    number_of_text,
    repeated,
    split_of,
    split_of_folder,
)
from resnets.support.errors import UserError
from resnets.support.names import composed

NAME = "YOLO txt"
_CLASS_FILES = ("classes.txt", "obj.names", "classes.names", "labels.names")
_OTHER_TEXTS = {
    "classes.txt", "labels.txt", "notes.txt", "train.txt", "val.txt", "test.txt", "trainval.txt",
    "requirements.txt",
}  # fmt: skip
_LINE = re.compile(r"\s*\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*")
_MOST_CLASSES = 10_000  # of data without names of classes
_ROUNDED = 1.0  # pixels between a box and its polygon
_FAR = 2.0  # fractions beyond this are pixels, given by mistake


def find(tree: Tree) -> list[str]:
    """The texts below a folder: all in folders `labels`, and those named like an image near them.

    Texts near images count only if one of them has a line of an object.
    """
    texts = [
        name
        for name in tree.files(".txt")
        if name.rpartition("/")[2] not in _OTHER_TEXTS and "ImageSets" not in name
    ]
    stems = {composed(stem_of(image)) for image in tree.images}
    found = [
        name
        for name in texts
        if "labels" in name.split("/")[:-1] or composed(name.removesuffix(".txt")) in stems
    ]
    return found if any(_has_object(tree.path(name)) for name in found) else []


def _has_object(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            return _LINE.fullmatch(file.readline(65536)) is not None
    except OSError:
        return False


def read(tree: Tree, names: list[str], on_fault: OnFault) -> list[Part]:
    """Read the texts; the splits are those of a YAML file, else of folders.

    Raises:
        UserError: if the YAML file is malformed, or there are two.
    """
    config = _Config.find(tree)
    texts = {composed(name): name for name in names}
    used: set[str] = set()
    parts = []
    for split, images in config.splits(texts, on_fault).items():
        entries, largest = [], -1
        for image in images:
            text = _text_of(image, texts)
            objects: list[Object] = []
            if text is not None:
                used.add(text)
                objects = _read_file(tree.path(text), len(config.names) or None, on_fault)
            largest = max([largest, *(one.category for one in objects)])
            entries.append(
                Entry(
                    tree.path(image),
                    image,
                    None,
                    tuple(objects),
                    str(tree.path(text or image)),
                    fractions=True,
                )
            )
        categories = config.names or tuple(str(number) for number in range(largest + 1))
        parts.append(Part(split, tuple(entries), categories, None, str(config.path or tree.root)))
    stems = {stem for image in tree.images for stem in _stems_of_text(image)}
    for text in sorted(set(names) - used):
        if composed(text.removesuffix(".txt")) not in stems:
            message = "there is no image of this name"
            on_fault(BoxError("missing-image", message, str(tree.path(text))))
    return parts


def _stems_of_text(image: str) -> tuple[str, str]:
    """Where the text of an image may be, composed and without its ending: in `labels` instead of
    `images`, or next to the image."""
    folders, _, base = image.rpartition("/")
    parts = folders.split("/")
    if "images" in parts:
        at = len(parts) - 1 - parts[::-1].index("images")
        parts[at] = "labels"
    elif folders:  # train/labels next to train/*.jpg
        parts.append("labels")
    else:
        parts = ["labels"]
    return composed("/".join([*parts, stem_of(base)])), composed(stem_of(image))


def _beside_texts(images: list[str], texts: dict[str, str]) -> list[str]:
    """The images in folders of which at least one image has a text."""
    folders = {image.rpartition("/")[0] for image in images if _text_of(image, texts)}
    return [image for image in images if image.rpartition("/")[0] in folders]


def _text_of(image: str, texts: dict[str, str]) -> str | None:
    """The text of an image, of those by their composed names; None if it has none."""
    return next((texts[f"{s}.txt"] for s in _stems_of_text(image) if f"{s}.txt" in texts), None)


def _read_file(path: Path, classes: int | None, on_fault: OnFault) -> list[Object]:
    objects = []
    try:
        lines = read_text(path).splitlines()
    except UserError as error:
        on_fault(error)
        return []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                objects.append(_object(line.split(), classes, f"{path}, line {number}"))
            except UserError as error:
                on_fault(error)
    return objects


def _object(cells: list[str], classes: int | None, location: str) -> Object:
    values = [number_of_text(cell, "a number", location) for cell in cells]
    if len(values) < 5 or (len(values) != 5 and (len(values) % 2 == 0 or len(values) < 7)):
        raise malformed(
            f"has {len(values)} numbers",
            location,
            "an object is a class and four numbers, or a class and a polygon of x y pairs",
        )
    category = category_number(values[0], location)
    if classes is not None and category >= classes:
        message = f"class {category} is not among the {classes} classes"
        raise BoxError("unknown-category", message, location)
    if classes is None and category >= _MOST_CLASSES:
        raise malformed(f"class {category} is too large", location)
    if any(abs(value) > _FAR for value in values[1:]):
        hint = "YOLO's boxes are fractions of the image, not pixels"
        raise malformed("a coordinate is no fraction from 0 to 1", location, hint)
    if len(values) > 5:
        return Object(bounds(values[1:]), category, polygons=(tuple(values[1:]),))
    x, y, width, height = values[1:]
    box = corners(x - width / 2, y - height / 2, x + width / 2, y + height / 2, location)
    return Object(box, category)


class _Config:
    """The names of the classes and the images of each split.

    Args:
        tree: the data folder.
        path: the YAML file; None without one.
        content: what it holds.
    """

    def __init__(self, tree: Tree, path: Path | None, content: dict[str, Any]) -> None:
        self.tree, self.path, self.content = tree, path, content
        self.location = str(path)
        self.names = self._class_names() if "names" in content else self._numbered()

    @staticmethod
    def find(tree: Tree) -> _Config:
        """The YAML file that names the classes, else the one that counts them."""
        contents = [(name, read_yaml(tree.path(name))) for name in tree.files(".yaml", ".yml")]
        found = [(name, content) for name, content in contents if "names" in content]
        if not found:  # networks have such files, too
            found = [(name, c) for name, c in contents if "nc" in c and "backbone" not in c]
        if len(found) > 1:
            names = " and ".join(name for name, _ in found[:2])
            raise UserError(f"two YAML files name classes: {names}", str(tree.root), "keep one")
        if not found:
            return _Config(tree, None, {})
        return _Config(tree, tree.path(found[0][0]), found[0][1])

    def _class_names(self) -> tuple[str, ...]:
        names, location = self.content["names"], self.location
        if isinstance(names, dict):
            if sorted(names, key=str) != sorted(range(len(names)), key=str):
                raise malformed("the keys of names are not 0, 1, 2, ...", location)
            names = [names[number] for number in range(len(names))]
        if not isinstance(names, list) or not names:
            raise malformed("names is no list of classes", location)
        if not all(isinstance(name, str | int | float) for name in names):
            raise malformed("a name of a class is no text", location)
        texts = tuple(str(name) for name in names)
        if twice := repeated(texts):
            raise malformed(f"names has {twice!r} twice", location)
        count = self.content.get("nc", len(texts))
        if count != len(texts):
            raise malformed(f"nc is {count}, but there are {len(texts)} names", location)
        return texts

    def _numbered(self) -> tuple[str, ...]:
        """The names in a text; without one, the numbers of the classes that the YAML counts."""
        names, count = self._listed_names(), self.content.get("nc")
        if count is None:
            return names
        if type(count) is not int or not 0 < count <= _MOST_CLASSES:
            raise malformed(f"nc is {count!r}, which is no number of classes", self.location)
        if names and len(names) != count:
            raise malformed(f"nc is {count}, but there are {len(names)} names", self.location)
        return names or tuple(str(number) for number in range(count))

    def _listed_names(self) -> tuple[str, ...]:
        """The names in a text such as classes.txt, one a line; none without such a text."""
        for name in self.tree.files(".txt", ".names"):
            if name.rpartition("/")[2] in _CLASS_FILES:
                path = self.tree.path(name)
                lines = [line.strip() for line in read_text(path).splitlines()]
                names = tuple(line for line in lines if line)
                if twice := repeated(names):
                    raise malformed(f"names class {twice!r} twice", str(path))
                return names
        return ()

    def splits(self, texts: dict[str, str], on_fault: OnFault) -> dict[str | None, list[str]]:
        """The images of each split, as paths below the data folder.

        Args:
            texts: those of objects, by their composed names; without a YAML file, images are in
                the folders that have some.
            on_fault: called with each folder or image that does not exist.
        """
        found: dict[str | None, list[str]] = {}
        for split in ("train", "val", "test"):
            values = self.content.get(split) or []
            for value in values if isinstance(values, list) else [values]:
                images = self._images(value, split, on_fault)
                found.setdefault(split, []).extend(images)
        if not found:
            for image in _beside_texts(self.tree.images, texts):
                found.setdefault(split_of_folder(image), []).append(image)
        return found

    def _images(self, value: Any, split: str, on_fault: OnFault) -> list[str]:
        """The images of a folder, or of a text that lists images."""
        if not isinstance(value, str):
            raise malformed(f"{split} is no folder", self.location)
        where = self._below(value)
        if where is not None and where.is_dir():
            prefix = self.tree.name(where)
            prefix = "" if prefix == "." else f"{prefix}/"
            return [image for image in self.tree.images if image.startswith(prefix)]
        if where is None:
            if split != "test":  # which often stands for a download to come
                message = f"{split} is {value!r}, which is not in the data folder"
                hint = "name a folder below it, such as images/train"
                on_fault(malformed(message, self.location, hint))
            return []
        images = []
        for number, line in enumerate(read_text(where).splitlines(), 1):
            if line.strip():
                image = self.tree.image(line.strip(), split, self.tree.name(where))
                if image is None:
                    message = f"lists an image that does not exist: {line.strip()[:200]}"
                    on_fault(BoxError("missing-image", message, f"{where}, line {number}"))
                else:
                    images.append(self.tree.name(image))
        return images

    def _below(self, value: str) -> Path | None:
        """The file or folder in the data folder that a path of the YAML means.

        The path may be of another machine, of Windows, or relative to another folder: the end of
        it that exists counts, but not without the part that names the split. Of `../train/images`
        the end `images` may be the images of all splits.
        """
        assert self.path is not None
        start = str(self.content.get("path") or "")
        split = split_of(value.replace("\\", "/"))
        for text in (f"{start}/{value}", value):
            parts = [p for p in text.replace("\\", "/").split("/") if p not in ("", ".", "..")]
            if not parts:
                return self.path.parent
            for first in range(len(parts)):
                if split is not None and split_of("/".join(parts[first:])) != split:
                    break
                for base in (self.path.parent, self.tree.root):
                    where = base.joinpath(*parts[first:])
                    if where.exists():
                        return where
        return None


def to_text(image: AnnotatedImage) -> str:
    """An image's objects as YOLO's text, with their `outline` or box; crowds, which YOLO does not
    have, are left out."""
    lines = []
    sides = image.width, image.height
    for one in image.objects:
        if one.crowd:
            continue
        if points := outline(one):
            places = (f"{value / sides[i % 2]:.8f}" for i, value in enumerate(points))
            lines.append(f"{one.category} {' '.join(places)}\n")
        else:
            x1, y1, x2, y2 = one.box
            x, width = (x1 + x2) / 2 / image.width, (x2 - x1) / image.width
            y, height = (y1 + y2) / 2 / image.height, (y2 - y1) / image.height
            lines.append(f"{one.category} {x:.8f} {y:.8f} {width:.8f} {height:.8f}\n")
    return "".join(lines)


def outline(one: Object) -> tuple[float, ...] | None:
    """The polygon that YOLO can have of an object: the only one, whose bounds are the box."""
    if one.polygons is None or len(one.polygons) != 1:
        return None
    (points,) = one.polygons
    far = max(abs(a - b) for a, b in zip(bounds(points), one.box, strict=True))
    return points if far <= _ROUNDED else None
