"""Pictures of results, drawn with matplotlib (imported only here)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any


def training_png(metrics: Sequence[dict[str, Any]], title: str, paper_error: float | None) -> bytes:
    """Training and test error against iterations as a PNG file, like the paper's Figure 6."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    trained = [(m["step"], m["train_error"]) for m in metrics if "train_error" in m]
    tested = [(m["step"], m["test_error"]) for m in metrics if "test_error" in m]
    if trained:
        axes.plot(
            *zip(*_smoothed(trained), strict=True), "--", color="#3b6ea5", lw=1, label="train"
        )
    if tested:
        axes.plot(
            *zip(*tested, strict=True), "-", color="#b5482f", lw=2, marker="o", ms=3, label="test"
        )
    if paper_error is not None:
        axes.axhline(
            paper_error, color="#777777", lw=1, ls=":", label=f"paper, test: {paper_error} %"
        )
    final = [points[-1][1] for points in (trained, tested) if points]
    axes.set_ylim(0, max([60, *(1.2 * error for error in final)]))
    axes.set_xlim(left=0)
    axes.set_xlabel("iterations")
    axes.set_ylabel("error (%)")
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    return _png(figure)


def _smoothed(points: Sequence[tuple[int, float]], most: int = 130) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of its neighbours."""
    width = max(1, len(points) // most)
    groups = [points[i : i + width] for i in range(0, len(points), width)]
    return [(sum(s for s, _ in g) / len(g), sum(e for _, e in g) / len(g)) for g in groups]


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
