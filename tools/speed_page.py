"""The speed page of the docs: tables and a plot from the committed reports.

`python -m tools.speed_page` writes the tables of `docs/speed.md` and the README between the
marks `<!-- bench: REPORT -->` and `<!-- end -->`, and draws `docs/scaling.png`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "results" / "bench"
PAGES = ("README.md", "docs/speed.md", "docs/serve.md")
PLOT = "docs/scaling.png"
SHOWN = {
    "train": ("torchvision", "timm"),
    "infer": ("torchvision", "timm", "onnxruntime", "openvino", "nncf"),
    "input": ("torchvision", "pillow"),
    "startup": ("openvino",),
    "serve": ("openvino", "fastapi", "uvicorn"),
}
"""Packages whose versions a bench's tables depend on, beside torch."""
_MARKED = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?\n?(<!-- end -->)", re.DOTALL)


def report(name: str) -> dict[str, Any]:
    """A committed report."""
    found: dict[str, Any] = json.loads((REPORTS / f"{name}.json").read_text("utf-8"))
    return found


def markdown(document: dict[str, Any]) -> str:
    """The tables of a report, and how they came about."""
    parts = [_table(table) for table in document["tables"]]
    packages = document["packages"]
    names = ("torch", *(SHOWN.get(document["bench"], ())))
    versions = ", ".join(f"{name} {packages[name]}" for name in names if name in packages)
    where = f"{document['hardware']}, {document['threads']} threads; {versions}"
    parts.append(f"`{document['command']}`, {document['date']}, {where}.")
    if document["bench"] == "scale":
        parts.append(f"![Time and memory for an image]({Path(PLOT).name})")
    return "\n\n".join(parts)


def _table(table: dict[str, Any]) -> str:
    rows = table["rows"]
    peaks = any(row["peak"] is not None for row in rows)
    ratios = any(row["ratio"] is not None for row in rows)
    spread = any(row["low"] != row["high"] for row in rows)
    header = [table["title"], table["unit"], *["slowest to fastest round"] * spread]
    header += ["ratio"] * ratios + ["of the peak"] * peaks
    lines = [header, ["---", *["---:"] * (len(header) - 1)]]
    for row in rows:
        line = [row["name"], _number(row["median"])]
        if spread:
            line.append(f"{_number(row['low'])} to {_number(row['high'])}")
        if ratios:
            line.append(f"{row['ratio']:.2f}")
        if peaks:
            line.append("" if row["peak"] is None else f"{row['peak']:.0f} %")
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def rewrite(text: str) -> str:
    """`text` with every marked table made anew, where there is a report."""

    def table(mark: re.Match[str]) -> str:
        if not (REPORTS / f"{mark[2]}.json").exists():
            return mark[0]
        return f"{mark[1]}{markdown(report(mark[2]))}\n{mark[3]}"

    return _MARKED.sub(table, text)


def draw(document: dict[str, Any], path: Path) -> None:
    """Time and memory for an image against depth, batch and resolution, with their lines."""
    from matplotlib.figure import Figure

    tables = {table["title"]: table for table in document["tables"]}
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots(2, 3)
    along = {"depth": "layers", "batch": "images", "resolution": "pixels a side"}
    for column, (against, unit) in enumerate(along.items()):
        for row, what in enumerate(("time", "memory")):
            _curve(axes[row][column], tables[f"{what} of a training step against {against}"])
            axes[row][column].set_xlabel(unit)
    figure.savefig(path, dpi=120)


def _curve(axes: Any, table: dict[str, Any]) -> None:
    places: Sequence[int] = table["facts"]["places"]
    axes.plot(places, [row["median"] for row in table["rows"]], "o", color="C0", markersize=5)
    fixed, each = table["facts"]["fixed"], table["facts"]["each"]
    power = 2 if table["title"].endswith("resolution") else 1
    line = range(0, max(places) + 1)
    axes.plot(line, [fixed + each * x**power for x in line], color="0.6", linewidth=1)
    axes.set_ylabel(table["unit"])
    axes.set_ylim(0, 1.1 * max(row["median"] for row in table["rows"]))
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Write everything anew."""
    for page in PAGES:
        path = ROOT / page
        path.write_text(rewrite(path.read_text("utf-8")), "utf-8")
    scale = REPORTS / "scale-cpu.json"
    if scale.exists():
        draw(json.loads(scale.read_text("utf-8")), ROOT / PLOT)


if __name__ == "__main__":
    main()
