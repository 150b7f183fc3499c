"""The paper's numbers, from data files beside this module."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Complexity:
    """Cost of a network as counted here, and as the paper prints it where it does."""

    layers: int
    parameters: int
    multiply_adds: int
    paper_multiply_adds: float | None = None
    paper_parameters: str | None = None


@dataclass(frozen=True)
class PaperError:
    """A CIFAR-10 test error of the paper, in percent.

    For 110 layers Table 6 prints the best of five runs, and their mean and spread too.
    """

    error: float
    mean: float | None = None
    spread: float | None = None
    runs: int = 1
    read_off_plot: bool = False

    @property
    def target(self) -> float:
        """What one honest run should be compared with."""
        return self.error if self.mean is None else self.mean

    def __str__(self) -> str:
        if self.mean is not None:
            return (
                f"{self.error:.2f} % (mean {self.mean:.2f} +- {self.spread:.2f}, {self.runs} runs)"
            )
        return f"about {self.error:g} % (Figure 6)" if self.read_off_plot else f"{self.error:.2f} %"


@cache
def _read(name: str) -> dict[str, Any]:
    text = (resources.files("resnets") / "paper" / name).read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def complexities() -> dict[str, Complexity]:
    """Every listed network's cost (Table 1 and Table 6)."""
    return {name: Complexity(**row) for name, row in _read("complexity.json").items()}


def cifar10_error(network: str) -> PaperError | None:
    """The paper's CIFAR-10 test error of a network (Table 6, Figure 6), if it has one."""
    row = _read("cifar10_errors.json")["test_error"].get(network)
    return PaperError(**row) if row else None
