"""Options of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnets.export.calibration import CalibrationOptions


@dataclass(frozen=True, kw_only=True)
class ExportOptions(CalibrationOptions):
    """How to export a model; the test and its limit are available for all precisions.

    Args:
        engine: `openvino`, `onnx` or `torch-export`.
        precision: `fp32`, `bf16` or `int8`.
        dense: accept images of any size and answer at every location.
        images: real images to compare outputs on: files, folders or patterns.
        opset: version of ONNX's operators; `opsets.DEFAULT` if not given.
    """

    engine: str
    precision: str = "fp32"
    dense: bool = False
    images: Sequence[str] = ()
    opset: int | None = None
