"""Signals and gradients measured in the course of a training (section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from resnets.analysis.signals import Signal, measure
from resnets.data.datasets import Data
from resnets.support.errors import UserError
from resnets.training import hardware
from resnets.training.objective import make_objective
from resnets.training.recipe import Recipe
from resnets.training.trainer import Trainer


def measure_training(
    recipe: Recipe,
    data: Data,
    device: torch.device,
    steps: Sequence[int],
    progress: Callable[[int], None] = lambda step: None,
) -> dict[int, list[Signal]]:
    """Train by a recipe, without a folder or tests, and measure the signals on the way.

    All measurements are on one batch: the one after the recipe's last, with its augmentation, in
    float32 whatever the training's precision.

    Args:
        recipe: the recipe to train by; the schedule is that of its whole length.
        data: CIFAR-10 or photographs, as the recipe needs.
        device: where to train.
        steps: numbers of updates after which to measure; 0 is at initialisation.
        progress: called with the number of updates done.

    Returns:
        The signals of each layer, by the number of updates.

    Raises:
        UserError: if there are no steps, one is beyond the recipe, or the training diverges.
    """
    if not steps:
        raise UserError("no steps to measure at")
    objective = make_objective(recipe, data)
    recipe = objective.recipe
    if min(steps) < 0 or max(steps) > recipe.steps:
        given = ",".join(map(str, steps))
        raise UserError(f"the recipe has 0 to {recipe.steps:,} iterations", f"--steps {given}")
    hardware.prepare(recipe, device)
    settings = replace(hardware.resolve(recipe, device), compile=False, graphs=False)
    trainer = Trainer(objective, device, settings)
    try:
        batch = [trainer.batches(recipe.steps, part) for part in range(len(trainer.micro_batches))]
        images, labels = (torch.cat(tensors) for tensors in zip(*batch, strict=True))
        measured = {}
        for step in range(max(steps) + 1):
            if step in steps:
                if not trainer.healthy():
                    raise UserError(f"the training diverged before iteration {step}")
                measured[step] = measure(trainer.network, images, labels)
            if step < max(steps):
                _update(trainer)
                progress(trainer.step)
        return measured
    finally:
        trainer.batches.close()


def _update(trainer: Trainer) -> None:
    """One update, with the readings that the learning rate depends on."""
    trainer.update()
    if trainer.step % trainer.recipe.log_every == 0:
        trainer.take_reading()
    if trainer.step % trainer.recipe.test_every == 0:
        trainer.record_test()
