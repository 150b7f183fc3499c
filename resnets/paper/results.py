"""All results of a store: by group, network and kind, and as samples over seeds."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence

from resnets.paper.jobs import LAST
from resnets.paper.store import BUDGETS, LOCALIZATION, Group, Outcome
from resnets.paper.verdicts import Sample, sample

CIFAR_ITERATIONS, PHOTO_ITERATIONS = 64_000, 600_000  # sections 4.2 and 3.4
VALIDATION_IMAGES = 50_000
"""Images of ImageNet's validation set; by this number its results are recognized."""


class Results:
    """The results of a store.

    Raises:
        UserError: if the seed of a result is not a number.
    """

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.all = sorted(outcomes, key=lambda outcome: outcome.key)
        for outcome in self.all:
            if not isinstance(outcome.identity.get("seed"), int):
                raise outcome.damaged("seed")

    def groups(self, *, cifar: bool | None = None, variant: bool = False) -> list[Group]:
        """The groups that have results: CIFAR-10 first, the longest budget first.

        Args:
            cifar: only those on CIFAR-10, or only those on photographs.
            variant: the variants instead of the others.
        """
        chosen = {
            outcome.group
            for outcome in self.all
            if cifar in (None, outcome.group.cifar) and bool(outcome.group.variant) == variant
        }
        return sorted(chosen, key=lambda g: (not g.cifar, BUDGETS.index(g.budget), str(g)))

    def groups_with(self, kind: str, *, cifar: bool) -> list[Group]:
        """The groups, without variants, that have results of a kind."""
        return [group for group in self.groups(cifar=cifar) if self.runs(group, kind=kind)]

    def runs(
        self, group: Group, network: str | None = None, kind: str = "training", views: str = ""
    ) -> list[Outcome]:
        """Results of a group, of all seeds.

        Args:
            network: name in the zoo; all if not given. The network for small images replaces it
                if there are no results of the network itself.
            kind: of the outcomes.
            views: of a test; any if empty.
        """
        found = [
            outcome
            for outcome in self.all
            if outcome.group == group and outcome.kind == kind and views in ("", outcome.views)
        ]
        if network is None:
            return found
        name = _without_option_b(network)
        for wanted in (name, f"{name}-small"):
            chosen = [o for o in found if _without_option_b(o.network) == wanted]
            if chosen:
                return sorted(chosen, key=lambda outcome: outcome.seed)
        return []

    def errors(self, group: Group, networks: Sequence[str]) -> list[Sample | None]:
        """Test errors in percent, all by one protocol; None for networks that were not run.

        The protocol is the ten-crop or the dense test if all networks have it; otherwise that of
        the tests during training.
        """
        for views in ("ten-crop", "dense"):
            tests = [self.runs(group, network, "test", views) for network in networks]
            if all(tests):
                break
        else:
            tests = [self.runs(group, network) for network in networks]

        def images(outcomes: Sequence[Outcome]) -> int | None:
            nested = ("measured",) if outcomes and outcomes[0].kind == "training" else ()
            return min((int(o.number(*nested, "images")) for o in outcomes), default=None)

        return _samples(group, networks, tests, lambda run: run.percent("error"), images)

    def training_errors(self, group: Group, networks: Sequence[str]) -> list[Sample | None]:
        """Training errors at the end, in percent; None for networks that were not run."""
        runs = [self.runs(group, network) for network in networks]
        return _samples(
            group, networks, runs, lambda run: run.number("train_error"), _training_images
        )

    def iterations(self, group: Group) -> list[int]:
        """Lengths of the group's trainings; if a variant has none, those of its base."""
        runs = self.runs(group) or self.runs(group.base)
        return sorted({int(run.number("iterations")) for run in runs})

    def badge(self, group: Group) -> str:
        """The length of a group's trainings: `short: 3,000 of 64,000 iterations`."""
        paper = paper_iterations(group)
        found = self.iterations(group)
        name = group.budget if group.cifar else f"{group.images}, {group.budget}"
        name += f", {group.variant}" if group.variant else ""
        if not found:
            return name
        if group.variant == LOCALIZATION:  # the paper does not say how long it was trained
            return f"{name}: {found[0]:,} iterations"
        if found == [paper]:
            return f"{name}: {paper:,} iterations"
        length = f"{found[0]:,}" + (f" to {found[-1]:,}" if len(found) > 1 else "")
        return f"{name}: {length} of {paper:,} iterations"

    def comparable(self, group: Group) -> bool:
        """Whether a group has the paper's images and length, so that errors can be compared."""
        if group.budget != "full" or group.variant:
            return False
        if self.iterations(group) not in ([], [paper_iterations(group)]):
            return False
        if group.cifar:
            return True
        tests = [o for o in self.all if o.group == group and o.kind in ("training", "test")]
        return group.size == 224 and any(o.images == VALIDATION_IMAGES for o in tests)


def paper_iterations(group: Group) -> int:
    """Length of the paper's trainings on such images."""
    return CIFAR_ITERATIONS if group.cifar else PHOTO_ITERATIONS


def mean_and_spread(numbers: Sequence[float]) -> str:
    """`8.75`, or `8.75 ± 0.12 (3)` for several seeds: mean, standard deviation, their number."""
    if len(numbers) == 1:
        return f"{numbers[0]:.2f}"
    return f"{statistics.mean(numbers):.2f} ± {statistics.stdev(numbers):.2f} ({len(numbers)})"


def percent_text(runs: Sequence[Outcome], what: str = "error") -> str:
    """A percentage in running text, without the number of seeds: `8.75 ± 0.12 %`."""
    return mean_and_spread([run.percent(what) for run in runs]).partition(" (")[0] + " %"


def _samples(
    group: Group,
    networks: Sequence[str],
    runs: Sequence[Sequence[Outcome]],
    value: Callable[[Outcome], float],
    images: Callable[[Sequence[Outcome]], int | None],
) -> list[Sample | None]:
    ending = f"-{group.variant}" if group.variant else ""
    return [
        sample(name + ending, [value(run) for run in found], images=images(found))
        for name, found in zip(networks, runs, strict=True)
    ]


def _training_images(outcomes: Iterable[Outcome]) -> int | None:
    """Number of images on which the training errors were counted: those of the last entries."""
    plans = [outcome.identity.get("plan") for outcome in outcomes]
    found = [
        LAST * plan["log_every"] * plan["batch"]
        for plan in plans
        if isinstance(plan, dict)
        and all(isinstance(plan.get(key), int) for key in ("log_every", "batch"))
    ]
    return min(found, default=None)


def _without_option_b(network: str) -> str:
    """The network's name without `-b`: option B is the default of a name without option."""
    return network if network.startswith("cifar-") else re.sub(r"-b(?=-small$|$)", "", network)
