"""Panels with curves, drawn with matplotlib: as SVG text for web pages, and as PNG bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Points = list[tuple[float, float]]

INK = "#010203"
"""Placeholder for the colour of the text around the figure; black in a PNG file."""
RED, BLUE, GREEN, OCHRE = "#d9363e", "#2f6fd6", "#2f9e44", "#b98a00"
VIOLET, TEAL, PINK, GREY = "#9b51d6", "#1496b0", "#c2489b", "#8a8f98"
FEW_POINTS = 15
"""A line of fewer points has a marker at each."""
MOST_POINTS = 320
"""A line of more points is thinned."""
NETWORK_COLOURS = (RED, BLUE, GREEN, OCHRE, VIOLET, TEAL, PINK, INK)
"""Colours of networks in one figure, first to last, then from the first again."""
STEP_COLOURS = ("#7b52c9", BLUE, TEAL, GREEN, OCHRE, RED, INK)
"""Colours of moments in a training, first to last."""


def step_colours(count: int) -> list[str]:
    """Colours for `count` moments in a training, spread over `STEP_COLOURS`."""
    last = len(STEP_COLOURS) - 1
    return [STEP_COLOURS[round(i * last / max(1, count - 1))] for i in range(count)]


@dataclass(frozen=True)
class Line:
    """One curve: the mean over seeds, with a band from the lowest to the highest.

    Args:
        seeds: points (x, y) of each training.
        label: written at the line's right end, or in the legend; nothing if empty.
        smooth: whether neighbouring points may be averaged (noisy training errors).
    """

    seeds: Sequence[Points]
    colour: str = INK
    label: str = ""
    dashed: bool = False
    width: float = 1.8
    smooth: bool = False


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Args:
        x_label: label of the horizontal axis.
        y_label: label of the vertical axis.
        level: height of a dotted horizontal line.
        level_label: its label in the legend.
        legend: whether labels are in a box instead of at the lines' right ends.
    """

    title: str
    lines: Sequence[Line]
    x_label: str
    y_label: str
    x_limits: tuple[float, float] | None = None
    y_limits: tuple[float, float] | None = None
    level: float | None = None
    level_label: str = ""
    legend: bool = False
    logarithmic: bool = False


@dataclass(frozen=True)
class Drawing:
    """One picture as an SVG element for HTML, and as a PNG file."""

    svg: str = field(repr=False)
    png: bytes = field(repr=False)


STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.18,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
    "grid.color": INK,
}


def draw(
    panels: Sequence[Panel], name: str, columns: int, width: float = 3.6, height: float = 3.2
) -> Drawing:
    """Draw panels in rows of `columns`.

    Args:
        panels: one for each set of axes, row by row.
        name: prefix of the identifiers inside the SVG, which must be unique in a page.
        columns: number of panels side by side.
        width: of one panel, in inches.
        height: of one panel, in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    style: Any = {**STYLE, "svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            _panel(axes, panel)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        text, picture = io.StringIO(), io.BytesIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return Drawing(_inline(text.getvalue(), name, columns), picture.getvalue())


def _panel(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    if panel.logarithmic:
        axes.set_yscale("log")
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(visible=True)
    ends = [end for line in panel.lines if (end := _line(axes, line, panel)) is not None]
    if panel.level is not None:
        axes.axhline(panel.level, color=INK, lw=0.6, ls=":", label=panel.level_label or None)
    axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    if panel.x_limits:
        axes.set_xlim(*panel.x_limits)
    else:
        axes.margins(x=0.02)
    if panel.y_limits:
        axes.set_ylim(*panel.y_limits)
    if panel.logarithmic:
        _decades(axes.yaxis, *axes.get_ylim())
    if panel.legend and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="best", labelspacing=0.3, handlelength=1.8)
    elif ends:
        _labels(axes, ends)


def _decades(axis: Any, low: float, high: float) -> None:
    """Write powers of ten at a logarithmic axis, also 2 and 5 times these if it is short.

    matplotlib's own labels are formulas, which `STYLE` turns off.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _line(axes: Any, line: Line, panel: Panel) -> tuple[float, float, Line] | None:
    """Draw a line; returns its right end and itself if it has a label."""
    seeds = [_thinned(points, line.smooth) for points in line.seeds if points]
    if not seeds:
        return None
    few = max(map(len, seeds)) < FEW_POINTS and not line.dashed
    style: dict[str, Any] = {"marker": "o" if few else None, "ms": 3}
    style |= {"ls": (0, (4, 2)) if line.dashed else "-", "lw": line.width, "color": line.colour}
    shared = sorted(set.intersection(*({x for x, _ in points} for points in seeds)))
    if not shared:
        for points in seeds:
            axes.plot(*zip(*points, strict=True), **{**style, "lw": 0.7 * line.width})
        mean = seeds[0]
    else:
        columns = [[dict(points)[x] for x in shared] for points in seeds]
        values = list(zip(*columns, strict=True))
        if len(seeds) > 1:
            low, high = [min(v) for v in values], [max(v) for v in values]
            axes.fill_between(shared, low, high, color=line.colour, alpha=0.16, lw=0)
        mean = [(x, sum(v) / len(v)) for x, v in zip(shared, values, strict=True)]
        axes.plot(
            *zip(*mean, strict=True), **style, label=line.label if panel.legend else None,
            solid_joinstyle="round",
        )  # fmt: skip
    return (*mean[-1], line) if line.label else None


def _thinned(points: Points, smooth: bool) -> Points:
    width = -(-len(points) // MOST_POINTS)
    if smooth and len(points) > 30:
        width = max(width, 2)
    if width < 2:
        return points
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    if not smooth:
        return [group[-1] for group in groups]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def _labels(axes: Any, ends: Sequence[tuple[float, float, Line]]) -> None:
    """Write each line's label at its right end, without overlaps."""
    low, high = axes.get_ylim()
    ends = sorted(ends, key=lambda end: end[1])
    heights = _apart([min(max(y, low), high) for _, y, _ in ends], 0.062 * (high - low))
    for height, (_, _, line) in zip(heights, ends, strict=True):
        axes.annotate(
            line.label, (1.015, height), xycoords=("axes fraction", "data"),
            va="center", ha="left", color=line.colour, fontsize=8.5, annotation_clip=False,
        )  # fmt: skip


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Rising heights moved as little as possible until neighbours are `least` apart."""
    groups: list[list[float]] = []  # of heights minus the space of the labels below
    for number, height in enumerate(heights):
        groups.append([height - number * least])
        while len(groups) > 1 and _mean(groups[-2]) > _mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    flat = [_mean(group) for group in groups for _ in group]
    return [height + number * least for number, height in enumerate(flat)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _inline(svg: str, name: str, columns: int) -> str:
    """The SVG as an HTML element: unique identifiers, the page's text colour and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    inches = float(re.findall(r'viewBox="0 0 ([\d.]+)', svg)[0]) / 72
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*"',
        rf'\1 class="columns-{columns}" style="max-width: {6.8 * inches:.0f}rem"',
        svg,
        count=1,
    )
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    svg = svg.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
    return svg.replace(INK, "currentColor").strip()
