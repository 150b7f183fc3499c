"""The report's tables: the paper's numbers beside ours."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from resnets.models import zoo
from resnets.paper.figures import depth, responses, sources, title
from resnets.paper.numbers import Number, about, complexities, numbers
from resnets.paper.report_parts import Cell, Head, Source, Table
from resnets.paper.results import (
    Group,
    Results,
    curve,
    damaged,
    has,
    mean_and_spread,
    measured,
    value,
)
from resnets.paper.store import Outcome

VIEWS = ("center", "ten-crop", "dense")


def architectures() -> Table:
    """Table 1: blocks of each stage, and the cost the paper prints beside the one counted here."""
    names = [f"resnet{depth}" for depth in zoo.IMAGENET_DEPTHS]
    costs = complexities()
    rows = [[Cell("conv1, 112x112"), *[Cell("7x7, 64, stride 2")] * len(names)]]
    for stage, side in enumerate((56, 28, 14, 7)):
        cells = []
        for name in names:
            row = zoo.architecture(name)
            width, blocks = row.widths[stage], row.depths[stage]
            shape = f"3x3, {width}; 3x3, {width}"
            if row.block == "bottleneck":
                shape = f"1x1, {width}; 3x3, {width}; 1x1, {4 * width}"
            cells.append(Cell(shape.replace("; ", "\n"), note=f"{blocks} blocks"))
        rows.append([Cell(f"conv{stage + 2}_x, {side}x{side}"), *cells])
    printed = {n.network: n.value for n in numbers("table1")}
    rows.append(
        [
            Cell("multiply-adds, paper"),
            *[Cell(f"{printed[n] / 1e9:.1f} G", tone="quiet") for n in names],
        ]
    )
    for option in "AB":
        counted = [costs[f"{name}-{option.lower()}"].multiply_adds for name in names]
        rows.append(
            [
                Cell(f"multiply-adds, here, option {option}"),
                *[Cell(f"{c / 1e9:.3f} G") for c in counted],
            ]
        )
    header = [Head("stage, output"), *[Head(f"{depth} layers") for depth in zoo.IMAGENET_DEPTHS]]
    return Table("Table 1. Architectures for ImageNet, and their cost", header, rows)


def runs(results: Results) -> Table:
    """What there is: data, budget, networks, seeds."""
    header = [Head("data and budget"), Head("results"), Head("trainings"), Head("networks")]
    rows = []
    for group in [*results.groups(), *results.groups(variant=True)]:
        trainings = results.runs(group.name)
        seeds = Counter(run.network for run in trainings)
        ordered = sorted(seeds, key=lambda name: ("resnet" in name, depth(name), name))
        names = [title(n) + (f" ({seeds[n]} seeds)" if seeds[n] > 1 else "") for n in ordered]
        name = f"CIFAR-10, {results.badge(group)}" if group.cifar else results.badge(group)
        count = sum(other == group for other in results.of.values())
        rows.append(
            [Cell(name), Cell(str(count)), Cell(str(len(trainings))), Cell(", ".join(names))]
        )
    return Table("What was run", header, rows, words=True)


def complexity() -> Table:
    """Parameters and multiply-adds of every network, the paper's beside those counted here."""
    header = [
        Head("network"), Head("layers"), Head("parameters, paper"), Head("parameters, here"),
        Head("multiply-adds, paper"), Head("multiply-adds, here"),
    ]  # fmt: skip
    rows = []
    for name, row in complexities().items():
        paper = row.paper_multiply_adds
        rows.append(
            [
                Cell(name),
                Cell(f"{row.layers:,}"),
                Cell(row.paper_parameters or "", tone="quiet"),
                Cell(f"{row.parameters:,}"),
                Cell(f"{paper / 1e9:.1f} G" if paper else "", tone="quiet"),
                Cell(_cost(row.multiply_adds)),
            ]
        )
    return Table("Parameters and multiply-adds of the networks", header, rows)


def beside(
    results: Results, table: str, caption: str, groups: Sequence[Group],
    columns: Sequence[str] | None = None, wide: bool = True,
) -> Table:  # fmt: skip
    """A table of the paper, with a column of ours for every group.

    Args:
        results: all results.
        table: as in `numbers`.
        caption: above the table.
        groups: of results; each has columns of its own.
        columns: of the paper's table that are shown; all if not given.
        wide: whether the paper's columns stand side by side; else each cell has its own row.
    """
    cells = [n for n in numbers(table) if columns is None or n.column in columns]
    if table == "fig6":  # the text's bound for plain-110 stands with the readings
        cells = [replace(n, column="test") if n.column == "error" else n for n in cells]
    names = _columns(cells) if wide else [""]
    systems = list(dict.fromkeys(n.row if wide else f"{n.row}, {n.column}" for n in cells))
    sized = wide and any(n.parameters for n in cells)
    fair = [g for g in groups if results.comparable(g) and table != "table5"]
    header = [Head("network" if table != "table5" else "system")]
    header += [Head("parameters, paper"), Head("parameters, here")] if sized else []
    for name in names:
        header += _header(results, name if len(names) > 1 else "", groups, fair)
    rows = []
    for system in systems:
        mine = [n for n in cells if system == (n.row if wide else f"{n.row}, {n.column}")]
        row = [Cell(system, note="quoted" if _quoted(mine[0]) else "")]
        row += _sizes(mine[0]) if sized else []
        for name in names:
            found = next((n for n in mine if not wide or n.column == name), None)
            row += _numbers(results, found, groups, fair)
        rows.append(row)
    return Table(caption, header, rows, note=_protocol(cells) + about(table))


