"""Markdown tables for the docs, generated from the data files.

`python -m tools.tables README.md docs/networks.md` writes them between the marks
`<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from resnets.paper.numbers import Complexity, cifar10_error, complexities
from resnets.paper.store import Store

RESULTS = Path(__file__).parents[1] / "results"  # beside the package, in a checkout

SHORT = (
    "cifar-resnet20", "cifar-resnet56", "cifar-resnet110", "cifar-plain56", "resnet18", "resnet34",
    "plain34", "resnet50", "resnet50-v1.5", "resnet101", "resnet152",
)  # fmt: skip


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, marks, *rows))


def _row(name: str, row: Complexity) -> list[str]:
    error = cifar10_error(name)
    paper_cost = row.paper_multiply_adds
    cost = f"{row.multiply_adds / 1e9:.3f} G"
    return [
        f"`{name}`",
        f"{row.parameters:,}",
        row.paper_parameters or "",
        cost if row.multiply_adds >= 1e9 else f"{row.multiply_adds / 1e6:.2f} M",
        f"{paper_cost / 1e9:.1f} G" if paper_cost else "",
        str(error) if error else "",
    ]


def networks(names: Iterable[str] | None = None) -> str:
    """Parameters and multiply-adds of networks, the paper's beside ours."""
    header = (
        "network", "parameters", "paper", "multiply-adds", "paper", "CIFAR-10 error in the paper",
    )  # fmt: skip
    rows = complexities()
    return _markdown(header, (_row(name, rows[name]) for name in names or rows))


def cifar10_fast() -> str:
    """The fast recipe's test errors and times, from `results/`, beside the paper's error."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("cifar10-fast/*.json"))]
    paper = cifar10_error("cifar-resnet20")
    assert paper is not None
    errors = [run["measured"]["error"] for run in runs]
    rows = [["the paper, 64,000 iterations", f"{paper.error:.2f} %", ""]]
    for run in runs:
        seed, iterations = run["provenance"]["recipe"]["seed"], run["iterations"]
        rows.append(
            [
                f"`cifar10-fast`, {iterations:,} iterations, seed {seed}",
                f"{run['measured']['error']:.2f} %",
                f"{run['provenance']['seconds'] / 60:.1f} min",
            ]
        )
    if len(errors) > 1:
        mean, spread = statistics.mean(errors), statistics.stdev(errors)
        rows.append(
            [f"`cifar10-fast`, mean of {len(errors)} seeds", f"{mean:.2f} +- {spread:.2f} %", ""]
        )
    return _markdown(("`cifar-resnet20` on CIFAR-10", "test error", "training"), rows)


VIEWS = ("center", "ten-crop", "dense")


def protocols() -> str:
    """The authors' ResNet-50 by the paper's three tests, from `results/protocols/`."""
    rows = []
    for data in ("labelled-photos", "imagenet-samples"):
        for view in VIEWS:
            path = RESULTS / "protocols" / f"{data}-{view}.json"
            if path.exists():
                found = json.loads(path.read_text())
                low, high = found["error_interval"]
                rows.append(
                    [
                        f"{data}, `{view}`",
                        f"{found['images']}",
                        f"{found['error']:.1f} % ({low:.1f} to {high:.1f})",
                        f"{found['top5_error']:.1f} %",
                    ]
                )
    header = ("`resnet50@msra`", "images", "top-1 error (95 % interval)", "top-5 error")
    return _markdown(header, rows)


def finetune() -> str:
    """The `finetune` recipe on a small folder, from `results/finetune-ants-bees/`."""
    runs = [
        json.loads(path.read_text()) for path in sorted(RESULTS.glob("finetune-ants-bees/*.json"))
    ]
    rows = [
        [
            f"seed {run['provenance']['recipe']['seed']}",
            f"{run['measured']['wrong']} of {run['measured']['images']}",
            f"{run['measured']['error']:.1f} %",
        ]
        for run in runs
    ]
    errors = [run["measured"]["error"] for run in runs]
    if len(errors) > 1:
        mean, spread = statistics.mean(errors), statistics.stdev(errors)
        rows.append([f"mean of {len(errors)} seeds", "", f"{mean:.1f} +- {spread:.1f} %"])
    return _markdown(("`finetune` from `resnet50@msra`", "wrong", "test error"), rows)


def degradation() -> str:
    """Plain and residual networks under the short budget, from `results/paper/`."""
    outcomes = [o for o in Store(RESULTS / "paper").everything() if o.kind == "training"]
    rows = []
    for depth in (20, 56):
        cells = [f"{depth} layers"]
        for family in ("plain", "resnet"):
            key = f"cifar10-short/cifar-{family}{depth}-"
            runs = [o.values for o in outcomes if o.key.startswith(key)]
            for errors in (
                [run["train_error"] for run in runs],
                [run["measured"]["error"] for run in runs],
            ):
                cells.append(_mean(errors))
        rows.append(cells)
    header = ("", "plain: training error", "test error", "residual: training error", "test error")
    return _markdown(header, rows)


def _mean(errors: Sequence[float]) -> str:
    """Mean and spread in percent; the single figure of a single run."""
    if not errors:
        return ""
    mean = f"{statistics.mean(errors):.1f}"
    spread = f" +- {statistics.stdev(errors):.1f}" if len(errors) > 1 else ""
    return f"{mean}{spread} %"


TABLES: dict[str, Callable[[], str]] = {
    "cifar10_fast": cifar10_fast,
    "protocols": protocols,
    "finetune": finetune,
    "degradation": degradation,
    "networks": networks,
    "networks_short": lambda: networks(SHORT),
}


def rewrite(text: str) -> str:
    """`text` with every marked table made anew."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?\n?(<!-- end -->)",
        lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for document in map(Path, sys.argv[1:]):
        document.write_text(rewrite(document.read_text(encoding="utf-8")), encoding="utf-8")
