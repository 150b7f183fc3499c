"""What is wrong with a folder of images, before a training finds out.

A broken folder is what this is for: nothing that is wrong in it stops the examination.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from resnets.data import folders
from resnets.data.images import Header, decode, intact_png, read_header
from resnets.doctor import duplicates
from resnets.doctor.findings import KINDS, Report
from resnets.doctor.survey import Images, survey
from resnets.support.errors import UserError
from resnets.support.files import existing_folder, write_bytes
from resnets.support.parallel import in_threads

SMALLEST_SIDE, LARGEST_RATIO, LARGEST_IMBALANCE = 32, 5, 10
CHUNK = 32
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe"), "MPO": (".jpg", ".jpeg", ".jpe"), "PNG": (".png",),
    "WEBP": (".webp",), "AVIF": (".avif",), "BMP": (".bmp",), "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"), "PPM": (".pgm", ".pnm", ".ppm"),
}  # fmt: skip
Progress = Callable[[int, int], None]


def examine(folder: Path, threads: int | None = None, progress: Progress | None = None) -> Report:
    """Read and decode every image of a data folder and report what is wrong.

    Args:
        folder: in any layout of `resnets.data.folders`.
        threads: how many images are decoded at once; as many as there are cores by default.
        progress: called with the images done and their number.

    Raises:
        UserError: if there is no such folder; nothing else.
    """
    began = monotonic()
    report = Report(existing_folder(folder, "give a folder of images"))
    images = survey(report)
    report.images = len(images.files)
    _read_all(images, report, threads or os.cpu_count() or 1, progress)
    _judge_classes(report)
    order = list(KINDS)
    report.findings.sort(key=lambda f: (order.index(f.kind), f.paths))
    report.seconds = monotonic() - began
    return report


def quarantine(report: Report, listing: Path) -> int:
    """Add the files that cannot be read to a list; returns how many of them it lists.

    Folders heed the list if it is their own file `.quarantine`. No image is touched.

    Raises:
        UserError: if the list cannot be read or written.
    """
    try:
        there = listing.read_bytes() if listing.exists() else b""
    except OSError as error:
        raise UserError(f"cannot be read ({error})", str(listing)) from error
    lines = there.decode("utf-8", "surrogateescape").splitlines()
    lines = lines or ["# Images that `resnets doctor` could not read, below the data folder."]
    new = [f"./{p}" if p.startswith("#") else p for p in report.bad_files if "\n" not in p]
    lines += [path for path in new if path not in set(lines)]
    write_bytes(listing, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    return len(new)


@dataclass
class _Seen:
    """What one file turned out to be; `look` is None where it could not be decoded."""

    size: int = 0
    digest: bytes = bytes(16)
    look: int | None = None
    header: Header | None = None
    wrong: tuple[str, str] | None = None


def _look_at(files: folders.ImageFolder, index: int) -> _Seen:
    seen = _Seen()
    try:
        content = files.read(index)
    except UserError as error:
        seen.wrong = "unreadable", error.message
        return seen
    seen.size = len(content)
    if not content:
        seen.wrong = "empty-file", "no bytes"
        return seen
    seen.digest = hashlib.sha256(content).digest()[:16]
    try:
        seen.header = read_header(content, "")
        image = decode(content, "", duplicates.SIDE)
    except UserError as error:
        seen.wrong = _kind_of(error.message), error.message
        return seen
    seen.look = duplicates.look(image)
    seen.wrong = _damage(seen.header, content)
    return seen


def _kind_of(message: str) -> str:
    if "too large" in message:
        return "too-large"
    if message == "not an image":
        return "not-an-image"
    cut = any(sign in message.lower() for sign in ("truncated", "end of file", "end of data"))
    return "truncated" if cut else "corrupt"


def _damage(header: Header, content: bytes) -> tuple[str, str] | None:
    """What the decoders pass over: JPEGs filled up with grey, PNGs with flipped bits."""
    if header.format == "PNG" and not intact_png(content):
        return "damaged", "its checksums do not fit its content"
    if header.format != "JPEG":
        return None
    zeros = len(content) - len(content.rstrip(b"\0"))
    if zeros >= 512:
        return "damaged", f"ends in {zeros:,} zero bytes, as after a broken download"
    if content.find(b"\xff\xd9", content.rfind(b"\xff\xda")) < 0:
        return "damaged", "has no end marker"
    return None


def _read_all(images: Images, report: Report, threads: int, progress: Progress | None) -> None:
    count = len(images.files)
    digests = np.zeros(count, "V16")
    looks = np.zeros(count, np.uint64)
    decoded = np.zeros(count, bool)
    sides = np.zeros(count, np.int32)
    together: dict[tuple[str, str], list[str]] = defaultdict(list)

    def chunk(start: int) -> list[_Seen]:
        return [_look_at(images.files, i) for i in range(start, min(start + CHUNK, count))]

    results = in_threads(chunk, range(0, count, CHUNK), threads)
    for start, result in zip(range(0, count, CHUNK), results, strict=True):
        for index, seen in enumerate(result, start):
            _record(report, seen, images.files.name(index), together)
            if seen.header and seen.look is not None:
                digests[index], looks[index], decoded[index] = seen.digest, seen.look, True
                sides[index] = min(seen.header.width, seen.header.height)
        if progress:
            progress(start + len(result), count)
    for (kind, detail), paths in together.items():
        report.add(kind, detail, *paths)
    if decoded.any():
        least, median, most = np.percentile(sides[decoded], (0, 50, 100)).tolist()
        report.sizes = round(least), round(median), round(most)
    for same_file, group in duplicates.groups(images.files, digests, looks, decoded, threads):
        _judge_group(images, report, group, same_file)


def _record(
    report: Report, seen: _Seen, path: str, together: dict[tuple[str, str], list[str]]
) -> None:
    """Put what one file turned out to be into the report, harmless oddities apart."""
    report.bytes += seen.size
    if seen.wrong:
        report.add(*seen.wrong, path)
    if seen.header and seen.look is not None:
        _count(report, seen.header)
        for finding in _oddities(seen.header, path):
            together[finding].append(path)


def _count(report: Report, header: Header) -> None:
    report.facts[f"{header.format} files"] += 1
    if header.mode in ("L", "LA", "1"):
        report.facts["greyscale"] += 1
    elif header.mode == "CMYK":
        report.facts["CMYK"] += 1
    elif header.mode.startswith("I"):
        report.facts["16-bit greyscale"] += 1
    elif header.mode in ("P", "PA"):
        report.facts["with a palette"] += 1
    elif header.mode == "RGBA":
        report.facts["with transparency"] += 1
    if header.orientation != 1:
        report.facts["turned by EXIF data"] += 1


def _oddities(header: Header, path: str) -> list[tuple[str, str]]:
    found = []
    ending = Path(path).suffix.lower()
    if ending not in _ENDINGS.get(header.format, (ending,)):
        found.append(("wrong-ending", f"{header.format} content named {ending}"))
    shorter, longer = sorted((header.width, header.height))
    if shorter < SMALLEST_SIDE:
        found.append(("odd-size", f"shorter side below {SMALLEST_SIDE} pixels"))
    if longer > LARGEST_RATIO * shorter:
        found.append(("odd-size", f"more than {LARGEST_RATIO} times as long as wide"))
    return found


def _judge_group(images: Images, report: Report, group: NDArray[np.int64], same_file: bool) -> None:
    """A group of files that show the same image."""
    classes = sorted({images.classes[k] for k in images.files.labels[group]})
    splits = sorted({images.splits[images.split_of[i]] for i in group})
    paths = sorted(images.files.name(int(i)) for i in group)
    how = "the same file" if same_file else "looks the same"
    if len(classes) > 1:
        report.add("mislabelled", f"{how} in classes {', '.join(classes)}", *paths)
    if len(splits) > 1:
        report.add("leak", f"{how} in {' and '.join(splits)}", *paths)
    if len(classes) == len(splits) == 1:
        report.add("duplicate", f"{how} {len(paths)} times in class {classes[0]}", *paths)


def _judge_classes(report: Report) -> None:
    splits = report.splits
    if "listed" in splits:
        return
    if "train" not in splits and "all" not in splits:
        report.add("layout", "val has no train beside it")
    for split, counts in splits.items():
        used = sorted(name for name, images in counts.items() if images)
        if not used:
            report.add("layout", "no images", "" if split == "all" else split)
        elif split != "val":
            _judge_training_classes(report, counts, used)
    train = splits.get("train")
    val = splits.get("val", {})
    if train is None or not any(val.values()):
        return
    for name in sorted(train.keys() | val.keys()):
        if val.get(name) and not train.get(name):
            detail = f"class {name}: {val[name]:,} images in val, none in train"
            report.add("unknown-class", detail, f"val/{name}")
        elif train.get(name) and not val.get(name):
            detail = f"class {name}: {train[name]:,} images in train, none in val"
            report.add("missing-in-val", detail, f"train/{name}")


def _judge_training_classes(report: Report, counts: dict[str, int], used: list[str]) -> None:
    if len(used) == 1:
        report.add("layout", f"only one class, {used[0]}; a classifier needs two or more")
    for name in sorted(counts.keys() - set(used)):
        report.add("empty-class", f"class {name} has no images", name)
    smallest, largest = min(used, key=counts.__getitem__), max(used, key=counts.__getitem__)
    if counts[largest] > LARGEST_IMBALANCE * counts[smallest]:
        detail = (
            f"{largest} has {counts[largest]:,} images, {smallest} {counts[smallest]:,}: "
            f"{counts[largest] / counts[smallest]:.0f} times as many"
        )
        report.add("imbalance", detail)
