"""The report: everything in the store of results beside the paper."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from resnets.paper import figures, rendering, report_tables
from resnets.paper.claims import claims
from resnets.paper.experiments import LONG
from resnets.paper.figures import command
from resnets.paper.numbers import numbers
from resnets.paper.report_parts import (
    Cell,
    Figure,
    Head,
    Missing,
    Page,
    Part,
    Record,
    Section,
    Table,
    Text,
)
from resnets.paper.results import Group, Results, images_of, measured
from resnets.paper.store import Outcome
from resnets.support.files import make_folder, write_bytes

TITLE = "Deep residual networks: the paper's experiments, run again"
ERRORS = ("training", "test", "ensemble")
"""Kinds of results that are first of all an error."""
Draw = Callable[[Results, Group], Figure | None]


def write(outcomes: Sequence[Outcome], out: Path, results: Path | None = None) -> list[Path]:
    """Write `report.html`, `report.md` and the figures that the latter shows.

    Figures of an earlier report in the folder that are not in this one are removed.

    Args:
        outcomes: all results, of any budget.
        out: folder of the report; made if it does not exist.
        results: folder of the result files, for links to them.

    Returns:
        The files written, `report.html` first.

    Raises:
        UserError: if a result is damaged, naming it, or the disk refuses.
    """
    page = build(outcomes, out, results)
    files = {"report.html": rendering.html(page).encode()}
    files["report.md"] = rendering.markdown(page).encode()
    files |= {f"{figure.name}.png": figure.drawing.png for figure in page.figures()}
    make_folder(out)
    before = _pictures(out)
    for name, content in files.items():
        write_bytes(out / name, content)
    for name in before - files.keys():
        (out / name).unlink(missing_ok=True)
    return [out / name for name in files]


def _pictures(out: Path) -> set[str]:
    """The figures of an earlier report in the same folder."""
    try:
        text = (out / "report.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    return set(re.findall(r"^!\[.*\]\(([a-z0-9-]+\.png)\)$", text, re.MULTILINE))


def build(outcomes: Sequence[Outcome], out: Path, results: Path | None = None) -> Page:
    """The page, before it is written; raises `UserError` like `write`."""
    found = Results(outcomes)
    cifar, photos = found.groups(cifar=True), found.groups(cifar=False)
    sections = [
        *([Section("Results at hand", [report_tables.runs(found)])] if found.all else []),
        Section("The paper's statements", _claims(found)),
        Section("Table 1: architectures", [report_tables.architectures()]),
        Section("Figure 1: degradation", _drawn(found, cifar, "fig1", True, figures.fig1)),
        Section(
            "Table 2 and Figure 4: plain and residual networks on photographs",
            [
                *_table(found, photos, "table2", "Table 2"),
                *_drawn(found, photos, "fig4", False, figures.fig4),
                *_table(found, photos, "fig4", "Figure 4 in numbers", wide=False),
            ],
        ),
        Section("Table 3: shortcuts and depth", _table(found, photos, "table3", "Table 3")),
        Section("Table 4: single models", _table(found, photos, "table4", "Table 4")),
        Section("Table 5: ensembles", _table(found, photos, "table5", "Table 5")),
        Section("Table 6: CIFAR-10", _table(found, cifar, "table6", "Table 6")),
        Section("Figure 6: trainings on CIFAR-10", _figure6(found, cifar)),
        Section(
            "Figure 7: responses of the layers",
            [
                *_drawn(found, cifar, "fig7", True, figures.fig7, "responses"),
                *_table(found, cifar, "fig7", "Figure 7 in numbers", kind="responses", wide=False),
            ],
        ),
        Section("Signals through the layers", _signals(found)),
        Section("Deeper by construction", _deepened(found)),
        Section("Pre-activation", [*_preact(found, cifar, True), *_preact(found, photos, False)]),
        *_variants(found),
        Section("Complexity of the networks", [report_tables.complexity()]),
    ]
    sections = [Section(s.title, _once(s.parts)) for s in sections]
    return Page(TITLE, _lead(found), sections, _records(found, out, results))


def _once(parts: Sequence[Part]) -> list[Part]:
    """Parts of a section, each command but once."""
    found: list[Part] = []
    for part in parts:
        if part not in found or not isinstance(part, Missing):
            found.append(part)
    return found


def _lead(results: Results) -> list[str]:
    lead = [
        'Every number of "Deep Residual Learning for Image Recognition" (He, Zhang, Ren, Sun; '
        "arXiv 1512.03385) that its experiments can be set beside, and what was measured here. "
        "Errors are of the last iteration, never the best one on the test images; with several "
        "seeds, mean ± standard deviation and, in brackets, their number. Every number of ours "
        "leads to the results that it was computed from."
    ]
    groups = results.groups()
    if not results.all:
        return [*lead, "Nothing has been run yet: every section names the command that fills it."]
    if not any(results.comparable(group) for group in groups):
        lead.append(
            "No result here had the paper's length of training and its data: read them against "
            "each other, not against the paper's numbers."
        )
    return lead


def _claims(results: Results) -> list[Part]:
    """A table of statements for each kind of data, with a verdict for each group."""
    states = Counter[str]()
    tables: list[Part] = []
    for needs, caption in STATEMENTS.items():
        groups = [] if needs == "nothing" else results.groups(cifar=needs == "cifar10")
        groups = [group for group in groups if group.budget != "smoke"]
        header = [Head("statement"), Head("section")]
        header += [Head("here", results.badge(group)) for group in groups] or [Head("here")]
        rows = []
        for claim in (claim for claim in claims() if claim.needs == needs):
            names = [group.name for group in groups] or [""]
            verdicts = [claim.check(results.all, name) for name in names]
            states.update(verdict.state for verdict in verdicts)
            cells = [Cell(v.state, note=v.evidence, tone=v.state) for v in verdicts]
            rows.append([Cell(claim.statement), Cell(claim.section), *cells])
        tables.append(Table(caption, header, rows, words=True))
    said = ", ".join(f"{state}: {states[state]}" for state in rendering.MARKS if states[state])
    text = f"Verdicts of all budgets together. {said.capitalize()}."
    text += " Noise is what a difference must exceed to count: a 95 % interval from the seeds' "
    text += "spread, or from the least spread that a single seed must be expected to have."
    if any(group.budget == "smoke" for group in results.groups()):
        text += " Smoke runs show that everything works, and nothing else: they are not judged."
    return [Text(text), *tables]


STATEMENTS = {
    "cifar10": "Statements to be checked on CIFAR-10",
    "photos": "Statements to be checked on photographs",
    "nothing": "Statements to be checked by counting",
}
"""Captions, by what a statement needs."""


def _drawn(
    results: Results,
    groups: Sequence[Group],
    experiment: str,
    cifar: bool,
    draw: Draw,
    kind: str = "training",
) -> list[Part]:
    """A figure for each group, what is missing in it, and the command for the paper's length."""
    parts: list[Part] = []
    for group in groups:
        figure = draw(results, group)
        if figure is None:
            continue
        parts.append(figure)
        wanted = [n for n in NETWORKS[experiment] if group.budget != "short" or n not in LONG]
        lacking = [n for n in wanted if not results.runs(group.name, n, kind)]
        if lacking:
            parts.append(figures.absent(results, group, lacking, experiment))
    if not any(results.comparable(g) and draw_has(results, g, experiment, kind) for g in groups):
        parts.append(_missing("Not run at the paper's length yet", experiment, cifar))
    return parts


