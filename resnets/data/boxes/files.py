"""The files of a data folder with boxes, and what annotation files contain, read safely."""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from resnets.data.boxes.source import BoxError, agree, malformed, split_of_folder
from resnets.data.file_tree import FileTree, is_file
from resnets.data.image_formats import EXTENSIONS
from resnets.data.images import is_candidate
from resnets.support import files
from resnets.support.errors import UserError
from resnets.support.names import composed

_ANNOTATIONS = (".json", ".xml", ".txt", ".yaml", ".yml", ".csv", ".tsv", ".names")

_MAX_XML = 16 << 20  # bytes; VOC's are 1 to 10 kB
_MAX_YAML = 1 << 20


class Tree:
    """The images and annotation files below a data folder, without those that `FileTree` excludes.

    Args:
        root: the folder.

    Attributes:
        left_out: number of other files and of folders that were left out, by reason.

    Raises:
        UserError: if it is not a folder, or cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = files.existing_folder(root, "give a folder of images with boxes")
        self._by_suffix: dict[str, list[str]] = defaultdict(list)
        self.images: list[str] = []
        """Paths of the images below the root, with forward slashes, in a fixed order."""
        tree = FileTree(self.root)
        for name, entry in tree.files():
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a million names)
            if not is_file(entry):  # such as a pipe, which would block
                tree.leave_out_file(name, entry)
            elif suffix in _ANNOTATIONS:
                self._by_suffix[suffix].append(name)
            elif is_candidate(entry.path):
                self.images.append(name)
            else:
                tree.leave_out_file(name, entry)
        self.images.sort(key=lambda name: name.split("/"))
        self.left_out: Counter[str] = tree.left_out
        self._kinds: dict[str, str | None] = {}

    def files(self, *suffixes: str) -> list[str]:
        """Paths below the root with one of these endings, sorted."""
        return sorted(name for suffix in suffixes for name in self._by_suffix[suffix])

    def json_kind(self, name: str) -> str | None:
        """`coco`, `labelme` or None for a JSON file, by its first keys; see `_json_kind`."""
        if name not in self._kinds:
            self._kinds[name] = _json_kind(self.path(name))
        return self._kinds[name]

    @cached_property
    def _named(self) -> dict[str, list[str]]:
        """The images by the `_key` of their file's name, with and without its ending."""
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.images:
            base = _key(name.rpartition("/")[2])
            found[base].append(name)
            if (stem := stem_of(base)) != base:
                found[stem].append(name)
        return found

    def path(self, name: str) -> Path:
        return self.root / name

    def name(self, path: Path) -> str:
        """The inverse of `path`."""
        return path.relative_to(self.root).as_posix()

    def image(self, name: str, split: str | None, beside: str = "") -> Path | None:
        """The image that an annotation file means by a name; None if there is none.

        Args:
            name: a name or path, also of another machine or of Windows; its ending may be absent.
            split: of the annotation file; images in folders of another split are not meant.
            beside: the annotation file, near which an image is preferred.

        Raises:
            UserError: if more than one image could be meant.
        """
        parts = [p for p in _key(name.replace("\\", "/")).split("/") if p not in ("", ".")]
        if not parts:
            return None
        found = self._named.get(parts[-1], [])
        found = [one for one in found if agree(split_of_folder(one), split)]
        if len(found) > 1:
            folder = beside.rpartition("/")[0]
            ranks = {one: _rank(one, parts, name, folder) for one in found}
            best = max(ranks.values())
            found = [one for one in found if ranks[one] == best]
        if len(found) > 1:
            message = f"{name!r} could be {found[0]} or {found[1]}"
            hint = "give the images different names"
            raise BoxError("missing-image", message, str(self.root), hint)
        return self.path(found[0]) if found else None


def stem_of(name: str) -> str:
    """A path without the ending of its file."""
    return os.path.splitext(name)[0]  # noqa: PTH122 (a million names)


def _key(name: str) -> str:
    """What file names are compared by: neither letter case nor Unicode's form counts."""
    return composed(name).casefold()


