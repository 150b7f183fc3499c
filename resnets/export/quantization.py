"""A converted network in int8: calibrated by NNCF with given images."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from resnets.inference.conversion import quiet
from resnets.inference.engines import INPUT, nncf

LIMIT = 300
"""Calibration images beyond which NNCF's ranges hardly move."""


def quantize(model: Any, engine: str, images: Sequence[Tensor]) -> Any:
    """The model with int8 convolutions and classifier; the rest stays float32.

    Weights use 7 of the 8 bits: CPUs without VNNI add products in 16 bits, which would
    overflow silently. So the same file answers alike on old and new ones.

    Args:
        model: of OpenVINO or ONNX, float32.
        engine: `openvino` or `onnx`.
        images: to calibrate with: uint8 (3, H, W), as the network is shown them.

    Raises:
        UserError: if NNCF is missing.
    """
    with quiet(), _without_output():
        package = nncf()
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
        )

        shown = [image[None].numpy() for image in images]
        data = shown if engine == "openvino" else [{INPUT: image} for image in shown]
        return package.quantize(
            model,
            package.Dataset(data),
            subset_size=len(data),
            preset=package.QuantizationPreset.MIXED,
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        )


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Without progress bars, which a library prints whatever the terminal."""
    with contextlib.redirect_stdout(io.StringIO()):
        stderr, sys.stderr = sys.stderr, io.StringIO()
        try:
            yield
        finally:
            sys.stderr = stderr
