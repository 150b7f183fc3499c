"""The learning rate as a pure function of the step: it has no state to save or restore."""

from __future__ import annotations

import math
from collections.abc import Sequence

from resnets.training.recipe import Schedule


def learning_rate(
    schedule: Schedule,
    step: int,
    *,
    iterations: int,
    depth: int,
    gentle_end: int | None = None,
    errors: Sequence[tuple[int, float]] = (),
) -> float:
    """The rate of update number `step`, from 0.

    Args:
        schedule: the recipe's schedule.
        step: the update about to be made.
        iterations: updates in the whole training.
        depth: weighted layers of the network, for the gentle start of deep ones.
        gentle_end: the step at which the training error was first below the gentle start's
            limit; None before that. It does not shift the rest of the schedule.
        errors: (step, training error) of each test so far, for `plateau`.
    """
    if in_gentle_start(schedule, depth, gentle_end):
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
    """The steps at which the error stopped falling (section 3.4: "when the error plateaus").

    Args:
        errors: (step, error) in order.
        patience: number of successive errors, none at least 1 % below the lowest before them,
            that make a plateau. The count restarts after each plateau.
    """
    steps, lowest, waited = [], math.inf, 0
    for step, error in errors:
        if error < 0.99 * lowest:
            lowest, waited = error, 0
            continue
        waited += 1
        if waited == patience:
            steps.append(step)
            lowest, waited = min(lowest, error), 0
    return steps


def in_gentle_start(schedule: Schedule, depth: int, gentle_end: int | None) -> bool:
    """Whether a deep network is still in its gentle start, with its small rate."""
    gentle = schedule.gentle_start
    return gentle is not None and depth >= gentle.from_depth and gentle_end is None
