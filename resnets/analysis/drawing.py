"""Pictures of responses and signals, drawn with matplotlib (imported only here)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from resnets.analysis.signals import Signal


def responses_png(named: Sequence[tuple[str, bool, list[float]]]) -> bytes:
    """Standard deviations of responses as a PNG file, like Figure 7.

    On top in the order of the layers, below from the largest to the smallest.

    Args:
        named: for each network its name, whether it is plain (dashed), and the deviations.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for number, (name, plain, values) in enumerate(named):
        look = {"ls": "--" if plain else "-", "color": f"C{number}", "lw": 1.4}
        layers = range(1, len(values) + 1)
        top.plot(layers, values, label=name, **look)
        bottom.plot(layers, sorted(values, reverse=True), label=name, **look)
    for axes, order in ((top, "layer"), (bottom, "layer, sorted by magnitude")):
        axes.set_xlabel(order)
        axes.set_ylabel("standard deviation")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    top.tick_params(labelbottom=True)
    bottom.legend(frameon=False)
    return _png(figure)


def signals_png(followed: Sequence[tuple[str, bool, Mapping[int, Sequence[Signal]]]]) -> bytes:
    """Signals forwards and gradients backwards as a PNG file, each against the layer.

    Args:
        followed: for each network its name, whether it is plain (dashed), and its signals after
            so many updates: a colour for each network, paler for earlier steps.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for number, (name, plain, by_step) in enumerate(followed):
        for rank, (step, signals) in enumerate(sorted(by_step.items()), 1):
            look = {
                "ls": "--" if plain else "-",
                "color": f"C{number}",
                "alpha": 0.3 + 0.7 * rank / len(by_step),
                "lw": 1.3,
            }
            layers = range(1, len(signals) + 1)
            label = f"{name}, {step:,} updates"
            panels[0].plot(layers, [s.forward for s in signals], label=label, **look)
            panels[1].plot(layers, [s.gradient for s in signals], label=label, **look)
    for axes, what in (
        (panels[0], "standard deviation of the response"),
        (panels[1], "gradient of an image's loss (RMS)"),
    ):
        axes.set_xlabel("layer")
        axes.set_ylabel(what)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
    panels[1].legend(frameon=False, fontsize=8)
    return _png(figure)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
