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


CAMPAIGNS: dict[str, tuple[str, int]] = {
    "images": ("benchmarks.faults.images", 2000),
    "requests": ("benchmarks.faults.requests", 10_000),
    "damage": ("benchmarks.faults.damage", 200),
    "disk": ("benchmarks.faults.disk", 10),
    "kills": ("benchmarks.faults.kills", 100),
}
"""The module of each campaign, and how many faults it makes by default."""


def run(campaign: str, count: int | None, seed: int, report: Report) -> Outcome:
    """Run one of `CAMPAIGNS`, with its own number of faults if `count` is None."""
    module, own_count = CAMPAIGNS[campaign]
    outcome: Outcome = import_module(module).run(count or own_count, seed, report)
    return outcome
