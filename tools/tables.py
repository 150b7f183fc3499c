"""Markdown tables of the docs, generated from the package's data and from `results/`.

`python -m tools.tables` writes them between the comments `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resnets.paper.numbers import Complexity, cifar10_error, complexities
from resnets.paper.store import Store
from resnets.support.markdown import table

RESULTS = Path(__file__).parents[1] / "results"

PAGES = tuple(
    str(path.relative_to(RESULTS.parent))
    for root, pattern in (("", "README*.md"), ("docs", "**/*.md"))
    for path in sorted((RESULTS.parent / root).glob(pattern))
    if "<!-- table: " in path.read_text("utf-8")
)
"""The documents with generated tables."""


def fill(text: str, kind: str, content: Callable[[str], str | None]) -> str:
    """`text` with new content between `<!-- KIND: NAME -->` and `<!-- end -->`.

    Args:
        text: a Markdown document.
        kind: of the comments to fill, such as `table`.
        content: returns the content for a name; None leaves the old one.
    """

    def replace(match: re.Match[str]) -> str:
        new = content(match[2])
        return match[0] if new is None else f"{match[1]}{new}\n{match[3]}"

    pattern = rf"(<!-- {kind}: ([\w-]+) -->\n).*?\n?(<!-- end -->)"
    return re.sub(pattern, replace, text, flags=re.DOTALL)


def _results(pattern: str) -> list[dict[str, Any]]:
    """The result files whose paths below `results/` match, in the order of their names."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob(pattern))]


def _mean(errors: Sequence[float], digits: int = 1) -> str:
    """Mean and spread in percent; the value alone for one run, nothing for none."""
    if not errors:
        return ""
    spread = f" +- {statistics.stdev(errors):.{digits}f}" if len(errors) > 1 else ""
    return f"{statistics.mean(errors):.{digits}f}{spread} %"


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


def networks() -> str:
    """Parameters and multiply-adds of networks, and those that the paper reports."""
    header = (
        "network", "parameters", "paper", "multiply-adds", "paper", "CIFAR-10 error in the paper",
    )  # fmt: skip
    return table(header, (_row(name, row) for name, row in complexities().items()))


def cifar10_fast() -> str:
    """Test errors and times of the fast recipe, from `results/`, and the paper's error."""
    runs = _results("cifar10-fast/*.json")
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
        rows.append([f"`cifar10-fast`, mean of {len(errors)} seeds", _mean(errors, digits=2), ""])
    return table(("`cifar-resnet20` on CIFAR-10", "test error", "training"), rows)


VIEWS = ("center", "ten-crop", "dense")


def protocols() -> str:
    """Errors of the authors' ResNet-50 in the paper's three tests, from `results/protocols/`."""
    rows = []
    for data in ("labelled-photos", "imagenet-samples"):
        for view in VIEWS:
            for found in _results(f"protocols/{data}-{view}.json"):
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
    return table(header, rows)


def finetune() -> str:
    """Test errors of the `finetune` recipe on a small folder, from `results/`."""
    runs = _results("finetune-ants-bees/*.json")
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
        rows.append([f"mean of {len(errors)} seeds", "", _mean(errors)])
    return table(("`finetune` from `resnet50@msra`", "wrong", "test error"), rows)


def _trainings(network: str, budget: str) -> list[dict[str, Any]]:
    """Outcomes of a network's trainings on CIFAR-10 with a budget, from `results/paper/`."""
    outcomes = [o for o in Store(RESULTS / "paper").everything() if o.kind == "training"]
    return [o.values for o in outcomes if o.key.startswith(f"cifar10-{budget}/{network}-")]


def degradation() -> str:
    """Errors of plain and residual networks with the short budget."""
    rows = []
    for depth in (20, 56):
        cells = [f"{depth} layers"]
        for family in ("plain", "resnet"):
            runs = _trainings(f"cifar-{family}{depth}", "short")
            cells.append(_mean([run["train_error"] for run in runs], digits=2))
            cells.append(_mean([run["measured"]["error"] for run in runs], digits=2))
        rows.append(cells)
    header = ("", "plain: training error", "test error", "residual: training error", "test error")
    return table(header, rows)


def paper_and_ours(header: Sequence[str], about_word: str, missing: str) -> str:
    """Test errors of plain and residual networks: the paper's, and ours of both budgets.

    Args:
        header: of the columns network, the paper, ours with the full budget, with the short one.
        about_word: stands before errors that are read off a plot.
        missing: stands for networks that were not trained with the full budget.
    """
    rows = []
    for name in ("cifar-plain20", "cifar-plain56", "cifar-resnet20", "cifar-resnet56"):
        paper = cifar10_error(name)
        assert paper is not None
        errors = {
            budget: [run["measured"]["error"] for run in _trainings(name, budget)]
            for budget in ("full", "short")
        }
        full, short = (_mean(errors[budget], digits=2) for budget in ("full", "short"))
        about = about_word if paper.read_off_plot else ""
        rows.append([f"`{name}`", f"{about}{paper.error} %", full or missing, short])
    return table(header, rows)


TABLES: dict[str, Callable[[], str]] = {
    "cifar10_fast": cifar10_fast,
    "protocols": protocols,
    "finetune": finetune,
    "degradation": degradation,
    "networks": networks,
    "paper_and_ours": lambda: paper_and_ours(
        ("test error", "the paper", "ours", "ours, 3,000 iterations"), "about ", "not run yet"
    ),
    "paper_and_ours_zh": lambda: paper_and_ours(
        ("测试误差", "论文", "本项目", "本项目，3,000 次迭代"), "约 ", "尚未运行"
    ),
}


def rewrite(text: str) -> str:
    """`text` with every marked table generated again."""
    return fill(text, "table", lambda name: TABLES[name]())


def main() -> None:
    """Write the tables of all pages."""
    for page in PAGES:
        path = RESULTS.parent / page
        path.write_text(rewrite(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
