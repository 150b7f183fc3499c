"""The report's tables: the paper's numbers next to our results."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence

from resnets.models import zoo
from resnets.paper.document import Cell, Head, Source, Table
from resnets.paper.figures import depth, network_title, sources
from resnets.paper.numbers import Number, about, complexities, numbers
from resnets.paper.results import VALIDATION_IMAGES, Results, mean_and_spread, paper_iterations
from resnets.paper.store import Group, Outcome

VIEWS = ("center", "ten-crop", "dense")


def architectures() -> Table:
    """Table 1: blocks of each stage, and the cost as printed in the paper and as counted here."""
    names = [f"resnet{depth}" for depth in zoo.IMAGENET_DEPTHS]
    costs = complexities()
    rows = [[Cell("conv1, 112x112"), *[Cell("7x7, 64, stride 2")] * len(names)]]
    for stage, side in enumerate((56, 28, 14, 7)):
        cells = []
        for name in names:
            row = zoo.architecture(name)
            width, blocks = row.widths[stage], row.depths[stage]
            layers = [f"3x3, {width}", f"3x3, {width}"]
            if row.block == "bottleneck":
                layers = [f"1x1, {width}", f"3x3, {width}", f"1x1, {4 * width}"]
            cells.append(Cell("\n".join(layers), note=f"{blocks} blocks"))
        rows.append([Cell(f"conv{stage + 2}_x, {side}x{side}"), *cells])
    printed = {n.network: n.value for n in numbers("table1")}
    quoted = [Cell(f"{printed[n] / 1e9:.1f} G", tone="quiet") for n in names]
    rows.append([Cell("multiply-adds, paper"), *quoted])
    for option in "AB":
        counted = [costs[f"{name}-{option.lower()}"].multiply_adds for name in names]
        cells = [Cell(f"{count / 1e9:.3f} G") for count in counted]
        rows.append([Cell(f"multiply-adds, here, option {option}"), *cells])
    header = [Head("stage, output"), *[Head(f"{depth} layers") for depth in zoo.IMAGENET_DEPTHS]]
    return Table("Table 1. Architectures for ImageNet, and their cost", header, rows)


def complexity() -> Table:
    """Parameters and multiply-adds of every network, as printed in the paper and counted here."""
    header = [
        Head("network"), Head("layers"), Head("parameters, paper"), Head("parameters, here"),
        Head("multiply-adds, paper"), Head("multiply-adds, here"),
    ]  # fmt: skip
    rows = []
    for name, row in complexities().items():
        paper, cost = row.paper_multiply_adds, row.multiply_adds
        rows.append(
            [
                Cell(name),
                Cell(f"{row.layers:,}"),
                Cell(row.paper_parameters or "", tone="quiet"),
                Cell(f"{row.parameters:,}"),
                Cell(f"{paper / 1e9:.1f} G" if paper else "", tone="quiet"),
                Cell(f"{cost / 1e9:.3f} G" if cost >= 1e9 else f"{cost / 1e6:.2f} M"),
            ]
        )
    return Table("Parameters and multiply-adds of the networks", header, rows)


def runs(results: Results) -> Table:
    """All groups of results, with their networks and seeds."""
    header = [Head("data and budget"), Head("results"), Head("trainings"), Head("networks")]
    rows = []
    for group in [*results.groups(), *results.groups(variant=True)]:
        trainings = results.runs(group)
        seeds = Counter(run.network for run in trainings)
        ordered = sorted(seeds, key=lambda name: ("resnet" in name, depth(name), name))
        names = [
            network_title(n) + (f" ({seeds[n]} seeds)" if seeds[n] > 1 else "") for n in ordered
        ]
        name = f"CIFAR-10, {results.badge(group)}" if group.cifar else results.badge(group)
        count = sum(outcome.group == group for outcome in results.all)
        rows.append(
            [Cell(name), Cell(str(count)), Cell(str(len(trainings))), Cell(", ".join(names))]
        )
    return Table("Results in the store", header, rows, words=True)


def comparison(
    results: Results,
    table: str,
    caption: str,
    groups: Sequence[Group],
    *,
    columns: Sequence[str] | None = None,
    wide: bool = True,
) -> Table:
    """A table of the paper, with a column of our results for every group.

    Args:
        table: name in `numbers`.
        caption: above the table.
        groups: of results; each has columns of its own.
        columns: columns of the paper's table to show; all by default.
        wide: whether the paper's columns are columns here too; else each of its cells has a row.
    """
    chosen = [n for n in numbers(table) if columns is None or n.column in columns]

    def row_name(number: Number) -> str:
        return number.row if wide else f"{number.row}, {number.column}"

    def column_name(number: Number) -> str:
        # Figure 6 has a bound from the text, on plain-110, instead of a reading.
        return "test" if table == "fig6" and number.column == "error" else number.column

    names = _columns(chosen, column_name) if wide else [""]
    sized = wide and any(n.parameters for n in chosen)
    fair = [g for g in groups if results.comparable(g) and table != "table5"]
    header = [Head("network" if table != "table5" else "system")]
    for name in names:
        header += _header(results, name if len(names) > 1 else "", groups, fair)
    header += [Head("parameters, paper"), Head("parameters, here")] if sized else []
    rows = []
    for system in dict.fromkeys(map(row_name, chosen)):
        mine = [n for n in chosen if row_name(n) == system]
        row = [Cell(system, note="quoted" if _quoted(mine[0]) else "")]
        for name in names:
            number = next((n for n in mine if not wide or column_name(n) == name), None)
            row += _numbers(results, number, groups, fair)
        rows.append(row + (_sizes(mine[0]) if sized else []))
    return Table(caption, header, rows, note=_protocol(chosen) + about(table))


def lacking(
    results: Results, table: str, groups: Sequence[Group], columns: Sequence[str] | None = None
) -> list[str]:
    """Rows of a table of the paper without a result on the paper's images and of its length."""
    fair = [group for group in groups if results.comparable(group)]
    missing = [
        n.row
        for n in numbers(table)
        if not _quoted(n) and (columns is None or n.column in columns)
        if not any(_found(results, n, group)[0] for group in fair)
    ]
    return list(dict.fromkeys(missing))


