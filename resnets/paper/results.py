"""What the results say, read with care: groups, runs, numbers, curves."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from resnets.paper.store import Outcome
from resnets.support.errors import UserError

BUDGETS = ("full", "short", "smoke")
CIFAR_ITERATIONS, PHOTO_ITERATIONS = 64_000, 600_000  # sections 4.2 and 3.4
VALIDATION_IMAGES = 50_000
"""Images of ImageNet's validation set, by which its results are known from other photographs'."""
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Group:
    """Results that may be compared with each other: the same data, budget and variant."""

    name: str
    data: str
    budget: str
    variant: str

    @property
    def cifar(self) -> bool:
        """Whether it is CIFAR-10."""
        return self.data == "cifar10"

    @property
    def base(self) -> str:
        """The group of which this is a variant."""
        return f"{self.data}-{self.budget}"


def group_of(key: str) -> Group:
    """The group that a result belongs to, from the first part of its key.

    Raises:
        UserError: if the key is not of the form `DATA-BUDGET[-VARIANT]/...`.
    """
    name = key.split("/")[0]
    parts = re.fullmatch(rf"(.+)-({'|'.join(BUDGETS)})(?:-(.+))?", name)
    if parts is None or "/" not in key:
        raise UserError(
            "is no result of an experiment", key, "results lie in DATA-BUDGET/NETWORK-seedN.json"
        )
    return Group(name, parts[1], parts[2], parts[3] or "")


def damaged(outcome: Outcome, where: str) -> UserError:
    """The error for a result that lacks something."""
    return UserError(
        f"the result holds no whole {where!r}", f"{outcome.key}.json", "move it away and run again"
    )


def value(outcome: Outcome, *path: str) -> float:
    """A finite number of a result.

    Raises:
        UserError: if it is missing or something else.
    """
    found: Any = outcome.values
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise damaged(outcome, ".".join(path))
    return float(found)


def curve(outcome: Outcome, name: str) -> Points:
    """A curve of a training; readings that are no finite numbers are left out.

    Raises:
        UserError: if it is missing or has another form.
    """
    try:
        points = [(float(x), math.nan if y is None else float(y)) for x, y in outcome.values[name]]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(outcome, name) from error
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def rows(outcome: Outcome, found: Any, name: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    """A list of tables inside a result, each with `keys`.

    Raises:
        UserError: if it has another form.
    """
    if not isinstance(found, list) or not found:
        raise damaged(outcome, name)
    for row in found:
        if not isinstance(row, dict) or not all(
            row.get(key) is None or isinstance(row[key], int | float) for key in keys
        ):
            raise damaged(outcome, name)
    return found


def measured(outcome: Outcome, what: str) -> float:
    """A percentage: `error`, `top5_error` or `train_error`.

    Raises:
        UserError: if it is missing.
    """
    inside = outcome.kind == "training" and what != "train_error"
    return value(outcome, "measured", what) if inside else value(outcome, what)


def has(outcome: Outcome, what: str) -> bool:
    """Whether a result has this; only a top-5 error, for want of classes, may be absent."""
    place = outcome.values.get("measured") if outcome.kind == "training" else outcome.values
    return what != "top5_error" or (isinstance(place, dict) and place.get(what) is not None)


def mean_and_spread(numbers: Sequence[float]) -> str:
    """`8.75`, or `8.75 ± 0.12 (3)` for several seeds: mean, standard deviation, their number."""
    if len(numbers) == 1:
        return f"{numbers[0]:.2f}"
    spread = statistics.stdev(numbers)
    return f"{statistics.mean(numbers):.2f} ± {spread:.2f} ({len(numbers)})"


def percent(numbers: Sequence[float]) -> str:
    """The same in running text, without the number of seeds: `8.75 ± 0.12 %`."""
    return mean_and_spread(numbers).partition(" (")[0] + " %"


class Results:
    """All results, to be asked.

    Raises:
        UserError: if a result belongs to no group or its seed is no number.
    """

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.all = sorted(outcomes, key=lambda outcome: outcome.key)
        self.of = {outcome.key: group_of(outcome.key) for outcome in self.all}
        for outcome in self.all:
            if not isinstance(outcome.identity.get("seed"), int):
                raise damaged(outcome, "seed")

    def groups(self, cifar: bool | None = None, variant: bool = False) -> list[Group]:
        """The groups that have results, longest budget first."""
        chosen = {
            group
            for group in self.of.values()
            if (cifar is None or group.cifar == cifar) and bool(group.variant) == variant
        }
        return sorted(chosen, key=lambda g: (not g.cifar, BUDGETS.index(g.budget), g.name))

    def runs(
        self, group: str, network: str | None = None, kind: str = "training", views: str = ""
    ) -> list[Outcome]:
        """Results of a group, of all seeds; a small network stands in where there is no other.

        Args:
            group: its whole name.
            network: as in the zoo; all if not given.
            kind: of the outcome.
            views: of a test or an ensemble.
        """
        found = [
            outcome
            for outcome in self.all
            if self.of[outcome.key].name == group and outcome.kind == kind
            if not views or views_of(outcome) == views
        ]
        if network is None:
            return found
        for name in (_same(network), f"{_same(network)}-small"):
            chosen = [outcome for outcome in found if _same(outcome.network) == name]
            if chosen:
                return sorted(chosen, key=lambda outcome: outcome.seed)
        return []

    def iterations(self, group: Group) -> list[int]:
        """Lengths of the group's trainings, of all its variants if it has none itself."""
        runs = self.runs(group.name) or self.runs(group.base)
        return sorted({int(value(run, "iterations")) for run in runs})

    def whole(self, group: Group) -> int:
        """Length of the paper's trainings on such data."""
        return CIFAR_ITERATIONS if group.cifar else PHOTO_ITERATIONS

    def badge(self, group: Group) -> str:
        """What budget a group had: `short: 3,000 of 64,000 iterations`."""
        whole = self.whole(group)
        found = self.iterations(group)
        name = group.budget if group.cifar else f"{group.data}, {group.budget}"
        name += f", {group.variant}" if group.variant else ""
        if not found:
            return name
        if found == [whole]:
            return f"{name}: {whole:,} iterations"
        length = f"{found[0]:,}" + (f" to {found[-1]:,}" if len(found) > 1 else "")
        return f"{name}: {length} of {whole:,} iterations"

    def comparable(self, group: Group) -> bool:
        """Whether a group's errors may be set against the paper's: its data and its length."""
        if group.budget != "full" or group.variant:
            return False
        if self.iterations(group) not in ([], [self.whole(group)]):
            return False
        if group.cifar:
            return True
        tests = [o for o in self.all if self.of[o.key] == group and o.kind in ("training", "test")]
        return group.data.endswith("-224") and any(
            images_of(outcome) == VALIDATION_IMAGES for outcome in tests
        )


def views_of(outcome: Outcome) -> str:
    """`center`, `ten-crop` or `dense`: how a test showed its images."""
    return str(outcome.identity.get("views") or outcome.key.rpartition(".")[2])


def images_of(outcome: Outcome) -> int | None:
    """How many images a result was measured on."""
    place = outcome.values.get("measured") if outcome.kind == "training" else outcome.values
    images = place.get("images") if isinstance(place, dict) else None
    return images if isinstance(images, int) else None


def _same(network: str) -> str:
    """Option B is what a network has if its name says nothing."""
    return network if network.startswith("cifar-") else re.sub(r"-b(?=-small$|$)", "", network)
