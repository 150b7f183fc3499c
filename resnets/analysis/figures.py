"""Figures as PNG files: training curve, responses, signals, confusion matrix."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.analysis import lettering
from resnets.analysis.panels import NETWORK_COLOURS, Line, Panel, Points, draw, step_colours
from resnets.analysis.signals import Signal

TRAIN_COLOUR, TEST_COLOUR = "#3b6ea5", "#b5482f"
LEAST_RANGE = 60.0
"""Percent that the axis of errors reaches at least."""


def training_png(metrics: Sequence[dict[str, Any]], title: str, paper_error: float | None) -> bytes:
    """Training error (dashed) and test error (bold) against iterations.

    The colours tell the two curves apart. Those of Figure 6, one for each depth, are in
    `resnets.paper.figures`.

    Args:
        metrics: rows of a run's metrics, in the order of `step`.
        title: of the figure.
        paper_error: test error in percent that the paper reports, drawn as a dotted line.
    """
    train, test = _points(metrics, "train_error"), _points(metrics, "test_error")
    final = [points[-1][1] for points in (train, test) if points]
    last = max((x for points in (train, test) for x, _ in points), default=1.0)
    panel = Panel(
        title,
        [
            Line([train], TRAIN_COLOUR, "train", dashed=True, width=1.0, smooth=True),
            Line([test], TEST_COLOUR, "test", width=2.0),
        ],
        x_label="iterations",
        y_label="error (%)",
        x_limits=(0.0, last),
        y_limits=(0.0, max([LEAST_RANGE, *(1.2 * error for error in final)])),
        level=paper_error,
        level_label=f"paper, test: {paper_error} %",
        legend=True,
    )
    return draw([panel], "training", 1, width=7, height=4.2).png


def precision_png(metrics: Sequence[dict[str, Any]], title: str) -> bytes:
    """A detector's average precision in tests against iterations: AP50, AP (dashed), and AP50 of
    masks (dashed)."""
    masks = _points(metrics, "test_mask_AP50")
    panel = Panel(
        title,
        [
            Line([_points(metrics, "test_AP50")], TEST_COLOUR, "AP50", width=2.0),
            Line([_points(metrics, "test_AP")], TRAIN_COLOUR, "AP", dashed=True, width=1.4),
            *([Line([masks], TEST_COLOUR, "mask AP50", dashed=True)] if masks else []),
        ],
        x_label="iterations",
        y_label="average precision (%)",
        y_limits=(0.0, 100.0),
        legend=True,
    )
    return draw([panel], "precision", 1, width=7, height=4.2).png


def _points(metrics: Sequence[dict[str, Any]], key: str) -> Points:
    return [(float(row["step"]), row[key]) for row in metrics if key in row]


def responses_png(named: Sequence[tuple[str, bool, list[float]]]) -> bytes:
    """Standard deviations of responses, like Figure 7.

    In the order of the layers in the upper panel, from the largest to the smallest in the lower.

    Args:
        named: for each network its name, whether it is plain (dashed), and the deviations.
    """
    lines: list[Line] = []
    ranked: list[Line] = []
    for number, (name, plain, stds) in enumerate(named):
        colour = NETWORK_COLOURS[number % len(NETWORK_COLOURS)]
        for group, values in ((lines, stds), (ranked, sorted(stds, reverse=True))):
            points = [(float(layer), std) for layer, std in enumerate(values, 1)]
            group.append(Line([points], colour, name, dashed=plain, width=1.4))
    top = 1.05 * max((std for _, _, stds in named for std in stds), default=1.0)
    panels = [
        Panel(title, group, x_label, "standard deviation", y_limits=(0.0, top), legend=True)
        for title, group, x_label in (
            ("layers in order", lines, "layer"),
            ("layers by size of response", ranked, "rank of the layer"),
        )
    ]
    return draw(panels, "responses", 1, width=8, height=3).png


def signals_png(name: str, by_step: Mapping[int, Sequence[Signal]], dashed: bool = False) -> bytes:
    """Forward signals and backward gradients of a network, each against the layer.

    Args:
        name: the network's.
        by_step: its signals after certain numbers of updates.
        dashed: how plain networks are drawn.
    """
    lines: dict[str, list[Line]] = {"forward": [], "gradient": []}
    for (step, signals), colour in zip(
        sorted(by_step.items()), step_colours(len(by_step)), strict=True
    ):
        for key, group in lines.items():
            sizes = [(float(n), getattr(signal, key)) for n, signal in enumerate(signals, 1)]
            label = f"{step:,} updates"
            group.append(Line([sizes], colour, label, dashed=dashed, width=1.3))
    panels = [
        Panel(f"{name}: {what}", lines[key], "layer", y_label, legend=True, logarithmic=True)
        for key, what, y_label in (
            ("forward", "signal", "standard deviation of the response"),
            ("gradient", "gradient", "gradient of an image's loss (RMS)"),
        )
    ]
    return draw(panels, "signals", 2, width=5, height=4.2).png


def precision_recall_png(curves: Mapping[str, tuple[Points, float]], title: str) -> bytes:
    """Precision against recall of each category of a detector.

    Args:
        curves: for each category points (recall, precision), and its average precision; all from 0
            to 1.
        title: of the figure.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    import matplotlib as mpl

    style: Any = lettering.style(*curves, title)
    with mpl.rc_context(style):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.5, 5.2), layout="constrained")
        axes = figure.subplots()
        colours = mpl.colormaps["turbo"]
        ranked = sorted(curves.items(), key=lambda item: -item[1][1])
        for number, (name, (points, average)) in enumerate(ranked):
            axes.plot(
                *zip(*points, strict=True), lw=1.6, color=colours((number + 0.5) / len(ranked)),
                label=f"{lettering.drawable(name)}  {100 * average:.1f}",
            )  # fmt: skip
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
        axes.set_title(lettering.drawable(title), fontsize=11)
        axes.grid(alpha=0.2)
        columns = 1 + (len(ranked) - 1) // 28
        axes.legend(
            loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7, frameon=False, ncols=columns,
            title="category, AP in %", title_fontsize=7,
        )  # fmt: skip
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
        return buffer.getvalue()


def confusion_png(confusion: NDArray[np.int64], classes: Sequence[str], title: str) -> bytes:
    """A confusion matrix: rows are true classes, columns answers.

    Args:
        confusion: numbers of images, (classes, classes).
        classes: class names.
        title: of the figure; the error is written below it.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    import matplotlib as mpl

    style: Any = lettering.style(*classes, title)
    with mpl.rc_context(style):
        return _draw_confusion(confusion, [*map(lettering.drawable, classes)], title)


def _draw_confusion(confusion: NDArray[np.int64], names: Sequence[str], title: str) -> bytes:
    from matplotlib.figure import Figure

    side = 2.2 + 0.46 * len(names)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    images = int(confusion.sum())
    wrong = images - int(np.trace(confusion))
    mistakes = confusion.astype(float)
    np.fill_diagonal(mistakes, np.nan)  # the right answers would hide the colours of the mistakes
    image = axes.imshow(mistakes, cmap="Oranges", vmin=0)
    axes.set_facecolor("#e8f0e8")
    limit = np.nanmax(mistakes) if wrong else 1.0
    for row, counts in enumerate(confusion):
        for column, count in enumerate(counts):
            dark = row != column and count > 0.6 * limit
            axes.text(
                column, row, str(count), ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    title = lettering.drawable(title)
    axes.set_title(f"{title}\nerror {100 * wrong / images:.2f} % of {images} images", fontsize=11)
    figure.colorbar(image, label="mistakes", shrink=0.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
