"""Campaigns of faults: broken files, requests and machines, and what must hold all the same.

Each campaign is a module with a function `run(count, seed, report) -> Outcome`, and a row of
`CAMPAIGNS`. It makes `count` faults from the seed, so that a failure can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

Report = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a campaign found.

    Args:
        campaign: its name.
        faults: how many were made.
        facts: figures by name, in the order in which they are printed.
        failures: a line for each fault that was not borne as it should be; none is success.
    """

    campaign: str
    faults: int
    facts: dict[str, int | float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def line(self) -> str:
        """The outcome as one line of text."""
        facts = [f"{value:,} {name}" for name, value in self.facts.items()]
        return f"{self.campaign}: {self.faults:,} faults: " + ", ".join(
            [*facts, f"{len(self.failures):,} failures"]
        )


CAMPAIGNS = {
    "disk": "benchmarks.faults.disk",
    "images": "benchmarks.faults.images",
    "kills": "benchmarks.faults.kills",
    "requests": "benchmarks.faults.requests",
    "damage": "benchmarks.faults.damage",
}
"""The module of each campaign."""


def run(campaign: str, count: int, seed: int, report: Report) -> Outcome:
    """Run one of `CAMPAIGNS`."""
    outcome: Outcome = import_module(CAMPAIGNS[campaign]).run(count, seed, report)
    return outcome
