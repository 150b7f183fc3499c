"""`resnets signals`: forward signals and backward gradients of every layer (section 4.1)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from resnets.analysis import figures, signals
from resnets.analysis.signals import Signal
from resnets.cli.train import load_data
from resnets.models import zoo
from resnets.support.devices import environment, find_device
from resnets.support.errors import UserError
from resnets.support.files import write_bytes
from resnets.training import hardware, recipe_file, run_folder
from resnets.training.objective import Data
from resnets.training.recipe import Recipe
from resnets.training.trainer import Training


def follow(
    name: str,
    network: str | None,
    seed: int,
    at: str,
    data: str | None,
    plot: Path | None,
    device_name: str,
    settings: Sequence[str],
    as_json: bool,
) -> None:
    """Train as far as asked, and print and draw the signals on the way."""
    keys: dict[str, str | int] = {"seed": seed, **({"network": network} if network else {})}
    recipe = recipe_file.load(name, settings, keys)
    steps = _steps(at)
    if plot and (plot.suffix != ".png" or not plot.absolute().parent.is_dir()):
        raise UserError("not a PNG file in a folder that exists", f"--plot {plot}", "rename it")
    device = find_device(device_name)
    images = load_data(recipe, data, lambda line: print(line, file=sys.stderr))
    found = measure_training(recipe, images, device, steps)
    if as_json:
        facts = {str(step): [asdict(signal) for signal in row] for step, row in found.items()}
        print(json.dumps({"steps": facts, **environment(device)}, indent=2))
    else:
        _print(recipe.network, found)
    if plot:
        plain = zoo.architecture(recipe.network).shortcut == "none"
        write_bytes(plot, figures.signals_png(recipe.network, found, dashed=plain))
        if not as_json:
            print(f"Drawn in {plot}")


class _Updates:
    """Updates of a training, with the readings that its learning rate depends on."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.network, self.healthy = training.network, training.healthy

    def update(self) -> None:
        """One update."""
        training, recipe = self.training, self.training.recipe
        training.update()
        if training.step % recipe.log_every == 0:
            training.read()
        if training.step % recipe.test_every == 0:
            training.tested()


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

    Raises:
        UserError: if a step is beyond the recipe, or the training diverges.
    """
    recipe, task, init = run_folder.resolve(recipe, data, device)
    if steps and (min(steps) < 0 or max(steps) > recipe.steps):
        given = ",".join(map(str, steps))
        raise UserError(f"the recipe has 0 to {recipe.steps:,} iterations", f"--steps {given}")
    hardware.prepare(recipe, device)
    settings = replace(hardware.resolve(recipe, device), compile=False, graphs=False)
    training = Training(recipe, task, device, settings, init=init)
    try:
        batch = [training.batches(recipe.steps, part) for part in range(len(training.parts))]
        images, labels = (torch.cat(tensors) for tensors in zip(*batch, strict=True))
        return signals.follow(_Updates(training), images, labels, steps, progress)
    finally:
        training.batches.close()


def _steps(text: str) -> list[int]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError("not of the form 0,100,1000", f"--steps {text}", "give whole numbers")
    return sorted({int(step) for step in text.split(",")})


def _print(network: str, found: Mapping[int, Sequence[Signal]]) -> None:
    print(f"{network}: deviation of each layer's response, and RMS of the loss's gradient there\n")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("layer")
    for step in found:
        table.add_column(f"response, {step:,}", justify="right")
        table.add_column(f"gradient, {step:,}", justify="right")
    for rows in zip(*found.values(), strict=True):
        cells = [cell for s in rows for cell in (f"{s.forward:.3f}", f"{s.gradient:.2e}")]
        table.add_row(rows[0].layer, *cells)
    Console(highlight=False).print(table)
