"""Calibration for int8 by NNCF, and the images to calibrate, test and compare an export with."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnets.data import cifar
from resnets.data.cifar import ImageArrays
from resnets.data.cifar_classes import CLASSES, NAMES, CifarName, title, with_classes
from resnets.data.datasets import open_test
from resnets.data.images import decode, read_image
from resnets.data.preprocessing import Preprocessing, resize_shorter, to_tensor
from resnets.data.samples import Samples, Subset, random_indices
from resnets.evaluation.evaluator import labels_for, sample_name
from resnets.inference import image_inputs
from resnets.inference.engines import INPUT, nncf, without_warnings
from resnets.support.devices import cores
from resnets.support.errors import UserError
from resnets.support.names import counted
from resnets.support.parallel import in_threads
from resnets.weights.model_file import Model

LIMIT = 300
"""Default number of calibration images; more hardly change the ranges that NNCF finds."""
COMPARED = 24
"""Number of real images on which outputs are compared."""
FEWEST = 10
"""Fewest calibration images, and fewest images kept for a test."""


def quantize(model: Any, engine: str, images: Sequence[Tensor], ignored: Sequence[str] = ()) -> Any:
    """The model with int8 convolutions and classifier; all else stays float32.

    Weights use 7 of the 8 bits: CPUs without VNNI add products in 16 bits, which would overflow
    silently. The same file thus gives the same answers on old and new CPUs.

    Args:
        model: a float32 model of OpenVINO or ONNX.
        engine: `openvino` or `onnx`.
        images: calibration images, preprocessed but not normalized: uint8 (3, H, W).
        ignored: names of operations that stay float32.

    Raises:
        UserError: if NNCF is not installed.
    """
    progress_bars = io.StringIO()  # NNCF prints them even where there is no terminal
    with without_warnings(), redirect_stdout(progress_bars), redirect_stderr(progress_bars):
        package = nncf()
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
        )

        batches = [image[None].numpy() for image in images]
        inputs = batches if engine == "openvino" else [{INPUT: batch} for batch in batches]
        return package.quantize(
            model,
            package.Dataset(inputs),
            subset_size=len(inputs),
            preset=package.QuantizationPreset.MIXED,
            ignored_scope=package.IgnoredScope(names=list(ignored)) if ignored else None,
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        )


def require_nncf() -> None:
    """Raise `UserError` if NNCF is not installed; does not import it."""
    if find_spec("nncf") is None:
        raise UserError("nncf is not installed", hint="pip install resnets[export]")


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """Images to calibrate and test with, and how much int8 may lose.

    Args:
        calibrate: calibration images, which int8 needs: a folder, or `cifar10` for its training
            images; so for CIFAR-100.
        test: labelled images, or `cifar10` for its test images. By default the images of
            `calibrate` that are not used to calibrate, if they are labelled and numerous enough.
        limit: most calibration images; None for `LIMIT`.
        max_loss: most points of top-1 that may be lost on the test; None for `accuracy.MAX_LOSS`.
    """

    calibrate: str | None = None
    test: str | None = None
    limit: int | None = None
    max_loss: float | None = None


@dataclass(frozen=True)
class ExportImages:
    """The images to calibrate and to test an export with.

    Args:
        calibration: uint8 (3, H, W), cropped and scaled for the network; none without int8.
        calibrated_with: description of the calibration images for the model card.
        test: labelled images, none of which is a calibration image; None if there are none.
        tested_on: description of the test images, or the reason why there are none.
    """

    calibration: Sequence[Tensor]
    calibrated_with: str
    test: Samples | ImageArrays | None
    tested_on: str


def find_images(model: Model, options: CalibrationOptions, *, dense: bool = False) -> ExportImages:
    """Read the calibration images and open the test set.

    Args:
        dense: calibrate with whole images; no image is kept for a test, as dense exports have none.

    Raises:
        UserError: if images are missing, unreadable or too few, or the test images have classes
            that the model does not know.
    """
    calibrate, test, limit = options.calibrate, options.test, options.limit or LIMIT
    if calibrate not in (None, *NAMES) and not Path(str(calibrate)).exists():
        hint = f"give a folder of images, or {with_classes(model.classes) or 'cifar10'}"
        raise UserError("no such folder", f"--calibrate {calibrate}", hint)
    for name in (calibrate, test):
        if name in NAMES:
            _require_model_of(name, model)
    if test is None and calibrate in NAMES:
        test = calibrate
    samples, tested_on = (
        (None, "no labelled images were given") if test is None else _open_labelled(model, test)
    )
    if calibrate is None:
        return ExportImages((), "", samples, tested_on)
    if calibrate in NAMES:
        pixels = _draw(cifar.load(calibrate).train, limit)
        about = f"{len(pixels)} training images of {title(calibrate)}"
        return ExportImages(pixels, about, samples, tested_on)
    if test is None:
        try:
            labelled, _ = _open_labelled(model, calibrate)
        except UserError as error:
            tested_on = f"the images have no labels of this model ({error.message})"
        else:
            assert not isinstance(labelled, ImageArrays)
            return _split(model, labelled, calibrate, limit, dense)
    files = image_inputs.find_images([calibrate])
    files = [files[i] for i in random_indices(len(files), limit)]
    pixels = _read_files(files, model.preprocessing, dense)
    return ExportImages(pixels, _describe(pixels, calibrate), samples, tested_on)


def _split(model: Model, labelled: Samples, folder: str, limit: int, dense: bool) -> ExportImages:
    """Calibrate with at most half of the labelled images, and test on the rest if it is enough."""
    half = len(labelled) // 2
    without_test = dense or half < FEWEST
    chosen = random_indices(len(labelled), limit if without_test else min(limit, half))
    pixels = _read_samples(labelled, chosen, model.preprocessing, dense)
    calibrated_with = _describe(pixels, folder)
    if without_test:
        reason = f"{len(labelled)} labelled images are too few to keep some for a test"
        reason = "a dense export has no test" if dense else reason
        return ExportImages(pixels, calibrated_with, None, reason)
    rest = Subset(labelled, np.setdiff1d(np.arange(len(labelled)), chosen))
    return ExportImages(pixels, calibrated_with, rest, f"the rest of {_base_name(folder)}")


def _describe(pixels: Sequence[Tensor], folder: str) -> str:
    """A description of calibration images; raises `UserError` if they are too few."""
    if len(pixels) < FEWEST:
        raise UserError(
            f"only {counted(len(pixels), 'image')} to calibrate with",
            folder,
            f"give at least {FEWEST}, better a few hundred",
        )
    return f"{len(pixels)} images of {_base_name(folder)}"


def _open_labelled(model: Model, where: str) -> tuple[Samples | ImageArrays, str]:
    """Labelled images of the model's classes with their description; raises `UserError`."""
    if where in NAMES:
        return cifar.load(where).test, f"{title(where)}'s test set"
    samples = open_test(where)
    labels_for(samples, model.classes, model.class_ids)
    return samples, _base_name(where)


