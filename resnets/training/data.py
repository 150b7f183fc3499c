"""The images that a recipe trains on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from resnets.data import cifar10, datasets
from resnets.support.errors import UserError
from resnets.training.objective import Data
from resnets.training.recipe import Recipe


def load_data(recipe: Recipe, data: str | None, note: Callable[[str], None]) -> Data:
    """Open the images of a recipe.

    Args:
        recipe: its data set, and the seed of the split where a folder has none.
        data: a folder of images, an archive, shards or their URL; for CIFAR-10 its files.
        note: called with lines for the user, such as the progress of a download.

    Raises:
        UserError: if the images are missing, or the recipe needs some and none are given.
    """
    if recipe.dataset == "cifar10":
        return cifar10.load(Path(data) if data else None, note)
    if data is None:
        raise UserError("this recipe needs images", hint="give a folder of images: --data FOLDER")
    return datasets.open_training(data, recipe.photos.split_seed)
