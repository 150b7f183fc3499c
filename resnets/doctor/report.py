"""What the doctor found in a folder of images, as text, JSON, and an HTML page with pictures."""

from __future__ import annotations

import base64
import io
from collections import Counter
from dataclasses import dataclass, field
from importlib import resources
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from PIL import Image, ImageDraw

from resnets.data.boxes.annotations import Box
from resnets.data.images import read_image
from resnets.support.errors import UserError, valid_utf8
from resnets.support.names import counted, printable, valid_values

Severity = Literal["error", "warning", "note"]
KINDS: dict[str, tuple[Severity, str]] = {
    "layout": ("error", "the folder cannot be trained on"),
    "label-file": ("error", "the label file does not fit the images"),
    "quarantine": ("error", "the list of excluded images does not fit the images"),
    "unknown-class": ("error", "classes of val that train does not have"),
    "unreadable": ("error", "files or folders that the system refuses to read"),
    "empty-file": ("error", "files of no bytes"),
    "not-an-image": ("error", "files named like an image that are not images"),
    "unsupported": ("error", "images of formats that are not read"),
    "truncated": ("error", "images whose end is missing"),
    "corrupt": ("error", "images that cannot be decoded"),
    "too-large": ("error", "images too large to decode safely"),
    "box-file": ("error", "annotation files that are malformed"),
    "missing-image": ("error", "annotated images that do not exist"),
    "image-size": ("error", "images that are not of the size that their annotations say"),
    "unknown-category": (
        "error",
        "categories that are not declared, or not in the training images",
    ),
    "in-both-splits": ("error", "images that the annotations give to both splits"),
    "damaged": ("warning", "images that decode although their files are damaged"),
    "blank": ("warning", "images of almost one colour"),
    "mislabelled": ("warning", "the same image in several classes"),
    "leak": ("warning", "the same image in train and val"),
    "imbalance": ("warning", "classes of very different size"),
    "empty-class": ("warning", "classes without images"),
    "missing-in-val": ("warning", "classes that are never tested"),
    "unlabelled": ("warning", "images without a label"),
    "empty-box": ("warning", "boxes without width or height, which trainings leave out"),
    "outside-box": ("warning", "boxes outside their image, which trainings leave out"),
    "clipped-box": ("warning", "boxes that reach beyond their image"),
    "small-box": ("warning", "boxes of less than a pixel, which trainings leave out"),
    "duplicate-box": ("warning", "objects that are annotated twice"),
    "no-segment": ("warning", "objects without a segment, although others have one"),
    "few-points": ("warning", "polygons of fewer than three different points"),
    "outside-segment": ("warning", "segments that reach beyond their box or image"),
    "shifted-boxes": ("warning", "boxes that seem to be shifted by a pixel"),
    "turned-image": (
        "warning",
        "images turned by EXIF data: boxes may be of the other orientation",
    ),
    "similar-names": ("warning", "classes whose names look alike"),
    "not-used": ("warning", "folders and files that no training uses"),
    "odd-size": ("note", "very small or very elongated images"),
    "duplicate": ("note", "the same image more than once"),
    "huge-box": ("note", "boxes of nearly the whole image"),
    "tiny-box": ("note", "boxes of few pixels at the size that a detector sees"),
    "wrong-ending": ("note", "files whose content is of another format than their ending says"),
}
"""Severity and heading of each kind of finding, the worst first.

The details of a finding are worded where it is made, in `resnets.doctor.checks` (and, for faults
of single images, in `resnets.data.images`): search for its kind.
"""

UNREADABLE = (
    "unreadable", "empty-file", "not-an-image", "unsupported", "truncated", "corrupt", "too-large",
)  # fmt: skip
"""Kinds of findings whose files no training can read; those of `ImageError`."""

JSON_FORMAT = 1
TEXT_LINES = 10  # findings of a kind, and paths of a finding, in the text
PAGE_FINDINGS = 50  # findings of a kind on the page
PAGE_PICTURES = 6  # pictures of one finding on the page
THUMBNAIL = 128  # pixels of a picture's longer side


@dataclass(frozen=True)
class Finding:
    """One fault in a data folder.

    Args:
        kind: one of `KINDS`.
        detail: what was found, in words.
        paths: the files or folders, relative to the data folder.
    """

    kind: str
    detail: str
    paths: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind][0]


