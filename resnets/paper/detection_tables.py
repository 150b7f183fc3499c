"""The report's tables of detectors: the paper's average precisions next to ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from resnets.models import zoo
from resnets.paper.detector_jobs import RECIPES, SIZES, VARIANT
from resnets.paper.document import Cell, Head, Source, Table
from resnets.paper.numbers import Number, about, numbers
from resnets.paper.results import Results, mean_and_spread
from resnets.paper.store import Group, Outcome

Wanted = Mapping[tuple[str, str], tuple[str, str]]
"""Which of our results stands for a number: (row, column) to (step of the test, what it says)."""
BASELINE, ALL = "ResNet-101", "ResNet-101, COCO and all improvements"
STEPS = {
    "baseline, ResNet-101": "coco",
    "+ box refinement": "coco-refined",
    "+ context": "coco-refined-context",
    "+ multi-scale testing": "coco-refined-context-multiscale",
}
ENSEMBLE = f"{STEPS['+ multi-scale testing']}-ensemble"


class Official(NamedTuple):
    """By which the paper's data and length of training are recognized."""

    test_images: int
    train_images: int
    iterations: int


OFFICIAL = {
    "voc07": Official(4_952, 16_551, 80_000),  # VOC 2007 test; trainval of 2007 and 2012
    "coco": Official(40_504, 82_783, 320_000),  # val and train of 2014
}
"""By the metric with which a step begins; iterations are of each step of alternating training."""
SERVER = "Ground truth of VOC 2012 test and of COCO test-dev is on servers only."


def table7(results: Results) -> Table:
    """Table 7: VOC."""
    wanted = {(BASELINE, "VOC 2007 test"): ("voc07", "mAP")}
    return _compared(results, "table7", "Table 7. Faster R-CNN on PASCAL VOC", wanted)


def table8(results: Results) -> Table:
    """Table 8: COCO."""
    wanted = {(BASELINE, what): ("coco", what) for what in ("AP50", "AP")}
    return _compared(results, "table8", "Table 8. Faster R-CNN on COCO", wanted)


def table9(results: Results) -> Table:
    """Table 9: the improvements, on the test images that have annotations."""
    wanted = {
        (row, f"val, {what}"): (step, what)
        for row, step in STEPS.items() for what in ("AP50", "AP")
    }  # fmt: skip
    wanted |= {("ensemble", f"val, {what}"): (ENSEMBLE, what) for what in ("AP50", "AP")}
    return _compared(results, "table9", "Table 9. Improvements of Faster R-CNN", wanted)


def table10(results: Results) -> Table:
    """Table 10: VOC 2007 by category."""
    columns = {n.column for n in numbers("table10")}
    wanted = {(BASELINE, column): ("voc07", column) for column in columns}
    return _compared(results, "table10", "Table 10. VOC 2007 test by category", wanted)


def quoted(results: Results, table: str, caption: str) -> Table:
    """A table without a number of ours."""
    return _compared(results, table, caption, {})


def missing(results: Results, steps: Sequence[str]) -> list[str]:
    """The tests without a result on the paper's images and of its length."""
    tests = [test for group in _groups(results) for test in results.runs(group, kind="detection")]
    found = {test.identity.get("step") for test in tests if _is_fair(test)}
    return [step for step in steps if step not in found]


def _compared(results: Results, table: str, caption: str, wanted: Wanted) -> Table:
    """A table of the paper with a row for each of its cells' rows and columns for our groups.

    Each of its columns is a row of this table, so that twenty categories fit a page.
    """
    steps = {step for step, _ in wanted.values()}
    groups = [g for g in _groups(results) if _tests_of(results, g, steps)]
    systems = list(dict.fromkeys(n.row for n in numbers(table)))
    columns = list(dict.fromkeys(n.column for n in numbers(table)))
    header = [Head("system"), Head(""), Head("paper")]
    for group in groups:
        fair = all(map(_is_fair, _tests_of(results, group, steps)))
        header.append(Head("here", results.badge(group), "" if fair else "not comparable"))
    header += [] if groups else [Head("here")]
    rows = []
    for system in systems:
        for column in columns:
            own = [n for n in numbers(table) if (n.row, n.column) == (system, column)]
            if own or (system, column) in wanted:
                first = Cell(system, note="quoted" if own and _is_quoted(own[0]) else "")
                paper = Cell(f"{own[0].value:.1f}" if own else "", tone="quiet")
                ours = _cells(results, groups, wanted.get((system, column)), own)
                rows.append([first, Cell(column), paper, *ours])
    return Table(caption, header, rows, note=f"{about(table)} In percent. {SERVER}")


def _cells(
    results: Results,
    groups: Sequence[Group],
    wanted: tuple[str, str] | None,
    paper: Sequence[Number],
) -> list[Cell]:
    """Our cells in a row."""
    absent = "" if paper and _is_quoted(paper[0]) else "not run"
    if wanted is None or not groups:
        return [Cell(absent, tone="quiet")] * max(1, len(groups))
    cells = []
    for group in groups:
        tests = _tests_of(results, group, wanted[:1])
        found = [(test, value) for test in tests if (value := _value(test, wanted[1])) is not None]
        links = [Source(f"seed {test.seed}: {value:.1f}", test.key) for test, value in found]
        text = mean_and_spread([value for _, value in found]) if found else absent
        networks = ", ".join(sorted({test.network for test, _ in found}))
        cells.append(Cell(text, links, networks, "" if found else "quiet"))
    return cells


def _groups(results: Results) -> list[Group]:
    return [group for group in results.groups(variant=True) if group.variant == VARIANT]


def _tests_of(results: Results, group: Group, steps: Iterable[str]) -> list[Outcome]:
    tests = results.runs(group, kind="detection")
    return [test for test in tests if test.identity.get("step") in [*steps]]


def _value(test: Outcome, what: str) -> float | None:
    """A number of a test in percent, of a category by its name; None if it has none."""
    if what not in test.values:
        categories = test.values.get("categories")
        if not isinstance(categories, list):
            raise test.damaged("categories")
        found = [c for c in categories if isinstance(c, dict) and c.get("category") == what]
        value = found[0].get("AP") if found else None
        return float(value) if isinstance(value, int | float) else None
    return None if test.values[what] is None else test.number(what)


def _is_fair(test: Outcome) -> bool:
    """Whether a test is of the paper's network, images, their size and length of training."""
    official = OFFICIAL.get(str(test.identity.get("step")).partition("-")[0])
    plan = test.identity.get("plan")
    iterations = plan.get("iterations") if isinstance(plan, dict) else None
    found = (test.images, test.values.get("train_images"), iterations)
    group = test.group
    own = (group.budget, group.size, test.network)
    return found == official and own == ("full", SIZES["full"], RECIPES["full"][1])


def _is_quoted(number: Number) -> bool:
    """Whether a number is of a system that is not trained here."""
    return "VGG" in number.row or number.network in zoo.VGG_NAMES or "GoogLeNet" in number.row
