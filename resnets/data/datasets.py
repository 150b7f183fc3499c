"""Opening a data set by what a user calls it: a folder of images, its archive, or shards."""

from __future__ import annotations

from pathlib import Path

from resnets.data import archives, folders
from resnets.data.samples import PhotoSet, Samples
from resnets.data.shards import reader
from resnets.support.errors import UserError, nearest


def open_training(where: str, split_seed: int = 0) -> PhotoSet:
    """The images to train on and to test on at `where`: a folder, an archive, shards or a URL.

    Args:
        split_seed: which of the ways to part a set that has no `val`.

    Raises:
        UserError: if there is nothing, or what is there cannot be trained on.
    """
    where = _opened(where)
    if reader.are_shards(where):
        return reader.load(where, split_seed)
    return folders.load(Path(where), split_seed)


def open_test(where: str) -> Samples:
    """The images to test on at `where`: a folder, an archive, shards or a URL.

    Raises:
        UserError: if there is nothing, or no labelled images in it.
    """
    where = _opened(where)
    if reader.are_shards(where):
        return reader.load_test(where)
    path = Path(where)
    if not path.exists():
        raise UserError("no such folder or data set", where, nearest(where, ["cifar10"]))
    return folders.load_test(path)


def _opened(where: str) -> str:
    """`where`, or the folder that an archive there holds."""
    path = Path(where)
    return str(archives.unpacked(path)) if archives.is_archive(path) else where
