"""Signals and gradients measured in the course of a training (section 4.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from resnets.analysis import signals
from resnets.analysis.signals import Signal
from resnets.data.datasets import Data
from resnets.support.errors import UserError
from resnets.training import hardware
from resnets.training.objective import make_objective
from resnets.training.recipe import Recipe
from resnets.training.trainer import Trainer


class _Updates:
    """Updates of a training, with the readings that its learning rate depends on."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.network, self.healthy = trainer.network, trainer.healthy

    def update(self) -> None:
        """One update."""
        trainer, recipe = self._trainer, self._trainer.recipe
        trainer.update()
        if trainer.step % recipe.log_every == 0:
            trainer.read()
        if trainer.step % recipe.test_every == 0:
            trainer.record_test()


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
        UserError: if a step is beyond the recipe, or the training diverges.
    """
    objective = make_objective(recipe, data)
    recipe = objective.recipe
    if steps and (min(steps) < 0 or max(steps) > recipe.steps):
        given = ",".join(map(str, steps))
        raise UserError(f"the recipe has 0 to {recipe.steps:,} iterations", f"--steps {given}")
    hardware.prepare(recipe, device)
    settings = replace(hardware.resolve(recipe, device), compile=False, graphs=False)
    trainer = Trainer(objective, device, settings)
    try:
        batch = [trainer.batches(recipe.steps, part) for part in range(len(trainer.parts))]
        images, labels = (torch.cat(tensors) for tensors in zip(*batch, strict=True))
        return signals.follow(_Updates(trainer), images, labels, steps, progress)
    finally:
        trainer.batches.close()
