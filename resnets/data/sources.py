"""Opening a data set by what a user calls it."""

from __future__ import annotations

from pathlib import Path

from resnets.data import folders
from resnets.data.samples import Samples
from resnets.support.errors import UserError, nearest


def open_test(where: str) -> Samples:
    """The images to test on at `where`: a folder in any of the layouts of `folders`.

    Raises:
        UserError: if there is nothing, or no labelled images in it.
    """
    path = Path(where)
    if not path.exists():
        raise UserError("no such folder or data set", where, nearest(where, ["cifar10"]))
    return folders.load_test(path)
