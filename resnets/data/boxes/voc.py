"""PASCAL VOC's XML: one file an image, with corners that count pixels from 1.

The first pixel of a box is xmin, ymin and its last xmax, ymax, so that in continuous coordinates
the box is xmin - 1, ymin - 1, xmax, ymax. Programs that count from 0 shift their boxes by a
pixel; `resnets doctor` finds them.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from resnets.data.boxes.annotations import AnnotatedImage, Object
from resnets.data.boxes.files import Tree, read_xml, stem_of
from resnets.data.boxes.per_image import image_of, read_by_image
from resnets.data.boxes.source import (
    Entry,
    NamedObject,
    OnFault,
    Part,
    corners,
    image_size,
    malformed,
    number_of_text,
)
from resnets.support.errors import UserError

NAME = "VOC XML"


def find(tree: Tree) -> list[str]:
    """The annotation files below a folder: every XML in a folder in which one is VOC's."""
    names = tree.files(".xml")
    folders: dict[str, bool] = {}
    for name in names:
        folder = name.rpartition("/")[0]
        if not folders.get(folder):
            folders[folder] = _is_voc(tree.path(name))
    return [name for name in names if folders[name.rpartition("/")[0]]]


def _is_voc(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return b"<annotation" in file.read(4096)
    except OSError:
        return False


def read(tree: Tree, names: list[str], on_fault: OnFault) -> list[Part]:
    """Read annotation files; splits are lists of VOC, else folders."""
    return read_by_image(tree, names, on_fault, _read_file)


def _read_file(
    tree: Tree, name: str, split: str | None, on_fault: OnFault
) -> tuple[Entry, list[NamedObject]]:
    location = str(tree.path(name))
    root = read_xml(tree.path(name))
    if root.tag != "annotation":
        raise malformed(f"has <{root.tag}> instead of <annotation>", location)
    filename = (root.findtext("filename") or "").strip()
    stem = stem_of(name.rpartition("/")[2])
    file = image_of(tree, name, filename, split)
    size = root.find("size")
    sides = None
    if size is not None:
        width, height = (
            number_of_text(size.findtext(key) or "0", key, location) for key in ("width", "height")
        )
        sides = image_size((width, height), location)
    objects = []
    for index, element in enumerate(root.findall("object"), 1):
        try:
            objects.append(_object(element, f"{location}, object {index}"))
        except UserError as error:
            on_fault(error)
    return Entry(file, filename or stem, sides, (), location, stem), objects


def _object(element: Element, location: str) -> NamedObject:
    category = (element.findtext("name") or "").strip()
    if not category:
        raise malformed("has no <name>", location)
    box = element.find("bndbox")
    if box is None:
        raise malformed("has no <bndbox>", location)
    x1, y1, x2, y2 = (
        number_of_text(box.findtext(key), key, location) for key in ("xmin", "ymin", "xmax", "ymax")
    )
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1", ""):
        raise malformed(f"<difficult> is {difficult!r}, not 0 or 1", location)
    box_corners = corners(x1 - 1, y1 - 1, x2, y2, location)
    return NamedObject(category, Object(box_corners, 0, difficult=difficult == "1"))


def to_xml(image: AnnotatedImage, file_name: str, categories: tuple[str, ...]) -> bytes:
    """An image's annotations as VOC's XML; corners are rounded to whole pixels.

    VOC has no crowds: they become difficult objects, which count neither way.
    """
    root = Element("annotation")
    SubElement(root, "folder").text = "JPEGImages"
    SubElement(root, "filename").text = file_name
    size = SubElement(root, "size")
    for key, value in (("width", image.width), ("height", image.height), ("depth", 3)):
        SubElement(size, key).text = str(value)
    SubElement(root, "segmented").text = "0"
    for one in image.objects:
        element = SubElement(root, "object")
        SubElement(element, "name").text = categories[one.category]
        for key in ("pose", "truncated"):
            SubElement(element, key).text = {"pose": "Unspecified", "truncated": "0"}[key]
        SubElement(element, "difficult").text = str(int(one.difficult or one.crowd))
        box = SubElement(element, "bndbox")
        first = [round(v) + 1 for v in one.box[:2]]
        last = [max(round(v), low) for v, low in zip(one.box[2:], first, strict=True)]
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), (*first, *last), strict=True):
            SubElement(box, key).text = str(value)
    indent(root)
    content: bytes = tostring(root, "utf-8")
    return content
