"""The doctor's report as text, JSON, and a page with pictures."""

from __future__ import annotations

import base64
import io
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image

from resnets.data.images import read_image
from resnets.doctor.findings import KINDS, Finding, Report
from resnets.support.errors import UserError

FORMAT = 1
LINES = 10  # findings of a kind, and paths of a finding, in the text
PICTURES = 50  # findings of a kind on the page
PICTURES_EACH = 6  # pictures of one finding on the page
THUMBNAIL = 128  # pixels


def facts(report: Report) -> dict[str, Any]:
    """The whole report as plain values for JSON."""
    return {
        "format": FORMAT,
        "folder": str(report.folder),
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


def text(report: Report) -> str:
    """The report for a terminal: at most `LINES` findings of each kind."""
    lines = [summary(report), *(f"  {line}" for line in overview(report))]
    for kind, found in _by_kind(report):
        severity, meaning = KINDS[kind]
        lines += ["", f"{severity}: {meaning} ({kind}, {len(found):,})"]
        for finding in found[:LINES]:
            lines += [f"  {line}" for line in _described(finding)]
        if len(found) > LINES:
            lines.append(f"  ... and {len(found) - LINES:,} more (all of them: --json, --html)")
    return printable("\n".join(lines))


def printable(line: str) -> str:
    """The text with bytes of names that are no UTF-8 spelt out."""
    return line.encode("utf-8", "backslashreplace").decode()


def summary(report: Report) -> str:
    """One line: how many images, how many findings."""
    found = [_counted(report.count(s), s) for s in ("error", "warning", "note")]
    size = report.bytes / 1e6
    return f"{report.folder}: {report.images:,} images, {size:,.1f} MB: {', '.join(found)}"


def overview(report: Report) -> list[str]:
    """Lines that describe the folder whether or not anything is wrong."""
    lines = []
    for split, counts in report.splits.items():
        filled = [count for count in counts.values() if count]
        line = f"{split}: {sum(filled):,} images of {_counted(len(filled), 'class', 'classes')}"
        if filled and split != "listed":
            line += f", {min(filled):,} to {max(filled):,} in each"
        lines.append(line)
    if report.sizes:
        least, median, most = report.sizes
        lines.append(f"shorter side: {least} to {most} pixels, median {median}")
    if report.facts:
        lines.append(", ".join(f"{n:,} {what}" for what, n in report.facts.most_common()))
    for reason, count in report.ignored.most_common():
        lines.append(f"left out: {count:,} {reason}")
    return lines


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _by_kind(report: Report) -> list[tuple[str, list[Finding]]]:
    return [(kind, list(found)) for kind, found in groupby(report.findings, lambda f: f.kind)]


def _described(finding: Finding) -> list[str]:
    if len(finding.paths) == 1:
        return [f"{finding.paths[0]}: {finding.detail}"]
    lines = [finding.detail] + [f"  {path}" for path in finding.paths[:LINES]]
    if len(finding.paths) > LINES:
        lines.append(f"  ... and {len(finding.paths) - LINES:,} more files")
    return lines


STYLE = """
:root { color-scheme: light dark; --line: #8884; --error: #c62828; --warning: #b26a00;
  --note: #546e7a; }
@media (prefers-color-scheme: dark) {
  :root { --error: #ff8a80; --warning: #ffcc80; --note: #b0bec5; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
.error { color: var(--error); } .warning { color: var(--warning); } .note { color: var(--note); }
table { border-collapse: collapse; } td { padding: .1rem 1rem .1rem 0; vertical-align: top; }
.found { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem; margin: .6rem 0; }
.found p { margin: 0 0 .3rem; overflow-wrap: anywhere; }
.pictures { display: flex; flex-wrap: wrap; gap: .6rem; }
figure { margin: 0; width: 128px; } figcaption { font-size: .75rem; overflow-wrap: anywhere; }
img, .none { max-width: 128px; max-height: 128px; border-radius: .25rem; }
.none { width: 128px; height: 64px; border: 1px dashed var(--line); display: grid;
  place-items: center; font-size: .75rem; box-sizing: border-box; }
"""


def page(report: Report) -> str:
    """The report as one HTML page that needs no other file."""
    body = [f"<h1>{escape(summary(report))}</h1>", "<ul>"]
    body += [f"<li>{escape(line)}</li>" for line in overview(report)]
    body += ["</ul>", "<table>"]
    for kind, found in _by_kind(report):
        severity, meaning = KINDS[kind]
        body.append(
            f'<tr><td class="{severity}">{severity}</td><td>{len(found):,}</td>'
            f'<td><a href="#{kind}">{escape(meaning)}</a></td></tr>'
        )
    body.append("</table>")
    if not report.findings:
        body.append("<p>Nothing is wrong.</p>")
    for kind, found in _by_kind(report):
        body += _section(report.folder, kind, found)
    return printable(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.folder.name)}: image check</title>\n<style>{STYLE}</style>"
        "</head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _section(folder: Path, kind: str, found: list[Finding]) -> list[str]:
    severity, meaning = KINDS[kind]
    lines = [f'<h2 id="{kind}"><span class="{severity}">{severity}</span>: {escape(meaning)}</h2>']
    for finding in found[:PICTURES]:
        lines.append(f'<div class="found"><p>{escape(finding.detail)}</p><div class="pictures">')
        lines += [_figure(folder, path) for path in finding.paths[:PICTURES_EACH]]
        lines.append("</div>")
        if len(finding.paths) > PICTURES_EACH:
            lines.append(f"<p>and {len(finding.paths) - PICTURES_EACH:,} more files</p>")
        lines.append("</div>")
    if len(found) > PICTURES:
        lines.append(f"<p>and {len(found) - PICTURES:,} more findings of this kind</p>")
    return lines


def _figure(folder: Path, path: str) -> str:
    if not (folder / path).is_file():
        return f"<figure><figcaption>{escape(path)}</figcaption></figure>"
    source = _thumbnail(folder / path)
    picture = f'<img alt="" src="{source}">' if source else '<div class="none">no picture</div>'
    return f"<figure>{picture}<figcaption>{escape(path)}</figcaption></figure>"


def _thumbnail(path: Path) -> str | None:
    try:
        image = read_image(path)
    except UserError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
