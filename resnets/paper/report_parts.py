"""What a report is made of, before it becomes HTML or Markdown: both show the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from resnets.analysis.panels import Drawing


@dataclass(frozen=True)
class Source:
    """A result behind a number: what it says there, and its key in the store."""

    text: str
    key: str


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        text: what is read; lines are kept.
        sources: the results it was computed from, one for each seed.
        note: a few small words below.
        tone: `quiet` for what is not ours to measure; or a verdict, for its mark.
    """

    text: str = ""
    sources: Sequence[Source] = ()
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Head:
    """A column's header, with the budget as a badge where the column holds our numbers."""

    text: str
    badge: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of every row names the row."""

    caption: str
    header: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    words: bool = False
    """Whether its cells are sentences, to be set from the left."""
    note: str = ""
    """What holds for the whole table, in small letters below the caption."""


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    Args:
        name: of its file beside the Markdown, without ending.
        caption: what is drawn.
        text: what it shows in words and numbers, for those who do not see it.
        badge: the budget.
        sources: the results it was drawn from.
    """

    name: str
    caption: str
    text: str
    badge: str
    drawing: Drawing
    sources: Sequence[Source] = ()


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Missing:
    """Something that nobody has run yet, and the command that does."""

    text: str
    command: str


Part = Table | Figure | Text | Missing


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """Its identifier in the page."""
        return anchor(self.title)


@dataclass(frozen=True)
class Record:
    """Where a result comes from: number in the list, key, kind, and facts in order."""

    number: int
    key: str
    kind: str
    summary: str
    facts: Sequence[tuple[str, str]]
    file: str = ""
    """Address of the result file, from the report's folder."""


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
    records: Sequence[Record] = field(default_factory=list)

    def numbers(self) -> dict[str, int]:
        """The number of every result in the list."""
        return {record.key: record.number for record in self.records}

    def figures(self) -> list[Figure]:
        """All figures in order."""
        parts = [part for section in self.sections for part in section.parts]
        return [part for part in parts if isinstance(part, Figure)]


def anchor(text: str) -> str:
    """An identifier made of a text's letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
