"""Conversion of a `Deployable` network to an OpenVINO model, for batches of any size."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnets.inference.deployable import Deployable
from resnets.inference.engines import INPUT, OUTPUTS, openvino


def to_openvino(network: Deployable, size: int) -> Any:
    """An `openvino.Model`: uint8 `images` to float32 `logits` and `features`.

    Args:
        network: in evaluation mode.
        size: height and width of the images in pixels; a dense network takes any.

    Raises:
        UserError: if OpenVINO is not installed.
    """
    ov = openvino()
    side = -1 if network.dense else size
    with torch.no_grad(), without_warnings():
        model = ov.convert_model(
            network,
            example_input=example_images(network, size),
            input=[ov.PartialShape([-1, 3, side, side])],
        )
    model.inputs[0].set_names({INPUT})
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.set_names({name})
    return model


def save_openvino(model: Any, file: Path) -> None:
    """Write an OpenVINO model as IR: `file` (.xml) and its weights (.bin); raises `OSError`."""
    try:
        openvino().save_model(model, file, compress_to_fp16=False)
    except RuntimeError as error:  # OpenVINO does not say why
        raise OSError(f"OpenVINO: {str(error).strip().splitlines()[-1]}") from error


def example_images(network: Deployable, size: int) -> Tensor:
    """Images to trace with, uint8 (2, 3, H, W).

    For a dense network they are large and not square: a feature map of one pixel, or equal sides,
    would be traced as constants.
    """
    side = max(size, 96) if network.dense else size
    return torch.zeros(2, 3, side, side + 32 if network.dense else side, dtype=torch.uint8)


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress the warnings of converters, which concern the code of this package only."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