@dataclass
class Report:
    """The result of examining a folder.

    Args:
        folder: the data folder.
        table: the file that lists its images with their classes, if that was given.
        splits: number of images of each class in `train` and `val`, or in `all` for a single
            folder, or in `listed` if a file numbers the classes.
        findings: the worst first.
        ignored: number of files and folders that are left out, by reason.
        facts: number of images by format, kind of pixels and the like.
        images: number of files examined.
        bytes: their total size.
        sizes: least, median and greatest shorter side in pixels.
        seconds: duration of the examination.
        unit: what `splits` counts: `image`, or `box`.
        boxes: the boxes to draw on each image, in fractions of it, and whether they are at fault.
        examples: images to show on the page whether or not there are findings.
        archive: the archive that was unpacked to the folder; empty if there is none.
    """

    folder: Path
    table: Path | None = None
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)
    images: int = 0
    bytes: int = 0
    sizes: tuple[int, int, int] | None = None
    seconds: float = 0.0
    unit: Literal["image", "box"] = "image"
    boxes: dict[str, list[tuple[Box, bool]]] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    archive: str = ""

    def add(self, kind: str, detail: str, *paths: str) -> None:
        self.findings.append(Finding(kind, detail, paths))

    def finish(self, began: float) -> None:
        """Sort the findings, the worst first; `began` is the time of `monotonic` at the start."""
        order = list(KINDS)
        self.findings.sort(key=lambda f: (order.index(f.kind), f.paths))
        self.seconds = monotonic() - began

    def count(self, severity: Severity) -> int:
        """Number of findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def unreadable_files(self) -> list[str]:
        """Images that cannot be read, relative to the data folder."""
        return sorted({p for f in self.findings if f.kind in UNREADABLE for p in f.paths})

    def by_kind(self) -> list[tuple[str, list[Finding]]]:
        """The kinds of findings, the worst first, with the findings of each."""
        return [(kind, list(found)) for kind, found in groupby(self.findings, lambda f: f.kind)]


def to_json(report: Report) -> dict[str, Any]:
    """The whole report as plain values for JSON."""
    facts = {
        "format": JSON_FORMAT,
        "folder": str(report.folder),
        "archive": report.archive,
        "images": report.images,
        "bytes": report.bytes,
        "seconds": round(report.seconds, 2),
        "errors": report.count("error"),
        "warnings": report.count("warning"),
        "notes": report.count("note"),
        "splits": report.splits,
        "ignored": dict(report.ignored),
        "facts": dict(report.facts),
        "shorter_side": dict(zip(("least", "median", "most"), report.sizes or (), strict=False)),
        "findings": [
            {"kind": f.kind, "severity": f.severity, "detail": f.detail, "paths": list(f.paths)}
            for f in report.findings
        ],
    }
    checked: dict[str, Any] = valid_values(facts)
    return checked


def to_text(report: Report) -> str:
    """The report for a terminal: at most `TEXT_LINES` findings of each kind."""
    lines = [_summary(report), *(f"  {line}" for line in _overview(report))]
    for kind, found in report.by_kind():
        severity, meaning = KINDS[kind]
        lines += ["", f"{severity}: {meaning} ({kind}, {len(found):,})"]
        for finding in found[:TEXT_LINES]:
            lines += [f"  {line}" for line in _described(finding)]
        if len(found) > TEXT_LINES:
            more = len(found) - TEXT_LINES
            lines.append(f"  ... and {more:,} more (--json and --html list all)")
    return "\n".join(map(printable, lines))


def to_html(report: Report) -> str:
    """The report as one HTML page that needs no other file."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = (resources.files("resnets") / "doctor" / "page.html").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        name=report.folder.name,
        summary=_summary(report),
        overview=_overview(report),
        kinds=[(kind, *KINDS[kind], found) for kind, found in report.by_kind()],
        most_findings=PAGE_FINDINGS,
        most_pictures=PAGE_PICTURES,
        examples=report.examples,
        side=_side(report),
        is_file=lambda path: (report.folder / path).is_file(),
        thumbnail=lambda path: _thumbnail(report, path),
    )
    return valid_utf8(page)


def _summary(report: Report) -> str:
    """One line: how many images, how many findings."""
    severities: tuple[Severity, ...] = ("error", "warning", "note")
    found = ", ".join(counted(report.count(s), s) for s in severities)
    name, images = report.archive or report.folder, counted(report.images, "image")
    return f"{name}: {images}, {report.bytes / 1e6:,.1f} MB: {found}"


def _overview(report: Report) -> list[str]:
    """Lines that describe the folder, whether or not there are findings."""
    lines = []
    for split, counts in report.splits.items():
        filled = [count for count in counts.values() if count]
        classes = counted(len(filled), "class", "classes")
        units = counted(sum(filled), report.unit, "boxes" if report.unit == "box" else "")
        line = f"{split}: {units} of {classes}"
        if filled and split != "listed":
            line += f", {min(filled):,} to {max(filled):,} in each"
        lines.append(line)
    if report.sizes:
        least, median, most = report.sizes
        lines.append(f"shorter side: {least} to {most} pixels, median {median}")
    if report.facts:
        lines.append(", ".join(f"{n:,} {what}" for what, n in report.facts.most_common()))
    for reason, count in report.ignored.most_common():
        lines.append(f"left out: {reason}: {count:,}")
    return lines


def _described(finding: Finding) -> list[str]:
    if len(finding.paths) == 1:
        return [f"{finding.paths[0]}: {finding.detail}"]
    lines = [finding.detail] + [f"  {path}" for path in finding.paths[:TEXT_LINES]]
    if len(finding.paths) > TEXT_LINES:
        lines.append(f"  ... and {counted(len(finding.paths) - TEXT_LINES, 'more file')}")
    return lines


def _side(report: Report) -> int:
    """Pixels of a picture's longer side."""
    return 2 * THUMBNAIL if report.boxes else THUMBNAIL


def _thumbnail(report: Report, name: str) -> str | None:
    """A small JPEG with the image's boxes as a data URL; None if the image cannot be read."""
    side = _side(report)
    try:
        image = read_image(report.folder / name, side)
    except UserError:
        return None
    image.thumbnail((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for box, at_fault in sorted(report.boxes.get(name, []), key=lambda pair: pair[1]):
        corners = [value * image.size[i % 2] for i, value in enumerate(box)]
        draw.rectangle(corners, outline="#ff1744" if at_fault else "#00e5ff", width=2)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
