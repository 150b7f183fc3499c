"""A report's page as HTML, by a template, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources

from resnets.paper.report_parts import (
    Cell,
    Figure,
    Head,
    Missing,
    Page,
    Part,
    Record,
    Source,
    Table,
)

MARKS = {"holds": "✓", "does not hold": "✗", "not clear": "?", "not run": "–"}
"""Signs before a verdict, so that it is not told by colour alone."""


def html(page: Page) -> str:
    """One file that needs no other: figures inline, no script, nothing to fetch."""
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
    """The same for places that show Markdown; figures are PNG files beside it."""
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
    marks = ["---"] + ["---" if table.words else "---:"] * (len(table.header) - 1)
    lines = [[_head(head) for head in table.header], marks]
    lines += [[_cell(cell, numbers) for cell in row] for row in table.rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
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
    """Text in which nothing is markup; on one line."""
    escaped = re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(str(text).split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _brackets(text: str) -> str:
    return re.sub(r"([\[\]])", r"\\\1", text)
