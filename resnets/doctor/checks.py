"""What is wrong with a folder of images, found before a training fails or learns from it.

No fault of the folder stops the examination: each becomes a finding of the report. The line of a
finding is worded here, at `report.add`; the heading of its kind in `resnets.doctor.report.KINDS`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
from numpy.typing import NDArray
from PIL import ImageStat

from resnets.data import folders, png_chunks
from resnets.data.image_formats import ENDINGS
from resnets.data.images import Header, ImageError, decode, read_header
from resnets.data.label_files import is_table
from resnets.data.layouts import GIVE_A_FOLDER
from resnets.doctor import duplicates
from resnets.doctor.classes import check_classes
from resnets.doctor.listing import ImageList, list_images
from resnets.doctor.report import Report
from resnets.support.devices import cores
from resnets.support.errors import UserError
from resnets.support.files import decode_text, existing_folder, write_bytes
from resnets.support.parallel import in_threads

_SMALLEST_SIDE = 32  # pixels
_LARGEST_RATIO = 5  # of the longer side to the shorter
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
        folder: in any layout of `resnets.data.folders`; or its table of images and classes.
        threads: how many images are decoded at once; as many as there are cores by default.
        progress: called with the number of images done and the number of all.

    Raises:
        UserError: if there is no such folder; nothing else.
    """
    began = monotonic()
    table = folder if is_table(folder) else None
    report = Report(existing_folder(folder.parent if table else folder, GIVE_A_FOLDER), table)
    images = list_images(report)
    report.images = len(images.files)
    check_files(images, report, threads or cores(), progress)
    check_classes(report)
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
    lines = decode_text(old, str(path), "surrogateescape").rstrip("\n").split("\n")
    lines = [line.rstrip("\r") for line in lines if line]
    lines = lines or ["# Images that `resnets doctor` could not read, below the data folder."]
    # In a list, "#" begins a comment.
    bad = [f"./{p}" if p.startswith("#") else p for p in report.unreadable_files if "\n" not in p]
    lines += [name for name in bad if name not in set(lines)]
    write_bytes(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    return len(bad)


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


def check_files(images: ImageList, report: Report, threads: int, progress: Progress | None) -> None:
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
    images: ImageList, report: Report, group: NDArray[np.int64], same_file: bool
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