def localization(results: Results, groups: Sequence[Group]) -> Table:
    """Table 13: errors of boxes given the class, and with the classes of a classifier.

    Args:
        groups: of localizers' results, whatever their networks.
    """
    columns = {"class given": "localization_error", "top-5": "top5_localization_error"}
    header = [Head("method, network, test"), *[Head(f"{name}, paper") for name in columns]]
    for group in groups:
        note = "" if localized_as_in_the_paper(results, group) else "not comparable"
        header += [Head(f"{name}, here", results.badge(group), note) for name in columns]
    if not groups:
        header += [Head(f"{name}, here") for name in columns]
    rows = []
    for system in dict.fromkeys(n.row for n in numbers("table13")):
        mine = {n.column: n for n in numbers("table13") if n.row == system}
        row = [Cell(system, note="quoted" if all(map(_quoted, mine.values())) else "")]
        row += [Cell(printed(mine[c]) if c in mine else "", tone="quiet") for c in columns]
        for group in groups:
            for column, key in columns.items():
                row.append(_located(results, group, mine.get(column), key))
        if not groups:
            row += [Cell("not run" if c in mine and not row[0].note else "", tone="quiet")
                    for c in columns]  # fmt: skip
        rows.append(row)
    caption = "Table 13. Localization error"
    return Table(caption, header, rows, note=about("table13"))


def localized_as_in_the_paper(results: Results, group: Group) -> bool:
    """Whether a group has the paper's images, their size, its network and length of training.

    The paper does not say how long localizers were trained: the length is that of `full`.
    """
    runs = results.runs(group, kind="localization")
    networks = {number.network for number in numbers("table13")}
    fair = [run.images == VALIDATION_IMAGES and run.network in networks for run in runs]
    return group.budget == "full" and group.size == 224 and bool(fair) and all(fair)


def _located(results: Results, group: Group, number: Number | None, key: str) -> Cell:
    """Our results for a number of Table 13, with the network that they are of."""
    if number is None or _quoted(number):
        return Cell()
    runs = []
    if number.row.startswith("RPN,") and number.protocol in VIEWS:  # the second stage is not ours
        runs = results.runs(group, kind="localization", views=number.protocol)
        runs = [run for run in runs if run.values.get(key) is not None]
    networks = sorted({network_title(run.network) for run in runs})
    return _cell(runs, [run.number(key) for run in runs], ", ".join(networks), wanted=True)


