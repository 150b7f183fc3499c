"""The report: the paper's numbers and statements next to all results of a store."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from resnets.paper import document, experiments, tables
from resnets.paper.claims import CLAIMS, Claim
from resnets.paper.document import Cell, Head, Missing, Page, Part, Record, Section, Table, Text
from resnets.paper.results import Results
from resnets.paper.store import Group, Outcome
from resnets.paper.verdicts import Verdict
from resnets.support.files import make_folder, write_bytes

TITLE = "Deep residual networks: the paper's experiments, run again"
ERRORS = ("training", "test", "ensemble")
"""Kinds of results with a test error."""
STATEMENTS = {
    "cifar10": "Statements checked on CIFAR-10",
    "photos": "Statements checked on photographs",
    "nothing": "Statements checked by counting",
}
"""Captions, by the images that a statement needs."""
SHORT = {"cifar10": "CIFAR-10", "photos": "photographs", "nothing": "counts"}
WITHOUT = {"cifar10": "not run", "photos": "not run", "nothing": "needs no training"}
"""In the place of a budget, where there is none."""
STATES = tuple(document.MARKS)
FIRST = ("table6", "fig6")
"""Experiments that the report shows first."""


def write(outcomes: Sequence[Outcome], out: Path, results: Path | None = None) -> list[Path]:
    """Write `report.html`, `report.md` and the PNG files of its figures.

    Figures of an earlier report in the folder that are not in this one are removed.

    Args:
        outcomes: all results, of any budget.
        out: folder of the report; created if necessary.
        results: folder of the result files, for links to them.

    Returns:
        The files written, `report.html` first.

    Raises:
        UserError: if a result is damaged, naming it, or the disk refuses.
    """
    page = build(outcomes, out, results)
    files = {"report.html": document.html(page).encode()}
    files["report.md"] = document.markdown(page).encode()
    files |= {f"{figure.name}.png": figure.drawing.png for figure in page.figures()}
    make_folder(out)
    before = _earlier_figures(out)
    for name, content in files.items():
        write_bytes(out / name, content)
    for name in before - files.keys():
        (out / name).unlink(missing_ok=True)
    return [out / name for name in files]


def _earlier_figures(out: Path) -> set[str]:
    """The files of the figures of an earlier report in the same folder."""
    try:
        text = (out / "report.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    return set(re.findall(r"^!\[.*\]\(([a-z0-9-]+\.png)\)$", text, re.MULTILINE))


def build(outcomes: Sequence[Outcome], out: Path, results: Path | None = None) -> Page:
    """The page, before it is written; raises `UserError` like `write`."""
    found = Results(outcomes)
    judged = _judged(found)
    ordered = sorted(experiments.EXPERIMENTS, key=lambda e: (e.id not in FIRST, e.order))
    shown = [(e, section) for e in ordered for section in e.sections(found)]
    sections = [Section("In short", _summary(found, judged))]
    sections += [section for e, section in shown if e.id in FIRST]
    sections.append(Section("The paper's statements", _statements(found, judged)))
    sections += [section for e, section in shown if e.id not in FIRST]
    if found.all:
        sections.append(Section("Available results", [tables.runs(found)]))
    return Page(TITLE, _lead(found), _joined(sections), _records(found, out, results))


def _joined(sections: Sequence[Section]) -> list[Section]:
    """Sections of the same title as one, in which each command appears once."""
    parts: dict[str, list[Part]] = {}
    for section in sections:
        mine = parts.setdefault(section.title, [])
        for part in section.parts:
            if part not in mine or not isinstance(part, Missing):
                mine.append(part)
    return [Section(title, joined) for title, joined in parts.items()]


def _lead(results: Results) -> list[str]:
    lead = [
        'The numbers of "Deep Residual Learning for Image Recognition" (He, Zhang, Ren, Sun; '
        "arXiv 1512.03385) next to the results of this package. "
        "Errors are those of the last iteration, never the best ones on the test images. With "
        "several seeds a cell shows mean ± standard deviation and, in brackets, their number. "
        "Every number of ours links to the results from which it was computed."
    ]
    if not results.all:
        return [*lead, "Nothing has been run yet: every section names the command to run."]
    if not any(results.comparable(group) for group in results.groups()):
        lead.append(
            "No result here has both the paper's images and its length of training: compare the "
            "results with each other, not with the paper's numbers."
        )
    return lead


@dataclass(frozen=True)
class _Judged:
    """Statements that need one kind of images, with a verdict for each group of results."""

    needs: str
    groups: list[Group]
    claims: list[tuple[Claim, list[Verdict]]]

    def count(self, results: Results) -> list[tuple[str, Counter[str]]]:
        """For each budget: how many statements have each verdict."""
        names = [results.badge(group) for group in self.groups] or [WITHOUT[self.needs]]
        return [
            (name, Counter(verdicts[number].state for _, verdicts in self.claims))
            for number, name in enumerate(names)
        ]


def _judged(results: Results) -> list[_Judged]:
    """All verdicts. Smoke runs are not judged."""
    found = []
    for needs in STATEMENTS:
        groups = [] if needs == "nothing" else results.groups(cifar=needs == "cifar10")
        groups = [group for group in groups if group.budget != "smoke"]
        claims = [
            (claim, [claim.check(results, group) for group in groups] or [claim.check(results)])
            for claim in CLAIMS
            if claim.needs == needs
        ]
        found.append(_Judged(needs, groups, claims))
    return found


def _summary(results: Results, judged: Sequence[_Judged]) -> list[Part]:
    """How many of the paper's statements hold, and with which budget of training."""
    rows = [
        [Cell(SHORT[one.needs]), Cell(name), *[Cell(str(counts[state])) for state in STATES]]
        for one in judged
        for name, counts in one.count(results)
    ]
    header = [Head("statements checked on"), Head("budget")]
    header += [Head(f"{mark} {state}") for state, mark in document.MARKS.items()]
    return [Table("Verdicts on the paper's statements", header, rows, words=True)]


