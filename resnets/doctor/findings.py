"""What can be wrong with a folder of images, and the report that collects it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]
KINDS: dict[str, tuple[Severity, str]] = {
    "layout": ("error", "the folder cannot be trained on"),
    "label-file": ("error", "the file of labels does not fit the images"),
    "unknown-class": ("error", "classes to test on that the training does not have"),
    "unreadable": ("error", "files or folders that the system does not let us read"),
    "empty-file": ("error", "files of no bytes"),
    "not-an-image": ("error", "named like an image, but none"),
    "truncated": ("error", "images whose end is missing"),
    "corrupt": ("error", "images that cannot be decoded"),
    "too-large": ("error", "images too large to decode safely"),
    "damaged": ("warning", "images that decode, but not as they were made"),
    "mislabelled": ("warning", "the same image in several classes"),
    "leak": ("warning", "the same image to train and to test on"),
    "imbalance": ("warning", "classes of very different size"),
    "empty-class": ("warning", "classes without images"),
    "missing-in-val": ("warning", "classes that are never tested"),
    "unlabelled": ("warning", "images without a label"),
    "odd-size": ("note", "very small or very elongated images"),
    "duplicate": ("note", "the same image more than once in a class"),
    "wrong-ending": ("note", "content of another format than the name says"),
}
"""Kinds of findings, the worst first: how bad, and what it means."""

QUARANTINED = ("unreadable", "empty-file", "not-an-image", "truncated", "corrupt", "too-large")
"""Kinds whose files no training can read."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: one of `KINDS`.
        detail: what was found, in words.
        paths: the files or folders, below the data folder.
    """

    kind: str
    detail: str
    paths: tuple[str, ...] = ()

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind][0]


@dataclass
class Report:
    """What the examination of a folder found.

    Args:
        folder: the data folder.
        splits: images of each class in `train` and `val`, or in `all` of a single folder, or
            in `listed` where a file numbers the classes.
        findings: the worst first.
        ignored: files that are left out, counted by reason.
        facts: formats, kinds of pixels and the like, counted.
        images: files examined.
        bytes: their size.
        sizes: least, median and greatest shorter side in pixels.
        seconds: the time it took.
    """

    folder: Path
    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    facts: Counter[str] = field(default_factory=Counter)
    images: int = 0
    bytes: int = 0
    sizes: tuple[int, int, int] | None = None
    seconds: float = 0.0

    def add(self, kind: str, detail: str, *paths: str) -> None:
        self.findings.append(Finding(kind, detail, paths))

    def count(self, severity: Severity) -> int:
        """Findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def bad_files(self) -> list[str]:
        """Images that cannot be read, below the data folder."""
        bad = {p for f in self.findings if f.kind in QUARANTINED for p in f.paths}
        return sorted(bad)