def lacking(
    results: Results, table: str, groups: Sequence[Group], columns: Sequence[str] | None = None
) -> list[str]:
    """Rows of a table of the paper to which no result of the paper's data and length belongs."""
    fair = [group for group in groups if results.comparable(group)]
    wanted = [
        n for n in numbers(table) if not _quoted(n) and (columns is None or n.column in columns)
    ]
    return list(
        dict.fromkeys(
            n.row for n in wanted if not any(_found(results, n, group)[0] for group in fair)
        )
    )


def readings(results: Results, groups: Sequence[Group]) -> Table:
    """Figure 6 in numbers, test and training errors at the end."""
    return beside(
        results, "fig6", "Figure 6 in numbers, the paper's read off the plot", groups,
        ("test", "train", "error"),
    )  # fmt: skip


def deepening(results: Results, variant: Group) -> Table:
    """Networks made deeper without changing their output, and trained on."""
    header = [
        Head("network"), Head("made from"), Head("its error"), Head("at the start"),
        Head("logits differ by"),
        Head("trained on", results.badge(variant)),
        Head("trained from scratch"),
    ]  # fmt: skip
    rows = []
    for start in results.runs(variant.name, kind="deepened"):
        shallow = start.values.get("from")
        if not isinstance(shallow, str):
            raise damaged(start, "from")
        after = results.runs(variant.name, start.network)
        scratch = results.runs(variant.base, start.network)
        rows.append(
            [
                Cell(title(start.network), note=f"seed {start.seed}"),
                Cell(title(shallow)),
                _one(start, "shallow_error", "{:.2f} %"),
                _one(start, "error", "{:.2f} %"),
                _one(start, "difference", "{:.2g}"),
                _ours(after, "error"),
                _ours(scratch, "error"),
            ]
        )
    return Table("Deeper by construction: the added blocks do nothing at first", header, rows)


def variants(results: Results, variant: Group) -> Table:
    """Trainings that differ from the others in one thing, beside those."""
    base = next((g for g in results.of.values() if g.name == variant.base), None)
    header = [
        Head("network"),
        Head("error", results.badge(base) if base else ""),
        Head("error", results.badge(variant)),
        Head("training error", results.badge(base) if base else ""),
        Head("training error", results.badge(variant)),
    ]
    networks = dict.fromkeys(run.network for run in results.runs(variant.name))
    rows = []
    for network in networks:
        runs = [results.runs(name, network) for name in (variant.base, variant.name)]
        rows.append(
            [
                Cell(title(network)),
                *[_ours(r, what) for what in ("error", "train_error") for r in runs],
            ]
        )
    return Table(f"Variant: {variant.variant.replace('-', ' ')}", header, rows)


def _columns(cells: Sequence[Number]) -> list[str]:
    """Names of columns in the order of the fullest row."""
    rows = [[n.column for n in cells if n.row == row] for row in {n.row: 0 for n in cells}]
    return list(dict.fromkeys([*max(rows, key=len), *(n.column for n in cells)]))


def _header(
    results: Results, name: str, groups: Sequence[Group], fair: Sequence[Group]
) -> list[Head]:
    prefix = f"{name}, " if name else ""
    heads = [Head(f"{prefix}paper")]
    for group in groups:
        note = "" if group in fair else "not comparable"
        heads.append(Head(f"{prefix}here", results.badge(group), note))
        if group in fair:
            heads.append(Head("difference"))
    return heads + ([] if groups else [Head(f"{prefix}here")])


def _numbers(
    results: Results, number: Number | None, groups: Sequence[Group], fair: Sequence[Group]
) -> list[Cell]:
    cells = [Cell(printed(number) if number else "", tone="quiet")]
    if not groups:
        cells.append(Cell("not run", tone="quiet") if number and not _quoted(number) else Cell())
    for group in groups:
        runs, found = _found(results, number, group) if number else ([], [])
        small = sorted({run.network for run in runs if run.network.endswith("-small")})
        asked = number is not None and not _quoted(number) and _fits(number, group) and not runs
        cells.append(_cell(runs, found, ", ".join(map(title, small)), asked))
        if group in fair:
            shown = _difference(found, number) if number and found and not small else ""
            cells.append(Cell(shown))
    return cells