def localization_history() -> Table:
    """Table 14: the winners of ILSVRC's localization task, as printed."""
    columns = ("val", "test")
    cells = {(n.row, n.column): Cell(printed(n), tone="quiet") for n in numbers("table14")}
    rows = [
        [Cell(row, note="quoted"), *[cells.get((row, column), Cell()) for column in columns]]
        for row in dict.fromkeys(n.row for n in numbers("table14"))
    ]
    header = [Head("system"), *[Head(f"{column}, paper") for column in columns]]
    return Table("Table 14. Top-5 localization error", header, rows, note=about("table14"))


def deepening(results: Results, variant: Group) -> Table:
    """Networks made deeper without changing their output, and trained further."""
    header = [
        Head("network"), Head("made from"), Head("its error"), Head("at the start"),
        Head("logits differ by"),
        Head("trained further", results.badge(variant)),
        Head("trained from scratch"),
    ]  # fmt: skip
    rows = []
    for start in results.runs(variant, kind="deepened"):
        shallow = start.values.get("from")
        if not isinstance(shallow, str):
            raise start.damaged("from")
        measured = (
            ("shallow_error", "{:.2f} %"), ("error", "{:.2f} %"), ("difference", "{:.2g}"),
        )  # fmt: skip
        rows.append(
            [
                Cell(network_title(start.network), note=f"seed {start.seed}"),
                Cell(network_title(shallow)),
                *[Cell(f.format(start.number(name)), sources([start])) for name, f in measured],
                _ours(results.runs(variant, start.network), "error"),
                _ours(results.runs(variant.base, start.network), "error"),
            ]
        )
    caption = "Deeper by construction: the added blocks are identities at first"
    return Table(caption, header, rows)


def against_base(results: Results, variant: Group) -> Table:
    """Trainings of a variant, and trainings of the same networks without it."""
    base = variant.base
    base_badge = results.badge(base) if any(o.group == base for o in results.all) else ""
    badge = results.badge(variant)
    header = [
        Head("network"), Head("error", base_badge), Head("error", badge),
        Head("training error", base_badge), Head("training error", badge),
    ]  # fmt: skip
    rows = []
    for network in dict.fromkeys(run.network for run in results.runs(variant)):
        pair = [results.runs(group, network) for group in (base, variant)]
        cells = [_ours(found, what) for what in ("error", "train_error") for found in pair]
        rows.append([Cell(network_title(network)), *cells])
    return Table(f"Variant: {variant.variant.replace('-', ' ')}", header, rows)


def _columns(chosen: Sequence[Number], name: Callable[[Number], str]) -> list[str]:
    """Names of columns, in the order of the row with the most columns."""
    rows = [[name(n) for n in chosen if n.row == row] for row in {n.row: 0 for n in chosen}]
    return list(dict.fromkeys([*max(rows, key=len), *map(name, chosen)]))


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
    """The cells for a number: the paper's, and for each group ours and the difference."""
    ours = number is not None and not _quoted(number)
    cells = [Cell(printed(number) if number else "", tone="quiet")]
    if not groups:
        cells.append(Cell("not run", tone="quiet") if ours else Cell())
    for group in groups:
        runs, found = _found(results, number, group) if number else ([], [])
        small = sorted({run.network for run in runs if run.network.endswith("-small")})
        wanted = number is not None and ours and _same_data(number, group) and not runs
        cells.append(_cell(runs, found, ", ".join(map(network_title, small)), wanted))
        if group in fair:
            shown = _difference(found, number) if number and found and not small else ""
            cells.append(Cell(shown))
    return cells


def printed(number: Number) -> str:
    """A number as the paper prints it; with an approximate sign if it was read off a plot."""
    short = number.table == "table5" or (
        number.table == "table4" and number.protocol == "as published"
    )
    one = number.table in ("table13", "table14")
    digits = 1 if one or (number.source == "later" and number.dataset == "ImageNet") else 2
    exact = number.source != "plot" and not short and not number.bound
    text = f"{number.value:.{digits}f}" if exact else f"{number.value:g}"
    if number.bound:
        return f"{'>' if number.bound == 'above' else '<'} {text}"
    if number.mean is not None:
        return f"{text} ({number.mean:.2f} ± {number.spread:.2f})"
    return f"≈ {text}" if number.source == "plot" else text