def _rank(candidate: str, parts: list[str], name: str, folder: str) -> tuple[int, bool, bool, int]:
    """How well an image fits a name: by path, letters' case, and nearness to a folder."""
    own = _key(candidate).split("/")
    own[-1] = own[-1] if own[-1] == parts[-1] else stem_of(own[-1])
    shared = 0
    while shared < min(len(own), len(parts)) and own[-1 - shared] == parts[-1 - shared]:
        shared += 1
    exact = composed(Path(candidate).name) == composed(re.split(r"[\\/]", name)[-1])
    here = candidate.rpartition("/")[0]
    return shared, here == folder, exact, _shared_start(here.split("/"), folder.split("/"))


def _shared_start(one: list[str], other: list[str]) -> int:
    """How many leading parts two paths have in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def read_text(path: Path) -> str:
    """As `support.files.read_text`; raises `BoxError`."""
    try:
        return files.read_text(path)
    except UserError as error:
        raise malformed(error.message, error.location, error.hint) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: if it is not JSON, or has NaN or Infinity, which JSON does not.
    """

    def no_number(text: str) -> float:
        raise malformed(f"has {text}, which is not a number", str(path))

    try:
        return json.loads(read_text(path), parse_constant=no_number)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        reason = "it ends too early" if error.pos >= len(error.doc.rstrip()) else error.msg.lower()
        raise malformed(f"is not JSON: {reason} ({where})", str(path)) from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits; nested too deeply
        raise malformed("is not JSON that can be read", str(path)) from error


_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}\[\]]', re.DOTALL)


def _json_kind(path: Path) -> str | None:
    """`coco`, `labelme` or None, by the first keys of a JSON file, which is not read whole.

    A whole file of COCO has images and annotations; of the start of a larger one, or of a file
    that ends too early, one of its keys must do.
    """
    try:
        with path.open("rb") as file:
            start = file.read(65536).decode("utf-8-sig", "ignore")
    except OSError:
        return None
    keys, depth = set(), 0
    for match in _TOKEN.finditer(start):
        if match[0] in "{[":
            depth += 1
        elif match[0] in "}]":
            depth -= 1
        elif depth == 1 and match[2]:
            keys.add(match[1])
            if match[1] in ("shapes", "imagePath"):
                return "labelme"
    needed = {"images", "annotations"}
    return "coco" if needed <= keys or (depth and keys & {*needed, "categories"}) else None


def read_xml(path: Path) -> Element:
    """The root of an XML file, in which no entities may be declared.

    Raises:
        UserError: if it cannot be read, or is not such XML.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise malformed(f"cannot be read ({error.strerror or error})", str(path)) from error
    if len(content) > _MAX_XML:
        raise malformed(f"has {len(content) >> 20} MB, too many for one image", str(path))
    builder = TreeBuilder()

    def no_entity(*_: Any) -> None:
        raise malformed("declares entities, which may expand without end", str(path))

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = no_entity
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise malformed(f"is not XML: {error}", str(path)) from error
    except (LookupError, ValueError) as error:  # an encoding that does not exist
        raise malformed(f"cannot be read as XML ({error})", str(path)) from error
    return builder.close()


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file, by its safe loader.

    Raises:
        UserError: if it is not YAML, or not a mapping.
    """
    try:
        import yaml
    except ImportError as error:
        hint = "pip install pyyaml"
        raise UserError("reading YAML needs the package pyyaml", str(path), hint) from error
    text = read_text(path)
    if len(text) > _MAX_YAML:
        raise malformed(f"has {len(text) >> 20} MB, too many for a list of classes", str(path))
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise malformed(f"is not YAML: {reason}", str(path)) from error
    if not isinstance(value, dict):
        raise malformed("is not a mapping of keys to values", str(path))
    return value


def lists(tree: Tree) -> dict[str, list[str]]:
    """Files that list the images of each split, as in VOC's `ImageSets/Main`."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in tree.files(".txt"):
        folder, _, base = name.rpartition("/")
        split = base.removesuffix(".txt")
        if split in ("train", "val", "trainval", "test") and (
            folder == "" or folder.endswith("ImageSets/Main")
        ):
            found[split].append(name)
    return dict(found)


def listed_names(path: Path) -> list[str]:
    """The names that a list has, one a line."""
    names = [line.strip() for line in read_text(path).splitlines()]
    return [name for name in names if name]


def without_ending(name: str) -> str:
    """A name without the ending of an image or annotation file."""
    stem, dot, ending = name.rpartition(".")
    return stem if dot and f".{ending.lower()}" in (*EXTENSIONS, ".xml", ".json") else name
