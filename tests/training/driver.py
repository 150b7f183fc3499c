"""A training in a process of its own, on the small synthetic data: `driver.py FOLDER JSON`.

Starts the run, or goes on with it if it exists; prints one line for each update, so that
the test can kill it at a known place.
"""

import json
import sys
from pathlib import Path

import torch

from resnets.data.cifar10 import Cifar10
from resnets.training import run
from resnets.training.recipe import Recipe
from tests.conftest import synthetic


class Steps:
    """Prints each step."""

    def note(self, text):
        print(text, flush=True)

    def begin(self, made):
        print(f"begin {made.training.step}", flush=True)

    def stepped(self, step):
        print(f"step {step}", flush=True)

    def logged(self, metrics):
        pass

    def testing(self, images, total):
        pass


def main():
    folder, recipe = Path(sys.argv[1]), Recipe.model_validate_json(sys.argv[2])
    torch.set_num_threads(1)
    data = Cifar10(train=synthetic(600, 1), test=synthetic(200, 2))
    device = torch.device("cpu")
    try:
        if (folder / "recipe.json").exists():
            made = run.resume(folder, data, device, Steps(), "driver")
        else:
            made = run.start(folder, recipe, data, device, Steps(), "driver")
        print(json.dumps(made.train()["measured"]["error"]), flush=True)
    except run.Interrupted as stop:
        print(stop, flush=True)
        sys.exit(128 + stop.signal)


if __name__ == "__main__":
    main()
