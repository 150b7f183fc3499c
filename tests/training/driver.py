"""A training in a process of its own: `driver.py FOLDER RECIPE-AS-JSON [HALT]`.

Trains on the small synthetic data; starts the run, or resumes it if it exists. Prints
a line for each update and waits after update HALT, to be killed or stopped at a known place.
"""

import json
import sys
import time
from pathlib import Path

import torch

from resnets.data.cifar import Cifar
from resnets.training import run, run_folder
from resnets.training.objective import make_objective
from resnets.training.recipe import Recipe
from tests.conftest import synthetic


def data():
    """An epoch of a dozen steps, for batches of 20."""
    return Cifar(train=synthetic(240, 1), test=synthetic(80, 2))


class Steps:
    """Prints each step; halts at one."""

    def __init__(self, halt=None):
        self.halt = halt

    def note(self, text):
        print(text, flush=True)
        if text.startswith("stopping"):  # a signal came: let the run reach the end of the iteration
            self.halt = None

    def begin(self, made):
        print(f"begin {made.trainer.step}", flush=True)

    def stepped(self, step):
        print(f"step {step}", flush=True)
        while step == self.halt:
            time.sleep(0.01)

    def logged(self, metrics):
        pass

    def testing(self, images, total):
        pass


def start_or_resume(folder, recipe, images, observer, command="test"):
    device = torch.device("cpu")
    if (folder / "recipe.json").exists():
        objective = make_objective(run_folder.read_recipe(folder), images)
        return run.resume(folder, objective, device, observer)
    return run.start(folder, make_objective(recipe, images), device, observer, command=command)


def main():
    folder, recipe = Path(sys.argv[1]), Recipe.model_validate_json(sys.argv[2])
    observer = Steps(int(sys.argv[3]) if len(sys.argv) > 3 else None)
    torch.set_num_threads(1)
    try:
        made = start_or_resume(folder, recipe, data(), observer, "driver")
        print(json.dumps(made.train()["measured"]["error"]), flush=True)
    except run.Interrupted as stop:
        print(stop, flush=True)
        sys.exit(128 + stop.signal)


if __name__ == "__main__":
    main()
