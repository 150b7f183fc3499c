"""Tables and reports of benchmarks: medians, ratios to a named peer, the hardware's peak."""

from __future__ import annotations

import contextlib
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from resnets.support import devices

Report = Callable[[str], None]
PACKAGES = ("timm", "onnxruntime", "openvino", "nncf", "pillow", "uvicorn", "fastapi")
"""Packages whose versions are in reports, in addition to those in every result file."""


@dataclass(frozen=True)
class Row:
    """The result of one contender.

    Args:
        name: of the contender.
        median: of the rounds, in the table's unit.
        low: the slowest round.
        high: the fastest round.
        ratio: of the median to the peer's median.
        peak: percentage of the hardware's measured peak for this data type.
    """

    name: str
    median: float
    low: float
    high: float
    ratio: float | None = None
    peak: float | None = None


@dataclass(frozen=True)
class Table:
    """Results of contenders that did the same work in the same run.

    Args:
        title: the work: network, batch, image size.
        unit: such as `images/s`.
        peer: the contender to which ratios refer; empty if there are none.
        rows: in the order of the first round.
        facts: settings that are needed to repeat the run.
    """

    title: str
    unit: str
    peer: str
    rows: tuple[Row, ...]
    facts: dict[str, Any]


def rows(
    values: Mapping[str, Sequence[float]],
    peer: str | None,
    operations: float | None = None,
    peaks: Mapping[str, float] | None = None,
) -> tuple[Row, ...]:
    """Compute medians, ranges and ratios.

    Args:
        values: of each contender, one for each round.
        peer: the contender to which ratios refer; None for no ratios.
        operations: floating-point operations for one unit of `values`.
        peaks: operations per second that the hardware reaches, by contender.
    """
    base = statistics.median(values[peer]) if peer else None
    made = []
    for name, found in values.items():
        middle = statistics.median(found)
        top = (peaks or {}).get(name)
        share = 100 * middle * operations / top if operations and top else None
        made.append(
            Row(
                name,
                _short(middle),
                _short(min(found)),
                _short(max(found)),
                round(middle / base, 2) if base else None,
                None if share is None else round(share, 1),
            )
        )
    return tuple(made)


def _short(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def peak(dtype: torch.dtype, device: torch.device, side: int = 4096, rounds: int = 7) -> float:
    """Measure floating-point operations per second of a large matrix product."""
    if device.type == "cuda":
        side *= 2
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        c = a @ b
        c[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(times[1:])


def document(bench: str, tables: Sequence[Any], device: torch.device) -> dict[str, Any]:
    """The report of a benchmark as JSON: its tables (dataclasses), with their provenance."""
    environment = devices.environment(device)
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            environment["packages"][name] = version(name)
    return {
        "bench": bench,
        "command": shlex.join(["python", "-m", "benchmarks", *filter(None, sys.argv[1:])]),
        "date": datetime.now(UTC).date().isoformat(),
        "tables": [asdict(table) for table in tables],
        **environment,
    }


def summary(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """The best of our rows and the best of the others in each table, with their ratios."""
    made = ["", "best of ours, best of the others (ratio to the table's peer)"]
    for document in documents:
        for table in document["tables"]:
            ranked = sorted(
                (row for row in table["rows"] if row["ratio"] is not None),
                key=lambda row: -row["ratio"],
            )
            ours = [row for row in ranked if row["name"].startswith("resnets")]
            others = [row for row in ranked if not row["name"].startswith("resnets")]
            if ours and others:
                best, peer = (f"{r['ratio']:.2f} x {r['name']}" for r in (ours[0], others[0]))
                made.append(f"  {table['title']}: {best}; {peer}")
    return made


def lines(table: Table) -> list[str]:
    """Format a table as lines of text."""
    width = max(len(row.name) for row in table.rows)
    made = [f"{table.title} ({table.unit})"]
    for row in table.rows:
        line = f"  {row.name:{width}} {row.median:10,.4g}  ({row.low:,.4g} to {row.high:,.4g})"
        if row.ratio is not None:
            line += f"  {row.ratio:.2f} x"
        if row.peak is not None:
            line += f"  {row.peak:.0f} % of peak"
        made.append(line)
    return made
