"""Opening a data set by its location: the front of this package.

`open_training` and `open_test` open photographs from any of these locations:
    a folder of images, in the layouts of `folders`, or its table of images and classes;
    an archive (.tar, .tar.gz, .zip, ...) of such a folder, unpacked into the cache folder;
    a folder of WebDataset shards;
    the URL of shards: `https://`, `file://`, or any other that fsspec supports.

`open_data` also opens CIFAR-10 and CIFAR-100, as a recipe names it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resnets.data import archives, cifar, folders
from resnets.data.boxes.annotations import BoxSet
from resnets.data.cifar import Cifar
from resnets.data.cifar_classes import NAMES, CifarName
from resnets.data.images import ImageError
from resnets.data.layouts import GIVE_A_FOLDER
from resnets.data.quarantine import excludable
from resnets.data.samples import PhotoSet, Samples
from resnets.data.shards import reader
from resnets.support.errors import UserError

_FOLDER_OR_CIFAR = f"{GIVE_A_FOLDER}, or {', '.join(NAMES)}"


@dataclass(frozen=True)
class BoxSplits:
    """Training and test images with boxes of the same categories."""

    train: BoxSet
    test: BoxSet


Data = Cifar | PhotoSet | BoxSplits
"""What a training needs: training and test images."""


def open_data(
    dataset: CifarName | Literal["photos", "boxes", "localization"],
    location: str | None,
    *,
    split_seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
) -> Data:
    """Open the training and test images of a recipe's data set.

    Args:
        dataset: its kind.
        location: for CIFAR, its files, which are downloaded by default; for photographs, see
            `open_training`; for images with boxes, `open_box_splits`.
        split_seed: see `open_training`.
        report: called with a line for each source of CIFAR that is tried, and for what a user
            should know of the images.

    Raises:
        UserError: if there are no such images, or photographs without a location.
    """
    if dataset != "photos" and dataset != "boxes" and dataset != "localization":
        return cifar.load(dataset, Path(location) if location else None, report)
    if location is None:
        raise UserError("this recipe needs images", hint="give a folder of images: --data FOLDER")
    if dataset != "photos":
        return open_box_splits(location, split_seed, report)
    found = open_training(location, split_seed)
    for line in found.notes:
        report(line)
    return found


def open_box_splits(
    location: str, split_seed: int = 0, report: Callable[[str], None] = lambda line: None
) -> BoxSplits:
    """Open the training and test images with boxes in a folder or an archive.

    Args:
        location: of the data set.
        split_seed: as for `open_training`.
        report: called with a line for what a user should know of the images: what is left out or
            not used, and categories without test images.

    Raises:
        UserError: if there are none, or their annotations are malformed.
    """
    from resnets.data.boxes.datasets import box_set, read_source, unused_categories

    source = read_source(Path(local(location)), split_seed)
    for line in source.notes():
        report(line)

    def refuse(error: UserError) -> None:
        if isinstance(error, ImageError):
            raise excludable(error) from error
        raise error

    splits = BoxSplits(box_set(source, "train", refuse), box_set(source, "test", refuse))
    if unused := unused_categories(splits.test):
        report(f"no test image has an object of: {', '.join(unused)}")
    return splits


def open_training(location: str, split_seed: int = 0) -> PhotoSet:
    """Open the training and test images at a location.

    Args:
        location: a folder, an archive, shards or a URL.
        split_seed: chooses the images that are set aside if there are no test images.

    Raises:
        UserError: if there are no images, or they are not suited to training.
    """
    location = local(location)
    if reader.are_shards(location):
        return reader.load(location, split_seed)
    return folders.load(Path(location), split_seed)


def open_test(location: str) -> Samples:
    """Open the test images at a location: those of its split `val`, else all images.

    Args:
        location: a folder, an archive, shards or a URL.

    Raises:
        UserError: if there are no labelled images.
    """
    similar = difflib.get_close_matches(location, NAMES)
    hint = f"did you mean {' or '.join(similar)}?" if similar else _FOLDER_OR_CIFAR
    location = local(location, hint)
    if reader.are_shards(location):
        return reader.load_test(location)
    return folders.load_test(Path(location))


def local(location: str, hint: str = GIVE_A_FOLDER) -> str:
    """The folder that an archive contains; any other location unchanged.

    Raises:
        UserError: if there is nothing at this path, or an archive is damaged.
    """
    if "://" in location:
        return location
    path = Path(location)
    if not os.path.exists(path):  # noqa: PTH110 (never raises)
        raise UserError("no such folder", location, hint)
    archives.refuse_other_kinds(path)
    return str(archives.unpacked(path)) if archives.is_archive(path) else location