def _statements(results: Results, judged: Sequence[_Judged]) -> list[Part]:
    """A table of statements for each kind of images, with a verdict for each group."""
    parts: list[Part] = []
    for one in judged:
        header = [Head("statement"), Head("section")]
        header += [Head("here", results.badge(group)) for group in one.groups] or [Head("here")]
        rows = []
        for claim, verdicts in one.claims:
            cells = [Cell(v.state, note=v.evidence, tone=v.state) for v in verdicts]
            rows.append([Cell(claim.statement), Cell(claim.section), *cells])
        parts.append(Table(STATEMENTS[one.needs], header, rows, words=True))
    text = "A difference counts if it exceeds the noise: the half-width of a 95 % confidence"
    text += " interval, from the seeds' spread or, for a single seed, from an assumed spread."
    if any(group.budget == "smoke" for group in results.groups()):
        text += " Smoke runs only show that everything works: they are not judged."
    return [Text(text), *parts]


def _records(results: Results, out: Path, folder: Path | None) -> list[Record]:
    records = []
    for number, outcome in enumerate(results.all, 1):
        file = ""
        if folder is not None:
            path = folder / f"{outcome.key}.json"
            file = quote(Path(os.path.relpath(path, out)).as_posix())
        summary = f"{outcome.kind}, {results.badge(outcome.group)}"
        facts = [(name, text) for name, text in _facts(outcome) if text]
        records.append(Record(number, outcome.key, summary, facts, file))
    return records


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    """The origin of a result, as its file says; empty texts for what it does not say."""
    origin = outcome.provenance
    packages = origin.get("packages")
    versions = packages.items() if isinstance(packages, dict) else ()
    seconds = origin.get("seconds")
    images = outcome.images
    located = outcome.measurement.get("localization_error")
    return [
        ("error", f"{outcome.percent('error'):.2f} %" if outcome.kind in ERRORS else ""),
        ("localization error, class given", f"{located:.2f} %" if located is not None else ""),
        ("protocol", str(outcome.measurement.get("protocol") or "")),
        ("images", f"{images:,}" if images else str(outcome.values.get("images") or "")),
        ("BN statistics", str(outcome.values.get("statistics") or "")),
        ("network", outcome.network),
        ("seed", str(outcome.seed)),
        ("command", str(origin.get("command") or "")),
        ("recipe", str(origin.get("recipe_hash") or "")),
        ("commit", str(origin.get("commit") or "")),
        ("hardware", str(origin.get("hardware") or "")),
        ("threads", str(origin.get("threads") or "")),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions)),
        ("time", f"{seconds:,.0f} s" if isinstance(seconds, int | float) else ""),
        ("finished", str(origin.get("finished") or "")),
    ]
