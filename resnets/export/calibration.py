"""Which images an export is calibrated, tested and compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resnets.data import cifar10
from resnets.data.cifar10 import Images
from resnets.data.datasets import open_test
from resnets.data.images import decode, read_image
from resnets.data.preprocessing import Preprocessing, resize_shorter, to_tensor
from resnets.data.samples import Samples, Subset, drawn
from resnets.evaluation.photo_tests import labels_for, named
from resnets.inference import image_inputs
from resnets.support.devices import cores
from resnets.support.errors import UserError
from resnets.support.parallel import in_threads
from resnets.weights.model_file import Model

CIFAR10 = "cifar10"
COMPARED = 24
"""Real images that outputs are compared on."""
FEWEST = 10


@dataclass(frozen=True)
class Data:
    """Images for an export.

    Args:
        calibration: uint8 (3, H, W), as the network is shown them.
        calibrated_with: what they are, in words.
        test: labelled images that calibrate nothing, if there are any.
        tested_on: what they are, in words, or why there are none.
    """

    calibration: Sequence[Tensor]
    calibrated_with: str
    test: Samples | Images | None
    tested_on: str


def gather(
    model: Model, calibrate: str | None, test: str | None, limit: int, dense: bool = False
) -> Data:
    """Find the images.

    Args:
        calibrate: a folder of images, or `cifar10` for its training images.
        test: labelled images, or `cifar10` for its test images; by default those of `calibrate`
            that are not used to calibrate, where they are labelled and enough.
        limit: calibration images at most.
        dense: show whole images; a dense export has no test that images are kept for.

    Raises:
        UserError: if there are no such images, too few, or those of `test` have other classes.
    """
    if calibrate not in (None, CIFAR10) and not Path(str(calibrate)).exists():
        hint = "give a folder of images, or cifar10"
        raise UserError("no such folder", f"--calibrate {calibrate}", hint)
    if CIFAR10 in (calibrate, test):
        _refuse_other_than_cifar10(model)
    tests, told = (
        (None, "no labelled images were given") if test is None else _labelled(model, test)
    )
    if calibrate is None:
        return Data((), "", tests, told)
    if calibrate == CIFAR10:
        training = cifar10.load().train
        chosen = drawn(len(training), limit)
        pixels = [torch.from_numpy(np.array(training.images[i])) for i in chosen]
        if test is None:
            tests, told = _labelled(model, CIFAR10)
        return Data(pixels, f"{len(pixels)} training images of CIFAR-10", tests, told)
    if test is None:
        try:
            everything, _ = _labelled(model, calibrate)
        except UserError as error:
            told = f"the images have no labels of this model ({error.message})"
        else:
            assert not isinstance(everything, Images)
            return _parted(model, everything, calibrate, limit, dense)
    files = image_inputs.find_images([calibrate])
    files = [files[i] for i in drawn(len(files), limit)]
    return Data(*_enough(real_images(files, model.preprocessing, dense), calibrate), tests, told)


def _parted(model: Model, everything: Samples, where: str, limit: int, dense: bool) -> Data:
    """Labelled images to calibrate with, and the rest for the test where they are enough."""
    half = len(everything) // 2
    alone = dense or half < FEWEST
    chosen = drawn(len(everything), limit if alone else min(limit, half))
    names = [(everything, int(i)) for i in chosen]
    pixels = list(in_threads(lambda at: _sample(model, *at, dense), names, cores()))
    if alone:
        told = f"{len(everything)} labelled images are too few to keep some for a test"
        return Data(*_enough(pixels, where), None, told)
    rest = Subset(everything, np.setdiff1d(np.arange(len(everything)), chosen))
    return Data(*_enough(pixels, where), rest, f"the rest of {_called(where)}")


def _enough(pixels: list[Tensor], where: str) -> tuple[list[Tensor], str]:
    if len(pixels) < FEWEST:
        raise UserError(f"only {len(pixels)} images to calibrate with", where, "give a hundred")
    return pixels, f"{len(pixels)} images of {_called(where)}"


def _labelled(model: Model, where: str) -> tuple[Samples | Images, str]:
    """Labelled images of the model's classes; raises `UserError`."""
    if where == CIFAR10:
        return cifar10.load().test, "CIFAR-10's test set"
    samples = open_test(where)
    labels_for(samples, model)
    return samples, _called(where)


def _called(where: str) -> str:
    """A data set's name without the folders above it, which are nobody's business."""
    return Path(where).name or where


def _refuse_other_than_cifar10(model: Model) -> None:
    if model.classes != list(cifar10.CLASSES) or model.preprocessing.size != 32:
        raise UserError(
            "the model was not trained on CIFAR-10", model.card["network"], "give a folder instead"
        )


def _sample(model: Model, samples: Samples, index: int, dense: bool) -> Tensor:
    image = decode(samples.read(index), named(samples, index))
    return _shown(image, model.preprocessing, dense)


def real_images(files: Sequence[str], look: Preprocessing, dense: bool) -> list[Tensor]:
    """Image files as the network is shown them: uint8 (3, H, W); raises `UserError`."""

    def load(name: str) -> Tensor:
        return _shown(read_image(Path(name)), look, dense)

    return list(in_threads(load, files, cores()))


def _shown(image: object, look: Preprocessing, dense: bool) -> Tensor:
    """The centre of an image, or the whole, its shorter side scaled."""
    if dense:
        return to_tensor(resize_shorter(image, look.resize, look.interpolation))  # type: ignore[arg-type]
    return to_tensor(look.crop(image))  # type: ignore[arg-type]


def to_compare(given: Sequence[str], data: Data, look: Preprocessing, dense: bool) -> list[Tensor]:
    """Real images to compare outputs on: those given, else those of the test, else shipped ones."""
    if given:
        files = image_inputs.find_images(given)
        return real_images([files[i] for i in drawn(len(files), COMPARED)], look, dense)
    test = data.test
    if isinstance(test, Images):
        return [torch.from_numpy(np.array(test.images[i])) for i in drawn(len(test), COMPARED)]
    if test is not None:
        chosen = drawn(len(test), COMPARED)
        return [_shown(decode(test.read(int(i)), named(test, int(i))), look, dense) for i in chosen]
    if data.calibration:
        return list(data.calibration[:COMPARED])
    shipped = resources.files("resnets") / "serve" / "samples"
    return real_images(image_inputs.find_images([str(shipped)]), look, dense)
