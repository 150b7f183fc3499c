"""The report as a document: sections of tables and figures, written as HTML and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

from resnets.analysis.panels import Drawing
from resnets.support.markdown import table as markdown_table


@dataclass(frozen=True)
class Source:
    """A result from which a number was computed: text of the link, and key in the store."""

    text: str
    key: str


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Args:
        text: may have several lines.
        sources: the results from which it was computed, one for each seed.
        note: a few words in small letters below.
        tone: `quiet` for numbers of the paper and absent ones; or a verdict, for its mark.
    """

    text: str = ""
    sources: Sequence[Source] = ()
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Head:
    """The header of a column, with the budget as a badge if the numbers are ours."""

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
    """Whether the cells are sentences, which are aligned to the left."""
    note: str = ""
    """A note on the whole table, in small letters below the caption."""


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    Args:
        name: of its PNG file, without ending.
        caption: what is drawn.
        text: the main numbers, also read aloud by screen readers.
        badge: the budget.
        sources: the results from which it was drawn.
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
    """Results that are missing, and the command that makes them."""

    text: str
    command: str


Part = Table | Figure | Text | Missing


@dataclass(frozen=True)
class Section:
    """A heading with its tables, figures and paragraphs."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """The identifier of the section in the page."""
        return anchor(self.title)


@dataclass(frozen=True)
class Record:
    """The origin of a result: number in the list, key, summary, and facts in order."""

    number: int
    key: str
    summary: str
    facts: Sequence[tuple[str, str]]
    file: str = ""
    """Address of the result file, relative to the report's folder."""


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
    """An identifier made of the letters and digits of a text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


MARKS = {"holds": "✓", "does not hold": "✗", "not clear": "?", "not run": "–"}
"""Signs before a verdict, so that it does not depend on colour alone."""


def html(page: Page) -> str:
    """A page as one self-contained file: figures inline, no script, nothing to download."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = (resources.files("resnets") / "paper" / "report.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        page=page,
        numbers=page.numbers(),
        marks=MARKS,
        kind=lambda part: type(part).__name__.lower(),
    )


def markdown(page: Page) -> str:
    """A page as Markdown; its figures are PNG files in the same folder."""
    numbers = page.numbers()
    blocks = [f"# {_plain(page.title)}", *map(_plain, page.lead)]
    blocks.append("\n".join(f"- [{_plain(s.title)}](#{s.anchor})" for s in page.sections))
    for section in page.sections:
        blocks += [f'<a id="{section.anchor}"></a>', f"## {_plain(section.title)}"]
        blocks += [_part(part, numbers) for part in section.parts]
    if page.records:
        blocks += ['<a id="results"></a>', "## Where the numbers come from"]
        blocks.append(_records(page.records))
    return "\n\n".join(blocks) + "\n"


def _part(part: Part, numbers: dict[str, int]) -> str:
    match part:
        case Table():
            return _table(part, numbers)
        case Figure():
            sources = _sources(part.sources, numbers)
            badge = f" **[{_plain(part.badge)}]**" if part.badge else ""
            alternative = _plain(part.text).replace("\\", "")
            return (
                f"![{_brackets(alternative)}]({part.name}.png)\n\n"
                f"*{_plain(part.caption)}*{badge} {_plain(part.text)}{sources}"
            )
        case Missing():
            return f"> {_plain(part.text)}: `{part.command}`"
    return _plain(part.text)


def _table(table: Table, numbers: dict[str, int]) -> str:
    rows = [[_cell(cell, numbers) for cell in row] for row in table.rows]
    body = markdown_table([_head(head) for head in table.header], rows, numbers=not table.words)
    note = f"\n\n{_plain(table.note)}" if table.note else ""
    return f"**{_plain(table.caption)}**{note}\n\n{body}"


def _head(head: Head) -> str:
    badge = f"[{head.badge}]" if head.badge else ""
    return "<br>".join(_plain(part) for part in (head.text, badge, head.note) if part)


def _cell(cell: Cell, numbers: dict[str, int]) -> str:
    mark = f"{MARKS[cell.tone]} " if cell.tone in MARKS else ""
    note = f"<br><small>{_plain(cell.note)}</small>" if cell.note else ""
    text = "<br>".join(map(_plain, cell.text.splitlines()))
    return f"{mark}{text}{_sources(cell.sources, numbers)}{note}"


def _sources(sources: Sequence[Source], numbers: dict[str, int]) -> str:
    links = [f"[{numbers[s.key]}](#result-{numbers[s.key]})" for s in sources]
    return f" <sup>{', '.join(links)}</sup>" if links else ""


def _records(records: Sequence[Record]) -> str:
    lines = ["| | result | what | from |", "| ---: | --- | --- | --- |"]
    for record in records:
        key = f"`{record.key}`".replace("|", "\\|")
        link = f"[{key}]({record.file})" if record.file else key
        facts = "<br>".join(f"{_plain(name)}: {_plain(fact)}" for name, fact in record.facts)
        lines.append(
            f'| <a id="result-{record.number}"></a>{record.number} '
            f"| {link} | {_plain(record.summary)} | {facts} |"
        )
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text on one line, with all markup escaped."""
    escaped = re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _brackets(text: str) -> str:
    return re.sub(r"([\[\]])", r"\\\1", text)
