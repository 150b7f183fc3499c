"""Pictures of results, drawn with matplotlib (imported only here)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from resnets.evaluation.results import Result


def confusion_png(result: Result, classes: Sequence[str], title: str) -> bytes:
    """The confusion matrix as a PNG file: rows true classes, columns answers."""
    import numpy as np
    from matplotlib.figure import Figure

    side = 2.2 + 0.46 * len(classes)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    mistakes = result.confusion.astype(float)
    np.fill_diagonal(mistakes, np.nan)  # right answers would drown the mistakes
    image = axes.imshow(mistakes, cmap="Oranges", vmin=0)
    axes.set_facecolor("#e8f0e8")
    limit = np.nanmax(mistakes) if result.wrong else 1.0
    for row, counts in enumerate(result.confusion):
        for column, count in enumerate(counts):
            dark = row != column and count > 0.6 * limit
            axes.text(
                column, row, str(count), ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("answer")
    axes.set_ylabel("true class")
    axes.set_title(f"{title}\nerror {result.error:.2f} % of {result.images} images", fontsize=11)
    figure.colorbar(image, label="mistakes", shrink=0.8)
    return _png(figure)


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
