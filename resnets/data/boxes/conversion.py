"""Writing images with boxes in another format, splits included."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from resnets.data.boxes import coco, voc, yolo
from resnets.data.boxes.annotations import BoxSet
from resnets.data.boxes.files import stem_of
from resnets.data.boxes.segments import has_segment
from resnets.support import unfinished
from resnets.support.errors import UserError
from resnets.support.files import writing
from resnets.support.names import composed, counted

Format = Literal["coco", "voc", "yolo"]


def convert(
    sets: dict[str, BoxSet],
    out: Path,
    format: Format,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write the images and boxes of some splits into a new folder.

    The folder appears when it is complete.

    Args:
        sets: for `train` and `test`, or one of them, the images.
        out: the folder, which must not exist.
        format: of the annotations.
        progress: called with the number of images written and of all.

    Returns:
        What the format cannot express, one line each.

    Raises:
        UserError: if the folder exists or cannot be written, or an image cannot be read.
    """
    if out.exists():
        raise UserError("already exists", str(out), "give the name of a new folder")
    total = sum(len(boxes) for boxes in sets.values())
    done = 0
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.folder(out) as made:
            folder = made / "data"
            for split, boxes in sets.items():
                files = _file_names(boxes, split, sets)
                images = _write_annotations(folder, split, boxes, files, format)
                for image, file in zip(boxes.images, files, strict=True):
                    _copy(image.path, images / file)
                    done += 1
                    if progress:
                        progress(done, total)
            if format == "yolo":
                _write_yaml(folder, sets)
            folder.rename(out)
    return _losses(sets, format)


def _file_names(boxes: BoxSet, split: str, sets: dict[str, BoxSet]) -> list[str]:
    """A file name for each image: its own, or its path where names occur more than once.

    Names count without their endings, which the annotations of VOC and YOLO do not have.
    """
    stems = Counter(_stem(i.name) for one in sets.values() for i in one.images)
    names = []
    for image in boxes.images:
        base = image.name.rpartition("/")[2]
        unique = stems[_stem(image.name)] == 1
        names.append(base if unique else f"{split}_{image.name.replace('/', '_')}")
    for what, name in [("file", n) for n in names] + [("category", n) for n in boxes.categories]:
        if not name.isprintable():  # control characters, or bytes that are not UTF-8
            raise UserError(f"the name of a {what} cannot be written: {name!r}", hint="rename it")
    if len({_stem(name) for name in names}) < len(names):
        twice = Counter(map(_stem, names)).most_common(1)[0][0]
        raise UserError(f"two images are named {twice}", hint="rename one of them")
    return names


def _stem(name: str) -> str:
    return composed(stem_of(name).rpartition("/")[2]).casefold()


def _write_annotations(
    folder: Path, split: str, boxes: BoxSet, files: list[str], format: Format
) -> Path:
    """Write the annotations of one split; return the folder for its images."""
    name = {"train": "train", "test": "val"}[split]
    if format == "coco":
        annotations = _made(folder / "annotations")
        text = json.dumps(coco.to_json(boxes, files))
        (annotations / f"instances_{name}.json").write_text(text, encoding="utf-8")
        return _made(folder / name)
    if format == "voc":
        annotations = _made(folder / "Annotations")
        for image, file in zip(boxes.images, files, strict=True):
            xml = voc.to_xml(image, file, boxes.categories)
            (annotations / f"{stem_of(file)}.xml").write_bytes(xml)
        lines = "".join(f"{stem_of(file)}\n" for file in files)
        listed = {"train": "trainval", "test": "test"}[split]
        path = _made(folder / "ImageSets" / "Main") / f"{listed}.txt"
        path.write_text(lines, encoding="utf-8")
        return _made(folder / "JPEGImages")
    annotations = _made(folder / "labels" / name)
    for image, file in zip(boxes.images, files, strict=True):
        path = annotations / f"{stem_of(file)}.txt"
        path.write_text(yolo.to_text(image), encoding="utf-8")
    return _made(folder / "images" / name)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write_yaml(folder: Path, sets: dict[str, BoxSet]) -> None:
    """YOLO's list of folders and classes; JSON's strings are YAML's, too."""
    lines = [f"{split}: images/{split}" for split in ("train", "val") if _has(sets, split)]
    names = next(iter(sets.values())).categories
    lines += [
        "names:",
        *(
            f"  {number}: {json.dumps(name, ensure_ascii=False)}"
            for number, name in enumerate(names)
        ),
    ]
    (folder / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _has(sets: dict[str, BoxSet], name: str) -> bool:
    return {"train": "train", "val": "test"}[name] in sets


def _copy(source: Path, target: Path) -> None:
    try:
        content = source.open("rb")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"the image cannot be read ({reason})", str(source)) from error
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file)


def _losses(sets: dict[str, BoxSet], format: Format) -> list[str]:
    """What the format cannot express."""
    objects = [one for boxes in sets.values() for image in boxes.images for one in image.objects]
    crowds = sum(one.crowd for one in objects)
    difficult = sum(one.difficult for one in objects)
    segments = sum(
        has_segment(one) and not (format == "yolo" and (one.crowd or yolo.outline(one)))
        for one in objects
    )
    lines = []
    if crowds and format == "voc":
        lines.append(f"{counted(crowds, 'crowd')} marked as difficult: VOC has no crowds")
    if crowds and format == "yolo":
        lines.append(f"{counted(crowds, 'crowd')} left out: YOLO has none")
    if difficult and format == "yolo":
        lines.append(
            f"{counted(difficult, 'difficult object')} written like others: YOLO has no such mark"
        )
    if segments and format != "coco":
        lines.append(f"{counted(segments, 'segment')} written as boxes only")
    return lines
