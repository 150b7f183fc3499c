"""A training of a detector in a process of its own: `driver.py FOLDER IMAGES RECIPE HALT`."""

import sys
from pathlib import Path

import torch

from resnets.detection.objective import DetectionObjective
from resnets.training import run
from resnets.training.recipe import Recipe
from tests.detection.shapes import drawn
from tests.training.driver import Steps


def main():
    folder, images, plan, halt = sys.argv[1:]
    torch.set_num_threads(1)
    objective = DetectionObjective(
        Recipe.model_validate_json(plan), drawn(Path(images), empty=(2,))
    )
    device, observer = torch.device("cpu"), Steps(int(halt))
    run.start(Path(folder), objective, device, observer, command="driver").train()


if __name__ == "__main__":
    main()