def _base_name(where: str) -> str:
    """A data set's name without its parent folders, which are private."""
    return Path(where).name or where


def _require_model_of(name: CifarName, model: Model) -> None:
    if tuple(model.classes) != CLASSES[name] or model.preprocessing.size != 32:
        raise UserError(
            f"the model was not trained on {title(name)}",
            model.card["network"],
            "give a folder instead",
        )


def refuse_same_images(options: CalibrationOptions) -> None:
    """Raise `UserError` if the test images are among the calibration images."""
    calibrate, test = options.calibrate, options.test
    if calibrate is None or test is None or test in NAMES:
        return
    folder = Path(test).resolve()
    if Path(calibrate).resolve() in (folder, *folder.parents):
        raise UserError(
            "the test images are among the calibration images",
            f"--test {test}",
            "leave it out: part of --calibrate is then kept for the test; or give other images",
        )


def comparison_images(
    given: Sequence[str], images: ExportImages, preprocessing: Preprocessing, dense: bool
) -> list[Tensor]:
    """Real images to compare outputs on, uint8 (3, H, W).

    Those given, else some of the test set, else of the calibration images, else samples that come
    with this package.
    """
    if given:
        files = image_inputs.find_images(given)
        files = [files[i] for i in random_indices(len(files), COMPARED)]
        return _read_files(files, preprocessing, dense)
    test = images.test
    if isinstance(test, ImageArrays):
        return _draw(test, COMPARED)
    if test is not None:
        return _read_samples(test, random_indices(len(test), COMPARED), preprocessing, dense)
    if images.calibration:
        return list(images.calibration[:COMPARED])
    return _read_files(image_inputs.find_images([str(image_inputs.SAMPLES)]), preprocessing, dense)


def _draw(images: ImageArrays, count: int) -> list[Tensor]:
    return [
        torch.from_numpy(np.array(images.images[i])) for i in random_indices(len(images), count)
    ]


def _read_files(files: Iterable[str], preprocessing: Preprocessing, dense: bool) -> list[Tensor]:
    def read(name: str) -> Tensor:
        return _pixels(read_image(Path(name)), preprocessing, dense)

    return list(in_threads(read, files, cores()))


def _read_samples(
    samples: Samples, indices: Iterable[int], preprocessing: Preprocessing, dense: bool
) -> list[Tensor]:
    def read(index: int) -> Tensor:
        image = decode(samples.read(int(index)), sample_name(samples, int(index)))
        return _pixels(image, preprocessing, dense)

    return list(in_threads(read, indices, cores()))


def _pixels(image: Image.Image, preprocessing: Preprocessing, dense: bool) -> Tensor:
    """The centre crop of an image, or the whole image if dense, with its shorter side scaled."""
    if dense:
        return to_tensor(resize_shorter(image, preprocessing.resize, preprocessing.interpolation))
    return to_tensor(preprocessing.crop(image))