NETWORKS: dict[str, Sequence[str]] = {
    "fig1": ("cifar-plain20", "cifar-plain56"),
    "fig4": ("plain18", "plain34", "resnet18-a", "resnet34-a"),
    "fig6": (*figures.CIFAR_PLAIN, *figures.CIFAR_RESNET, "cifar-resnet1202"),
    "fig7": figures.RESPONSES,
}
"""The networks that a complete figure shows."""


def draw_has(results: Results, group: Group, experiment: str, kind: str) -> bool:
    """Whether a group has any of a figure's networks."""
    return any(results.runs(group.name, n, kind) for n in NETWORKS[experiment])


def _figure6(results: Results, cifar: Sequence[Group]) -> list[Part]:
    return [
        *_drawn(results, cifar, "fig6", True, figures.fig6),
        report_tables.readings(results, _with(results, cifar, "training")),
    ]


def _table(
    results: Results,
    groups: Sequence[Group],
    table: str,
    caption: str,
    kind: str = "",
    wide: bool = True,
) -> list[Part]:
    kind = kind or {"table2": "test", "table3": "test", "table4": "test", "table5": "ensemble"}.get(
        table, "training"
    )
    held = _with(results, groups, kind)
    if table.startswith("fig") and not held:
        return []
    parts: list[Part] = [report_tables.beside(results, table, caption, held, wide=wide)]
    lacking = report_tables.lacking(results, table, groups)
    if lacking:
        parts.append(_lacking(lacking, table, table in ("table6", "fig7")))
    return parts


