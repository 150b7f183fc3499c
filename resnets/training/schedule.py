"""The learning rate as a pure function of the step: nothing to restore, nothing to mutate."""

from __future__ import annotations

import math
from collections.abc import Sequence

from resnets.training.recipe import Schedule


def learning_rate(
    schedule: Schedule,
    step: int,
    iterations: int,
    depth: int,
    started: int | None = None,
    errors: Sequence[tuple[int, float]] = (),
) -> float:
    """The rate of update number `step`, from 0.

    Args:
        schedule: the recipe's schedule.
        step: the update about to be made.
        iterations: updates in the whole training.
        depth: weighted layers of the network, for the gentle start of deep ones.
        started: the step at which the training error was first seen below the gentle
            start's limit; None before that. The schedule's other steps do not shift.
        errors: the training error at each test so far, with its step, for `plateau`.
    """
    if in_gentle_start(schedule, depth, started):
        assert schedule.gentle_start is not None
        return schedule.gentle_start.lr
    if step < schedule.warmup:
        return schedule.lr * ((step + 1) / schedule.warmup)
    if schedule.kind in ("steps", "plateau"):
        drops = schedule.drops if schedule.kind == "steps" else plateaus(errors, schedule.patience)
        return schedule.lr * schedule.factor ** sum(step >= drop for drop in drops)
    left = 1 - (step - schedule.warmup) / max(1, iterations - schedule.warmup)
    if schedule.kind == "linear":
        return schedule.lr * left
    return schedule.lr * 0.5 * (1 - math.cos(math.pi * left))


def plateaus(errors: Sequence[tuple[int, float]], patience: int) -> list[int]:
    """The steps at which a training error stopped falling (section 3.4: "when the error plateaus").

    Args:
        errors: (step, error) in order.
        patience: errors in a row, none below the least before them by a hundredth of it, that
            make a plateau. The count starts again after each.
    """
    steps, least, waited = [], math.inf, 0
    for step, error in errors:
        if error < 0.99 * least:
            least, waited = error, 0
            continue
        waited += 1
        if waited == patience:
            steps.append(step)
            least, waited = min(least, error), 0
    return steps


def in_gentle_start(schedule: Schedule, depth: int, started: int | None) -> bool:
    """Whether the small rate of a deep network's start is still in force."""
    gentle = schedule.gentle_start
    return gentle is not None and depth >= gentle.from_depth and started is None
