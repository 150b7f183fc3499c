"""The learning rate as a pure function of the step: nothing to restore, nothing to mutate."""

from __future__ import annotations

import math

from resnets.training.recipe import Schedule


def learning_rate(
    schedule: Schedule, step: int, iterations: int, depth: int, started: int | None = None
) -> float:
    """The rate of update number `step`, from 0.

    Args:
        schedule: the recipe's schedule.
        step: the update about to be made.
        iterations: updates in the whole training.
        depth: weighted layers of the network, for the gentle start of deep ones.
        started: the step at which the training error was first seen below the gentle
            start's limit; None before that. The schedule's other steps do not shift.
    """
    if in_gentle_start(schedule, depth, started):
        assert schedule.gentle_start is not None
        return schedule.gentle_start.lr
    if step < schedule.warmup:
        return schedule.lr * ((step + 1) / schedule.warmup)
    if schedule.kind == "steps":
        return schedule.lr * schedule.factor ** sum(step >= drop for drop in schedule.drops)
    left = 1 - (step - schedule.warmup) / max(1, iterations - schedule.warmup)
    if schedule.kind == "linear":
        return schedule.lr * left
    return schedule.lr * 0.5 * (1 - math.cos(math.pi * left))


def in_gentle_start(schedule: Schedule, depth: int, started: int | None) -> bool:
    """Whether the small rate of a deep network's start is still in force."""
    gentle = schedule.gentle_start
    return gentle is not None and depth >= gentle.from_depth and started is None