def _lacking(rows: Sequence[str], experiment: str, cifar: bool) -> Missing:
    return _missing(f"Not run at the paper's length yet: {', '.join(rows)}", experiment, cifar)


def _with(results: Results, groups: Sequence[Group], kind: str) -> list[Group]:
    return [group for group in groups if results.runs(group.name, kind=kind)]


def _missing(text: str, experiment: str, cifar: bool = True, budget: str = "full") -> Missing:
    return Missing(text, command(experiment, budget, cifar))


def _signals(results: Results) -> list[Part]:
    groups = [*results.groups(), *results.groups(variant=True)]
    drawn = [f for group in groups if (f := figures.signals(results, group)) is not None]
    return [*drawn] or [_missing("Not run yet", "signals")]


def _deepened(results: Results) -> list[Part]:
    parts: list[Part] = []
    for variant in results.groups(variant=True):
        starts = results.runs(variant.name, kind="deepened")
        if not starts:
            continue
        parts.append(report_tables.deepening(results, variant))
        base = Group(variant.base, variant.data, variant.budget, "")
        networks = list(dict.fromkeys(start.network for start in starts))
        figure = figures.against(results, base, variant, networks)
        parts += [figure] if figure else []
    return parts or [_missing("Not run yet", "deepened")]


def _variants(results: Results) -> list[Section]:
    sections = []
    for variant in results.groups(variant=True):
        if results.runs(variant.name, kind="deepened") or not results.runs(variant.name):
            continue
        base = Group(variant.base, variant.data, variant.budget, "")
        networks = list(dict.fromkeys(run.network for run in results.runs(variant.name)))
        parts: list[Part] = [report_tables.variants(results, variant)]
        figure = figures.against(results, base, variant, networks)
        parts += [figure] if figure else []
        name = f"Variant: {variant.variant.replace('-', ' ')} ({variant.base})"
        sections.append(Section(name, parts))
    return sections


def _preact(results: Results, groups: Sequence[Group], cifar: bool) -> list[Part]:
    """The follow-up's numbers: on CIFAR, on ImageNet."""
    data = "CIFAR" if cifar else "ImageNet"
    columns = dict.fromkeys(n.column for n in numbers("preact") if n.data.startswith(data))
    held = _with(results, groups, "training" if cifar else "test")
    caption = f"The follow-up's networks with pre-activation, {data}"
    table = report_tables.beside(results, "preact", caption, held, list(columns), wide=False)
    lacking = report_tables.lacking(results, "preact", groups, list(columns))
    return [table, *([_lacking(lacking, "preact", cifar)] if lacking and cifar else [])]


def _records(results: Results, out: Path, folder: Path | None) -> list[Record]:
    records = []
    for number, outcome in enumerate(results.all, 1):
        file = ""
        if folder is not None:
            path = folder / f"{outcome.key}.json"
            file = quote(Path(os.path.relpath(path, out)).as_posix())
        summary = f"{outcome.kind}, {results.badge(results.of[outcome.key])}"
        facts = [(name, text) for name, text in _facts(outcome) if text]
        records.append(Record(number, outcome.key, outcome.kind, summary, facts, file))
    return records


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    """Where a result comes from: what the result file says, nothing for what it does not."""
    origin = outcome.provenance
    place: Any = outcome.values.get("measured") if outcome.kind == "training" else outcome.values
    packages = origin.get("packages")
    versions = packages.items() if isinstance(packages, dict) else ()
    seconds = origin.get("seconds")
    images = images_of(outcome)
    return [
        ("error", f"{measured(outcome, 'error'):.2f} %" if outcome.kind in ERRORS else ""),
        ("protocol", str(place.get("protocol") or "") if isinstance(place, dict) else ""),
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