def _found(results: Results, number: Number, group: Group) -> tuple[list[Outcome], list[float]]:
    """Our results for a number of the paper, and their values, one for each seed."""
    if number.protocol == "ensemble":
        runs = [] if _quoted(number) else results.runs(group, kind="ensemble")
        return runs, [run.number("top5_error") for run in runs if run.has("top5_error")]
    if number.network is None or not _same_data(number, group):
        return [], []
    if number.rank is not None:
        runs = results.runs(group, number.network, "responses")
        stds = [sorted(run.responses(), reverse=True) for run in runs]
        return runs, [s[number.rank - 1] for s in stds if len(s) >= number.rank]
    what = "train_error" if "training" in number.metric else "error"
    what = "top5_error" if "top-5" in number.metric else what
    if number.protocol.startswith(VIEWS) and not number.table.startswith("fig"):
        runs = results.runs(group, number.network, "test", number.protocol)
    else:
        runs = results.runs(group, number.network)
    if number.iterations and number.iterations[1] < 0.8 * paper_iterations(group):
        return _window(runs, what, number.iterations) if group.budget == "full" else (runs, [])
    runs = [run for run in runs if run.has(what)]
    return runs, [run.percent(what) for run in runs]


def _same_data(number: Number, group: Group) -> bool:
    """Whether a number and a group are both of CIFAR-10, or both of photographs."""
    return number.dataset == ("CIFAR-10" if group.cifar else "ImageNet")


def _window(
    runs: Sequence[Outcome], what: str, window: tuple[int, int]
) -> tuple[list[Outcome], list[float]]:
    """The median of a part of the curve, which only trainings of the paper's length have."""
    name = "train_curve" if what == "train_error" else "test_curve"
    parts = [(run, [y for x, y in run.curve(name) if window[0] <= x <= window[1]]) for run in runs]
    medians = [(run, statistics.median(part)) for run, part in parts if part]
    return [run for run, _ in medians], [median for _, median in medians]


def _ours(runs: Sequence[Outcome], what: str) -> Cell:
    return _cell(runs, [run.percent(what) for run in runs])


def _cell(
    runs: Sequence[Outcome], values: Sequence[float], note: str = "", wanted: bool = False
) -> Cell:
    """Mean and spread with links to the results; if there are none, `not run` where wanted."""
    if not values:
        return Cell("not run" if wanted else "", tone="quiet")
    links = [
        Source(f"seed {run.seed}: {value:.2f}", run.key)
        for run, value in zip(runs, values, strict=False)
    ]
    return Cell(mean_and_spread(values), links, note)


def _difference(values: Sequence[float], number: Number) -> str:
    """Our mean minus the paper's number; empty if that is a bound."""
    if number.bound:
        return ""
    text = f"{statistics.mean(values) - number.target:+.2f}"
    return "0.00" if text.endswith("0.00") else text.replace("-", "−")


def _quoted(number: Number) -> bool:
    """Whether the number is of a network or system that is not trained here."""
    if number.protocol == "ensemble":
        return "ResNet" not in number.row
    return number.network is None or number.network in zoo.VGG_NAMES


def _sizes(number: Number) -> list[Cell]:
    row = complexities().get(number.network or "")
    ours = f"{row.parameters:,}" if row else ""
    return [Cell(number.parameters or "", tone="quiet"), Cell(ours)]


def _protocol(chosen: Sequence[Number]) -> str:
    """The metrics and protocols of a table in a sentence, if they are few."""
    ours = [n for n in chosen if n.protocol != "as published"]
    kinds = {(n.metric, n.protocol) for n in ours}
    if len(kinds) > 4 or not ours or chosen[0].source == "plot":
        return ""
    metrics = dict.fromkeys(n.metric for n in chosen)
    protocols = dict.fromkeys(n.protocol for n in ours)
    unit = f" in {chosen[0].unit}" if chosen[0].unit else ""
    return f"{' and '.join(metrics).capitalize()}{unit}, {' and '.join(protocols)}. "
