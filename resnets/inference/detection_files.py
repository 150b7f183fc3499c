"""Files of detections: JSON lines, CSV, COCO results or YOLO labels; each can be resumed.

JSON lines grow with every image. The other formats are written from such lines, which stay next to
them, when the command ends or is interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from resnets.detection.improvements import Improvements
from resnets.detection.metrics.detections import Thresholds
from resnets.detection.results_file import file_id
from resnets.inference.detection_results import ImageDetections
from resnets.inference.image_sources import is_url
from resnets.inference.prediction_files import JsonLines, PredictionFile, csv_row, opened
from resnets.inference.predictor import Identity
from resnets.inference.videos import is_video
from resnets.support.errors import UserError, valid_utf8
from resnets.support.files import atomic_write, existing_folder, make_folder, write_bytes

LINES = ".jsonl"
COLUMNS = (
    "image", "frame", "seconds", "width", "height", "category", "score", "x1", "y1", "x2", "y2",
    "error",
)  # fmt: skip
"""Of CSV. An image without objects, or with an error, has a row without box."""
CLASSES = "classes.txt"
"""The categories of a folder of YOLO labels, one a line."""
WRITTEN = ".texts"
"""The texts that this program wrote into such a folder, one a line."""
Rows = Callable[[], Iterator[dict[str, Any]]]
"""Reads the lines of a file from the start."""


@contextmanager
def open_file(
    path: Path, origin: dict[str, Any], categories: Sequence[str], *, retry: bool = False
) -> Iterator[PredictionFile[ImageDetections]]:
    """Open or create a file of detections, in the format of its name; its content is kept.

    Args:
        path: ends in `.jsonl`, `.csv` or `.json` (COCO's results); without an ending it is a folder
            of YOLO labels.
        origin: what `origin_of` returns; a file is resumed only with the same origin.
        categories: names of the detector's categories.
        retry: remove the images that could not be read, so that they are tried again.

    Raises:
        UserError: as `check_path`; if the file was not written by this program or with another
            detector or other options, or another process writes it.
    """
    check_path(path)
    lines = lines_of(path)
    if lines != path and os.path.lexists(path) and not lines.exists():
        raise UserError("was not written by this command", str(path), "give another --out")
    with opened(lines, origin, lambda: JsonLines[ImageDetections](lines, retry)) as output:
        try:
            yield output
        finally:
            if lines != path:
                _formats()[path.suffix](path, lambda: _read(lines), categories)


def lines_of(path: Path) -> Path:
    """The JSON lines from which the file `path` is written, and with which it is resumed."""
    return path if path.suffix == LINES else path.with_name(path.name + LINES)


def check_path(path: Path) -> None:
    """Raise `UserError` if detections cannot be written to `path`.

    That is so if its ending is unknown, or its folder does not exist.
    """
    if path.suffix not in (LINES, *_formats()):
        known = ", ".join(one for one in (LINES, *_formats()) if one)
        hint = f"known: {known}; without an ending it is a folder of YOLO labels"
        raise UserError("unknown kind of output", f"--out {path}", hint)
    existing_folder(path.parent, "create it first")


def origin_of(
    identity: Identity,
    thresholds: Thresholds,
    *,
    tile: int | None,
    every: int,
    improvements: Improvements = Improvements(),  # noqa: B008
) -> dict[str, Any]:
    """What the detections in a file depend on."""
    improved = {key: value for key, value in (
        ("refine", improvements.refine), ("scales", list(improvements.scales))
    ) if value}  # fmt: skip
    return {
        "model": identity.network,
        "weights": identity.weights,
        "runtime": identity.runtime,
        "score": thresholds.score,
        "nms": thresholds.nms,
        "limit": thresholds.limit,
        "tile": tile,
        "every": every,
        **improved,  # not in files of versions without
    }


def _formats() -> dict[str, Callable[[Path, Rows, Sequence[str]], None]]:
    return {".csv": _write_csv, ".json": _write_coco, "": _write_yolo}


def _read(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open("rb") as file:
        yield from map(json.loads, file)


def _write_csv(path: Path, rows: Rows, categories: Sequence[str]) -> None:
    def write(file: IO[bytes]) -> None:
        file.write(csv_row(COLUMNS))
        for row in rows():
            start = [row.get(key, "") for key in COLUMNS[:5]]
            for one in row.get("objects", ()):
                file.write(csv_row([*start, one["category"], one["score"], *one["box"], ""]))
            if not row.get("objects"):
                file.write(csv_row([*start, *[""] * 6, row.get("error", "")]))

    atomic_write(path, write)


def _write_coco(path: Path, rows: Rows, categories: Sequence[str]) -> None:
    """A list of detections, as COCO's programs take it; ids are those of `coco_results`."""
    ids = {valid_utf8(name): number for number, name in enumerate(categories, 1)}

    def write(file: IO[bytes]) -> None:
        separator = b"[\n"
        for row in rows():
            for one in row.get("objects", ()):
                x1, y1, x2, y2 = one["box"]
                result = {
                    "image_id": file_id(row["image"]),
                    "category_id": ids[one["category"]],
                    "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                    "score": one["score"],
                    "file_name": row["image"],
                    "category": one["category"],
                }
                if "segmentation" in one:
                    result["segmentation"] = one["segmentation"]
                file.write(separator + json.dumps(result).encode())
                separator = b",\n"
        file.write(b"\n]\n" if separator == b",\n" else b"[]\n")

    atomic_write(path, write)


def _write_yolo(path: Path, rows: Rows, categories: Sequence[str]) -> None:
    """A text for each image that could be read, in the folders of the images."""
    ids = {valid_utf8(name): number for number, name in enumerate(categories)}
    names = [row["image"] for row in rows() if "error" not in row]
    texts = label_files(names)
    make_folder(path)
    _remove_others(path, set(texts.values()))
    write_bytes(path / CLASSES, "".join(f"{valid_utf8(name)}\n" for name in categories).encode())
    for row in rows():
        if "error" in row:
            continue
        lines = []
        for one in row["objects"]:
            numbers = _yolo_numbers(one, row["width"], row["height"])
            lines.append(f"{ids[one['category']]} {' '.join(f'{v:.6f}' for v in numbers)}\n")
        text = path / texts[row["image"]]
        make_folder(text.parent)
        text.write_bytes("".join(lines).encode())


def _yolo_numbers(one: dict[str, Any], width: int, height: int) -> list[float]:
    """An object in fractions of its image: the largest outline of its mask, else its box."""
    if one.get("polygons"):
        return [v / (height if i % 2 else width) for i, v in enumerate(one["polygons"][0])]
    x1, y1, x2, y2 = one["box"]
    return [
        (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height,
    ]  # fmt: skip


def _remove_others(folder: Path, texts: set[str]) -> None:
    """Remove texts of an earlier command: with more images, their common folder may be another."""
    record = folder / WRITTEN
    earlier = record.read_text("utf-8").splitlines() if record.exists() else []
    for text in set(earlier) - texts:
        (folder / text).unlink(missing_ok=True)
    write_bytes(record, "".join(f"{text}\n" for text in sorted(texts)).encode())


def label_files(images: Sequence[str]) -> dict[str, str]:
    """The text file of each image or frame, below the folder that all images have in common.

    Raises:
        UserError: if two images would have the same.
    """
    texts: dict[str, str] = {}
    owners: dict[str, str] = {}
    for name, stem in _stems(images).items():
        texts[name] = f"{stem}.txt"
        other = owners.setdefault(stem.casefold(), name)
        if other != name:
            message = f"{other} and {name} would have the same labels, {stem}.txt"
            raise UserError(message, hint="rename one, or give --out FILE.jsonl")
    return texts


def picture_files(images: Sequence[str]) -> dict[str, str]:
    """A file for the picture of each image, likewise, without ending; all are different.

    They depend on the images alone, so that a command that is repeated names them alike.
    """
    found: dict[str, str] = {}
    used: set[str] = set()
    for name, stem in _stems(images).items():
        number, own = 1, stem
        while own.casefold() in used:
            number += 1
            own = f"{stem}_{number}"
        used.add(own.casefold())
        found[name] = own
    return found


def _stems(images: Sequence[str]) -> dict[str, str]:
    """The path of each image below their common folder, without its ending."""
    paths = {name: _local_path(name) for name in images}
    folders = {os.path.dirname(path) for path in paths.values()}  # noqa: PTH120
    common = os.path.commonpath(folders) if folders else ""
    found = {}
    for name, path in paths.items():
        file, _, frame = os.path.relpath(path, common).rpartition("#")
        if not (file and frame.isdigit() and is_video(file)):
            file, frame = os.path.relpath(path, common), ""
        stem = os.path.splitext(file)[0]  # noqa: PTH122
        found[name] = with_frame(stem, int(frame) if frame else None)
    return found


def with_frame(stem: str, frame: int | None) -> str:
    """A file's name, with the number of a video's frame if it is of one."""
    return stem if frame is None else f"{stem}_{frame:06}"


def _local_path(name: str) -> str:
    """The absolute path of a file; of a URL, that of its last part in the current folder."""
    if is_url(name):
        name = urlsplit(name).path.rpartition("/")[2] or "image"
    return os.path.abspath(name)  # noqa: PTH100 (keeps links)
