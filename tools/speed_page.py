"""Speed tables and a plot of the docs, generated from the reports in `results/bench/`.

`python -m tools.speed_page` writes the tables of `docs/speed.md` and `docs/serve.md`
between the comments `<!-- bench: REPORT -->` and `<!-- end -->`, and draws `docs/scaling.png`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnets.support.markdown import table as markdown_table
from tools.tables import fill

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "results" / "bench"
PAGES = ("docs/speed.md", "docs/serve.md")
PLOT = "docs/scaling.png"
SHOWN = {
    "train": ("torchvision", "timm"),
    "infer": ("torchvision", "timm", "onnxruntime", "openvino", "nncf"),
    "detect": ("torchvision", "openvino", "nncf"),
    "input": ("torchvision", "pillow"),
    "startup": ("openvino",),
    "serve": ("openvino", "fastapi", "uvicorn"),
}
"""Packages, other than torch, whose versions are shown below a benchmark's tables."""
FORMER_COMMANDS = (
    ("python benchmarks/training.py ", "python -m benchmarks train "),
    ("python benchmarks/input.py ", "python -m benchmarks input "),
    ("resnets bench ", "python -m benchmarks "),
)
"""Benchmarks were scripts at first, and then a verb of `resnets`; their options are the same."""


def report(name: str) -> dict[str, Any] | None:
    """The report `results/bench/NAME.json`; None if there is none."""
    path = REPORTS / f"{name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text("utf-8")) if path.exists() else None
    return found


def markdown(document: dict[str, Any]) -> str:
    """The tables of a report, with command, date, hardware and versions below them."""
    parts = [_table(table) for table in document["tables"]]
    packages = document["packages"]
    names = ("torch", *(SHOWN.get(document["bench"], ())))
    versions = ", ".join(f"{name} {packages[name]}" for name in names if name in packages)
    where = f"{document['hardware']}, {document['threads']} threads; {versions}"
    parts.append(f"`{_command(document['command'])}`, {document['date']}, {where}.")
    if document["bench"] == "scale":
        parts.append(f"![Time and memory for an image]({Path(PLOT).name})")
    return "\n\n".join(parts)


def _command(command: str) -> str:
    """The command that makes a report today; reports keep the one that was run."""
    for old, new in FORMER_COMMANDS:
        command = command.replace(old, new)
    return command


def _table(table: dict[str, Any]) -> str:
    rows = table["rows"]
    peaks = any(row["peak"] is not None for row in rows)
    ratios = any(row["ratio"] is not None for row in rows)
    spread = any(row["low"] != row["high"] for row in rows)
    header = [table["title"], table["unit"], *["slowest to fastest round"] * spread]
    header += ["ratio"] * ratios + ["of the peak"] * peaks
    lines = []
    for row in rows:
        line = [row["name"], _number(row["median"])]
        if spread:
            line.append(f"{_number(row['low'])} to {_number(row['high'])}")
        if ratios:
            line.append(f"{row['ratio']:.2f}")
        if peaks:
            line.append("" if row["peak"] is None else f"{row['peak']:.0f} %")
        lines.append(line)
    return markdown_table(header, lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _content(name: str) -> str | None:
    document = report(name)
    return None if document is None else markdown(document)


def draw(document: dict[str, Any], path: Path) -> None:
    """Plot time and memory per image against depth, batch and resolution, with fitted lines."""
    from matplotlib.figure import Figure

    tables = {table["title"]: table for table in document["tables"]}
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(2, 3)
    units = {"depth": "layers", "batch": "images", "resolution": "pixels a side"}
    for column, (against, unit) in enumerate(units.items()):
        for row, what in enumerate(("time", "memory")):
            _curve(axes[row][column], tables[f"{what} of a training step against {against}"])
            axes[row][column].set_xlabel(unit)
    figure.savefig(path, dpi=120)


def _curve(axes: Any, table: dict[str, Any]) -> None:
    xs: Sequence[int] = table["facts"]["places"]
    axes.plot(xs, [row["median"] for row in table["rows"]], "o", color="C0", markersize=5)
    fixed, each = table["facts"]["fixed"], table["facts"]["each"]
    power = 2 if table["title"].endswith("resolution") else 1
    line = range(0, max(xs) + 1)
    axes.plot(line, [fixed + each * x**power for x in line], color="0.6", linewidth=1)
    axes.set_ylabel(table["unit"])
    axes.set_ylim(0, 1.1 * max(row["median"] for row in table["rows"]))
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Write all tables and the plot."""
    for page in PAGES:
        path = ROOT / page
        path.write_text(fill(path.read_text("utf-8"), "bench", _content), "utf-8")
    if scale := report("scale-cpu"):
        draw(scale, ROOT / PLOT)


if __name__ == "__main__":
    main()
