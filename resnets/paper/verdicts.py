"""Statistics over seeds, and comparisons of networks that allow for noise.

Two networks differ clearly if the difference of their means exceeds the half-width of its 95 %
confidence interval, from the seeds' pooled standard deviation (Student's t). A single seed has no
spread: its standard deviation is then taken to be the largest of three: that of the other network;
2.4 % of the value, as in the paper's five runs of ResNet-110 (6.61 +- 0.16); and the binomial
deviation of an error counted on the images of the test.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["holds", "does not hold", "not clear", "not run"]
SPREAD = 0.16 / 6.61
"""Relative standard deviation assumed of an error if only one seed was run."""
STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom; 2.1 beyond."""
SIMILAR = 0.1
"""Relative difference of errors within which two networks count as similarly accurate."""


@dataclass(frozen=True)
class Verdict:
    """Whether a statement holds in the results, and the numbers that show it."""

    state: State
    evidence: str


@dataclass(frozen=True)
class Sample:
    """One quantity of one network, over seeds.

    Args:
        name: of the network, as written in the evidence.
        values: one for each seed.
        unit: written after the values.
        images: number of images on which an error was counted, if known.
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
        """Standard deviation between seeds; with one seed an assumed one."""
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
    """Half-width of the 95 % interval of one mean, or of the difference of two means."""
    scale = math.sqrt(sum(1 / len(s.values) for s in samples))
    if any(len(s.values) == 1 for s in samples):
        return 2 * max(s.deviation for s in samples) * scale
    freedom = sum(len(s.values) - 1 for s in samples)
    squares = sum((len(s.values) - 1) * s.deviation**2 for s in samples)
    factor = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 2.1
    return factor * math.sqrt(squares / freedom) * scale


def holds_if(condition: bool, evidence: str) -> Verdict:
    """`holds` or `does not hold`, for what is known without noise."""
    return Verdict("holds" if condition else "does not hold", evidence)


def state_of(excess: float, half_width: float) -> State:
    """`holds` if `excess` is above 0 by more than `half_width`, `does not hold` if below."""
    if abs(excess) <= half_width:
        return "not clear"
    return "holds" if excess > 0 else "does not hold"


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a statement with several parts, each of which must hold."""
    parts = list(verdicts)
    states = {part.state for part in parts}
    state: State = "not clear"
    if "does not hold" in states:
        state = "does not hold"
    elif len(states) == 1:
        state = parts[0].state
    return Verdict(state, "; ".join(dict.fromkeys(part.evidence for part in parts)))


def rising(samples: Sequence[Sample | None], names: Sequence[str], what: str) -> Verdict:
    """Whether each value is clearly above the one before; to hold, all must have been run."""
    found = [sample for sample in samples if sample is not None]
    lacking = [name for name, sample in zip(names, samples, strict=True) if sample is None]
    if len(found) < 2:
        return not_run(lacking)
    pairs = list(itertools.pairwise(found))
    states = {state_of(high.mean - low.mean, noise(low, high)) for low, high in pairs}
    steps = [f"{high.mean - low.mean:+.2f} (noise {noise(low, high):.2f})" for low, high in pairs]
    text = f"{what}: {', '.join(map(str, found))}; differences {', '.join(steps)}"
    if len(found) > 2:
        first, last = found[0], found[-1]
        text += f", in total {last.mean - first.mean:+.2f} (noise {noise(first, last):.2f})"
    if lacking:
        text += f"; not run: {', '.join(lacking)}"
    if "does not hold" in states:
        return Verdict("does not hold", text)
    return Verdict("holds" if states == {"holds"} and not lacking else "not clear", text)


def similar(one: Sample, other: Sample, what: str) -> Verdict:
    """Whether two values are within a tenth of each other, with 95 % confidence."""
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
    """Whether a value exceeds another by no more than a tenth of it, with 95 % confidence."""
    worse, half_width = one.mean - than.mean, noise(one, than)
    state: State = "not clear"
    if worse > half_width:
        state = "does not hold"
    elif worse + half_width <= SIMILAR * than.mean:
        state = "holds"
    return Verdict(state, f"{what}: {one}, {than}; {worse:+.2f} (noise {half_width:.2f})")


def bounded(sample: Sample, side: Literal["above", "below"], bound: float, what: str) -> Verdict:
    """Whether a value is clearly above or below a bound."""
    half_width, excess = noise(sample), sample.mean - bound
    text = f"{what}: {sample} (noise {half_width:.2f}), must be {side} {bound:g}"
    return Verdict(state_of(excess if side == "above" else -excess, half_width), text)


def not_run(names: Sequence[str]) -> Verdict:
    """The verdict if the results of these networks are missing."""
    return Verdict("not run", f"not run: {', '.join(names)}")


def sample(
    name: str, values: Sequence[float], unit: str = " %", images: int | None = None
) -> Sample | None:
    """The values of a network; None if there are none."""
    return Sample(name, tuple(values), unit, images) if values else None
