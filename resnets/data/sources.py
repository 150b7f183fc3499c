"""Opening a data set by what a user calls it: a folder of images, or shards of one."""

from __future__ import annotations

from pathlib import Path

from resnets.data import folders, shards
from resnets.data.samples import PhotoSet, Samples
from resnets.support.errors import UserError, nearest


def open_training(where: str, split_seed: int = 0) -> PhotoSet:
    """The images to train on and to test on at `where`: a folder, or shards at a path or URL.

    Args:
        split_seed: which of the ways to part a set that has no `val`.

    Raises:
        UserError: if there is nothing, or what is there cannot be trained on.
    """
    if shards.are_shards(where):
        return shards.load(where, split_seed)
    return folders.load(Path(where), split_seed)


def open_test(where: str) -> Samples:
    """The images to test on at `where`: a folder, or shards at a path or URL.

    Raises:
        UserError: if there is nothing, or no labelled images in it.
    """
    if shards.are_shards(where):
        return shards.load_test(where)
    path = Path(where)
    if not path.exists():
        raise UserError("no such folder or data set", where, nearest(where, ["cifar10"]))
    return folders.load_test(path)
