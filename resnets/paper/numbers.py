"""The paper's numbers as data, and the cost of each network as counted by this package.

`numbers.json` holds the numbers that the paper and its authors published, `complexity.json` our
counts. In `numbers.json` a cell inherits the keys that it lacks from its row, then from its
column, then from its table.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

Source = Literal["printed", "plot", "later"]


@dataclass(frozen=True)
class Number:
    """One number of the paper, or of a later publication of its authors.

    Args:
        table: `table1` to `table6`, `fig1`, `fig4`, `fig6`, `fig7`, `preact` or `authors`.
        row: the system or depth, for example `ResNet-110` or `34-layer`.
        column: the column of the table, for example `top-1`.
        metric: the quantity, for example `top-5 error`.
        protocol: a view (`center`, `ten-crop`, `dense`), `single view` of a small image, ...
        value: as printed, or read off a plot; the best of `runs` where Table 6 gives a mean.
        unit: `%` or `multiply-adds`; empty for responses.
        source: printed in the paper, read off a plot, or published later.
        mean: mean of several runs, where published.
        spread: standard deviation of these runs.
        runs: number of runs; 0 where a mean is published without their number.
        network: name in our zoo; None for systems that are not in it.
        also: other networks of the zoo with the same number.
        layers: weighted layers, where published.
        parameters: as printed, for example `0.27M`.
        data: the images, for example `ImageNet validation`.
        uncertainty: plus or minus, of a number read off a plot.
        bound: the true value is `below` or `above` this one.
        iterations: first and last iteration of the part of the curve that was read.
        rank: of the layer, counted from the largest response (Figure 7).
    """

    table: str
    row: str
    column: str
    metric: str
    protocol: str
    value: float
    unit: str
    source: Source
    mean: float | None = None
    spread: float | None = None
    runs: int = 1
    network: str | None = None
    also: tuple[str, ...] = ()
    layers: int | None = None
    parameters: str | None = None
    data: str = ""
    uncertainty: float | None = None
    bound: Literal["below", "above"] | None = None
    iterations: tuple[int, int] | None = None
    rank: int | None = None

    @property
    def target(self) -> float:
        """The number to compare a single run with: the mean, where there is one."""
        return self.value if self.mean is None else self.mean

    @property
    def networks(self) -> tuple[str, ...]:
        """All networks of the zoo with this number."""
        return (self.network, *self.also) if self.network else ()

    @property
    def millions(self) -> float | None:
        """The printed number of parameters, in millions."""
        return float(self.parameters.removesuffix("M")) if self.parameters else None

    @property
    def dataset(self) -> str:
        """`CIFAR-10`, `CIFAR-100`, `ImageNet`, or empty."""
        return self.data.partition(" ")[0]


@dataclass(frozen=True)
class Complexity:
    """Cost of a network by our count, and as the paper prints it, if it does."""

    layers: int
    parameters: int
    multiply_adds: int
    paper_multiply_adds: float | None = None
    paper_parameters: str | None = None


@dataclass(frozen=True)
class PaperError:
    """A CIFAR-10 test error of the paper, in percent.

    For 110 layers, Table 6 prints the best of five runs, with their mean and standard deviation.
    """

    error: float
    mean: float | None = None
    spread: float | None = None
    runs: int = 1
    read_off_plot: bool = False

    @property
    def target(self) -> float:
        """The error to compare a single run with: the mean, where there is one."""
        return self.error if self.mean is None else self.mean

    def __str__(self) -> str:
        if self.mean is not None:
            runs = f", {self.runs} runs" if self.runs > 1 else ""
            return f"{self.error:.2f} % (mean {self.mean:.2f} +- {self.spread:.2f}{runs})"
        return f"about {self.error:g} % (Figure 6)" if self.read_off_plot else f"{self.error:.2f} %"


@cache
def _read(name: str) -> dict[str, Any]:
    text = (resources.files("resnets") / "paper" / name).read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


@cache
def _tables() -> dict[str, tuple[Number, ...]]:
    return {name: tuple(_cells(name, table)) for name, table in _read("numbers.json").items()}


def _cells(name: str, table: dict[str, Any]) -> list[Number]:
    defaults = {k: v for k, v in table.items() if k not in ("about", "columns", "rows")}
    found = []
    for row in table["rows"]:
        for column, cell in row["cells"].items():
            own = cell if isinstance(cell, dict) else {"value": cell}
            facts = {**defaults, **table["columns"][column], **row, **own}
            del facts["cells"]
            for pair in ("also", "iterations"):
                if facts.get(pair):
                    facts[pair] = tuple(facts[pair])
            found.append(Number(table=name, column=column, **facts))
    return found


def tables() -> list[str]:
    """Names of the tables."""
    return list(_tables())


def about(table: str) -> str:
    """A note on a whole table, one or two sentences."""
    return str(_read("numbers.json")[table]["about"])


def numbers(table: str) -> list[Number]:
    """The numbers of a table, row by row; raises `KeyError` if there is no such table."""
    return list(_tables()[table])


def number(table: str, row: str, column: str) -> Number | None:
    """One number of a table; None if the paper does not have it."""
    cells = (n for n in _tables()[table] if (n.row, n.column) == (row, column))
    return next(cells, None)


def complexities() -> dict[str, Complexity]:
    """The cost of every listed network, by name (Table 1 and Table 6)."""
    costs = {name: n.value for n in _tables()["table1"] for name in n.networks}
    sizes = {
        name: n.parameters
        for table in ("table6", "preact")
        for n in _tables()[table]
        for name in n.networks
        if n.parameters
    }
    return {
        name: Complexity(
            row["layers"], row["parameters"], row["multiply_adds"], costs.get(name), sizes.get(name)
        )
        for name, row in _read("complexity.json").items()
    }


def cifar10_error(network: str) -> PaperError | None:
    """The paper's CIFAR-10 test error of a network (Table 6, else Figure 6)."""
    for table, column in (("table6", "error"), ("fig6", "test")):
        for n in _tables()[table]:
            if n.column == column and network in n.networks:
                return PaperError(n.value, n.mean, n.spread, n.runs, n.source == "plot")
    return None
