"""Figures over seeds, and what may be concluded from them.

Two networks differ clearly if their means are further apart than the half-width of a 95 %
interval of the difference, from the seeds' pooled standard deviation (Student's t). With one seed
on a side nothing is known of its spread: the standard deviation of a run is then taken to be the
largest of: the other side's; 2.4 % of the figure, as of the paper's five runs of ResNet-110
(6.61 +- 0.16); and what the number of images allows that an error was counted on.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from resnets.paper.jobs import LAST
from resnets.paper.results import Results, value
from resnets.paper.store import Outcome

State = Literal["holds", "does not hold", "not clear", "not run"]
SPREAD = 0.16 / 6.61
"""Standard deviation of a run in parts of its error, where only one seed was run."""
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; 2.1 beyond."""
SIMILAR = 0.1
"""Part of an error within which two networks count as similarly accurate."""


@dataclass(frozen=True)
class Verdict:
    """Whether a statement holds for what was run, and by which figures."""

    state: State
    evidence: str


@dataclass(frozen=True)
class Sample:
    """One figure of one network, over seeds.

    Args:
        name: as it is called in the evidence.
        values: one for each seed.
        unit: what follows the figures.
        images: on how many images it was counted, if it is an error and that is known.
    """

    name: str
    values: tuple[float, ...]
    unit: str = " %"
    images: int | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation between runs; with one seed what is assumed of it."""
        if len(self.values) > 1:
            return statistics.stdev(self.values)
        share = min(max(self.mean, 0.0), 100.0)
        counted = math.sqrt(share * (100 - share) / self.images) if self.images else 0.0
        return max(SPREAD * abs(self.mean), counted)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.name} {self.mean:.2f}{self.unit} (one seed)"
        seeds = len(self.values)
        return f"{self.name} {self.mean:.2f} ± {self.deviation:.2f}{self.unit} ({seeds} seeds)"


def noise(*samples: Sample) -> float:
    """Half-width of the 95 % interval of one mean, or of the difference of two."""
    scale = math.sqrt(sum(1 / len(s.values) for s in samples))
    if any(len(s.values) == 1 for s in samples):
        return 2 * max(s.deviation for s in samples) * scale
    freedom = sum(len(s.values) - 1 for s in samples)
    squares = sum((len(s.values) - 1) * s.deviation**2 for s in samples)
    factor = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 2.1
    return factor * math.sqrt(squares / freedom) * scale


def state_of(excess: float, half_width: float) -> State:
    """`holds` if `excess` is above 0 by more than the noise, `does not hold` if below."""
    if abs(excess) <= half_width:
        return "not clear"
    return "holds" if excess > 0 else "does not hold"


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """A statement of several parts: each must hold."""
    parts = list(verdicts)
    states = {part.state for part in parts}
    state: State = "not clear"
    if "does not hold" in states:
        state = "does not hold"
    elif len(states) == 1:
        state = parts[0].state
    return Verdict(state, "; ".join(dict.fromkeys(part.evidence for part in parts)))


def rising(samples: Sequence[Sample | None], names: Sequence[str], what: str) -> Verdict:
    """Whether each figure is clearly above the one before; all must have been run to hold."""
    there = [sample for sample in samples if sample is not None]
    gone = [name for name, sample in zip(names, samples, strict=True) if sample is None]
    if len(there) < 2:
        return not_run(gone)
    pairs = list(itertools.pairwise(there))
    states = {state_of(high.mean - low.mean, noise(low, high)) for low, high in pairs}
    steps = [f"{high.mean - low.mean:+.2f} (noise {noise(low, high):.2f})" for low, high in pairs]
    text = f"{what}: {', '.join(map(str, there))}; differences {', '.join(steps)}"
    if len(there) > 2:
        first, last = there[0], there[-1]
        text += f", in all {last.mean - first.mean:+.2f} (noise {noise(first, last):.2f})"
    if gone:
        text += f"; not run: {', '.join(gone)}"
    if "does not hold" in states:
        return Verdict("does not hold", text)
    return Verdict("holds" if states == {"holds"} and not gone else "not clear", text)


def similar(one: Sample, other: Sample, what: str) -> Verdict:
    """Whether two figures are surely within a tenth of each other."""
    apart, half_width = abs(one.mean - other.mean), noise(one, other)
    margin = SIMILAR * max(one.mean, other.mean)
    state: State = "not clear"
    if apart + half_width <= margin:
        state = "holds"
    elif apart - half_width > margin:
        state = "does not hold"
    text = f"{what}: {one}, {other}; {apart:.2f} apart (noise {half_width:.2f})"
    return Verdict(state, f"{text}, similar if within {margin:.2f}")


def no_worse(one: Sample, than: Sample, what: str) -> Verdict:
    """Whether a figure is not above another: surely by no more than a tenth of it."""
    worse, half_width = one.mean - than.mean, noise(one, than)
    state: State = "not clear"
    if worse > half_width:
        state = "does not hold"
    elif worse + half_width <= SIMILAR * than.mean:
        state = "holds"
    return Verdict(state, f"{what}: {one}, {than}; {worse:+.2f} (noise {half_width:.2f})")


def above(sample: Sample, bound: float, what: str) -> Verdict:
    """Whether a figure is clearly above a bound."""
    half_width = noise(sample)
    text = f"{what}: {sample} (noise {half_width:.2f}), to be above {bound:g}"
    return Verdict(state_of(sample.mean - bound, half_width), text)


def below(sample: Sample, bound: float, what: str) -> Verdict:
    """Whether a figure is clearly below a bound."""
    half_width = noise(sample)
    text = f"{what}: {sample} (noise {half_width:.2f}), to be below {bound:g}"
    return Verdict(state_of(bound - sample.mean, half_width), text)


def not_run(names: Sequence[str]) -> Verdict:
    """The verdict where results are missing."""
    return Verdict("not run", f"not run: {', '.join(names)}")


class Runs:
    """Results of one group and its variants.

    Args:
        outcomes: any; those of other groups are left out.
        group: first part of the keys, for example `cifar10-short`.
    """

    def __init__(self, outcomes: Iterable[Outcome], group: str) -> None:
        self.group = group
        mine = (o for o in outcomes if o.key.startswith((f"{group}/", f"{group}-")))
        self._results = Results(mine)

    def find(
        self, network: str, kind: str = "training", variant: str = "", views: str = ""
    ) -> list[Outcome]:
        """Results of a network, by seed; a stem for small images makes no difference."""
        return self._results.runs(self.group + variant, network, kind, views)

    def training_errors(self, networks: Sequence[str], variant: str = "") -> list[Sample | None]:
        """Training errors at the end, in percent; None for what was not run."""
        found = [self.find(network, variant=variant) for network in networks]
        return [
            sample(name + variant, [value(o, "train_error") for o in of], images=_read_images(of))
            for name, of in zip(networks, found, strict=True)
        ]

    def errors(self, networks: Sequence[str], variant: str = "") -> list[Sample | None]:
        """Test errors in percent, all by one protocol; None for what was not run.

        The protocol is the ten-crop or the dense test, where all the networks have it; otherwise
        that of the trainings themselves.
        """
        for views in ("ten-crop", "dense"):
            tests = [self.find(network, "test", variant, views) for network in networks]
            if all(tests):
                return [
                    self._counted(n, of, "error") for n, of in zip(networks, tests, strict=True)
                ]
        found = [self.find(network, variant=variant) for network in networks]
        return [
            self._counted(name + variant, of, "measured", "error")
            for name, of in zip(networks, found, strict=True)
        ]

    def _counted(self, name: str, outcomes: Sequence[Outcome], *path: str) -> Sample | None:
        images = [int(value(o, *path[:-1], "images")) for o in outcomes]
        return sample(name, [value(o, *path) for o in outcomes], images=min(images, default=None))

    def lengths(self) -> list[int]:
        """How many iterations the trainings had, shortest first."""
        trainings = (o for o in self._results.all if o.kind == "training")
        return sorted({int(value(o, "iterations")) for o in trainings})

    def budget(self) -> str:
        """The group and the length of its trainings."""
        lengths = self.lengths()
        if not lengths:
            return self.group
        first, last = lengths[0], lengths[-1]
        return f"{self.group}, {first:,}{f' to {last:,}' if first < last else ''} iterations"


def sample(
    name: str, values: Sequence[float], unit: str = " %", images: int | None = None
) -> Sample | None:
    """A network's figures; None if there are none."""
    return Sample(name, tuple(values), unit, images) if values else None


def _read_images(outcomes: Iterable[Outcome]) -> int | None:
    """On how many images the training errors were counted: those of the last readings."""
    plans = [o.identity.get("plan") for o in outcomes]
    found = [
        LAST * plan["log_every"] * plan["batch"]
        for plan in plans
        if isinstance(plan, dict)
        and all(isinstance(plan.get(key), int) for key in ("log_every", "batch"))
    ]
    return min(found, default=None)