def printed(number: Number) -> str:
    """A number as the paper has it."""
    short = number.table == "table5" or (
        number.table == "table4" and number.protocol == "as published"
    )
    digits = 1 if number.source == "later" and number.data.startswith("ImageNet") else 2
    exact = number.source != "plot" and not short and not number.bound
    text = f"{number.value:.{digits}f}" if exact else f"{number.value:g}"
    if number.bound:
        return f"{'>' if number.bound == 'above' else '<'} {text}"
    if number.mean is not None:
        return f"{text} ({number.mean:.2f} ± {number.spread:.2f})"
    return f"≈ {text}" if number.source == "plot" else text


def _found(results: Results, number: Number, group: Group) -> tuple[list[Outcome], list[float]]:
    """Our results for a number of the paper, and what they say, each seed."""
    if number.protocol == "ensemble":
        runs = results.runs(group.name, kind="ensemble") if "ResNet" in number.row else []
        return runs, [value(run, "top5_error") for run in runs if has(run, "top5_error")]
    if number.network is None or not _fits(number, group):
        return [], []
    if number.protocol == "responses":
        rank = int(number.column.split()[-1])
        runs = results.runs(group.name, number.network, "responses")
        stds = [sorted(responses(run), reverse=True) for run in runs]
        return runs, [s[rank - 1] for s in stds if len(s) >= rank]
    what = "train_error" if "training" in number.metric else "error"
    what = "top5_error" if "top-5" in number.metric else what
    if number.protocol.startswith(VIEWS) and not number.table.startswith("fig"):
        runs = results.runs(group.name, number.network, "test", number.protocol)
    else:
        runs = results.runs(group.name, number.network)
    if number.iterations and number.iterations[1] < 0.8 * results.whole(group):
        return _window(runs, what, number.iterations) if group.budget == "full" else (runs, [])
    runs = [run for run in runs if has(run, what)]
    return runs, [measured(run, what) for run in runs]


def _fits(number: Number, group: Group) -> bool:
    """Whether a number is of the kind of images that a group is of."""
    return number.data.split()[0] == ("CIFAR-10" if group.cifar else "ImageNet")


def _window(
    runs: Sequence[Outcome], what: str, window: tuple[int, int]
) -> tuple[list[Outcome], list[float]]:
    """The median of a part of the curve; only the paper's length has that part."""
    name = "train_curve" if what == "train_error" else "test_curve"
    parts = [(run, [y for x, y in curve(run, name) if window[0] <= x <= window[1]]) for run in runs]
    whole = [(run, statistics.median(part)) for run, part in parts if part]
    return [run for run, _ in whole], [median for _, median in whole]


def _ours(runs: Sequence[Outcome], what: str) -> Cell:
    return _cell(runs, [measured(run, what) for run in runs])


def _cell(
    runs: Sequence[Outcome], found: Sequence[float], note: str = "", asked: bool = False
) -> Cell:
    if not found:
        return Cell("not run" if asked else "", tone="quiet")
    behind = [
        Source(f"seed {run.seed}: {each:.2f}", run.key)
        for run, each in zip(runs, found, strict=False)
    ]
    return Cell(mean_and_spread(found), behind, note)


def _one(outcome: Outcome, name: str, form: str) -> Cell:
    return Cell(form.format(value(outcome, name)), sources([outcome]))


def _difference(found: Sequence[float], number: Number) -> str:
    """Our mean less the paper's; nothing to subtract from where the paper gives a bound."""
    if number.bound:
        return ""
    text = f"{statistics.mean(found) - number.target:+.2f}"
    return "0.00" if text.endswith("0.00") else text.replace("-", "−")


def _quoted(number: Number) -> bool:
    """Whether it is of a system or network that nobody trains here."""
    ours = number.network or ("ResNet" in number.row and number.protocol == "ensemble")
    return not ours or number.network in zoo.VGG_NAMES


def _sizes(number: Number) -> list[Cell]:
    row = complexities().get(number.network or "")
    ours = f"{row.parameters:,}" if row else ""
    return [Cell(number.parameters or "", tone="quiet"), Cell(ours)]


def _protocol(cells: Sequence[Number]) -> str:
    kinds = dict.fromkeys(
        f"{n.metric}, {n.protocol}" for n in cells if n.protocol != "as published"
    )
    metrics = dict.fromkeys(n.metric for n in cells)
    protocols = dict.fromkeys(n.protocol for n in cells if n.protocol != "as published")
    if len(kinds) > 4 or not protocols or cells[0].source == "plot":
        return ""
    unit = f" in {cells[0].unit}" if cells[0].unit else ""
    return f"{' and '.join(metrics).capitalize()}{unit}, {' and '.join(protocols)}. "


def _cost(multiply_adds: int) -> str:
    if multiply_adds >= 1e9:
        return f"{multiply_adds / 1e9:.3f} G"
    return f"{multiply_adds / 1e6:.2f} M"
