"""The file of an exported detector: OpenVINO IR or ONNX, with a description of itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnets.export import calibration
from resnets.export.network_file import convert_onnx, save_onnx
from resnets.inference.deployable_detector import DeployableDetector
from resnets.inference.detector_engines import MASK_OUTPUT, OUTPUTS
from resnets.inference.engines import INPUT, openvino, package, without_warnings
from resnets.inference.openvino_model import save_openvino

EXAMPLE = (1, 3, 277, 355)
"""An image to trace with; equal sides would be traced as one."""


def write(
    detector: DeployableDetector,
    file: Path,
    *,
    precision: str,
    images: Sequence[Tensor],
    description: dict[str, Any],
    opset: int,
) -> None:
    """Write a detector to a file, in the format of its suffix (.xml, .onnx).

    Args:
        detector: in evaluation mode.
        precision: `fp32`; for OpenVINO also `int8`.
        images: calibration images for int8: uint8 (3, H, W).
        description: stored in the file as JSON.
        opset: version of ONNX's operators; of no effect on OpenVINO.

    Raises:
        OSError: if the file cannot be written.
    """
    text = json.dumps(description)
    if file.suffix == ".xml":
        model = _to_openvino(detector)
        if precision == "int8":
            model = calibration.quantize(model, "openvino", images, _float_operations(model))
        model.set_rt_info(text, ["resnets", "config"])
        save_openvino(model, file)
    else:
        save_onnx(_to_onnx(detector, opset), file, text)


def _outputs(detector: DeployableDetector) -> tuple[str, ...]:
    return OUTPUTS if detector.masks is None else (*OUTPUTS, MASK_OUTPUT)


def _to_openvino(detector: DeployableDetector) -> Any:
    ov = openvino()
    with torch.no_grad(), without_warnings():
        model = ov.convert_model(
            detector,
            example_input=torch.zeros(EXAMPLE, dtype=torch.uint8),
            input=[ov.PartialShape([1, 3, -1, -1])],
        )
    model.inputs[0].set_names({INPUT})
    for output, name in zip(model.outputs, _outputs(detector), strict=True):
        output.set_names({name})
    return model


def _float_operations(model: Any) -> list[str]:
    """All that is not the network: int8 is too coarse for pixels' positions and for boxes."""
    names = [node.get_friendly_name() for node in model.get_ordered_ops()
             if node.get_type_name() not in ("Constant", "Parameter", "Result")]  # fmt: skip
    return [name for name in names if not name.startswith("__module.network.")]


def _to_onnx(detector: DeployableDetector, opset: int) -> Any:
    package("onnxscript", "resnets[export]")
    free = {axis: torch.export.Dim.DYNAMIC for axis in (2, 3)}
    with torch.no_grad(), without_warnings():
        program = torch.export.export(
            detector, (torch.zeros(EXAMPLE, dtype=torch.uint8),), dynamic_shapes=(free,)
        )
    model = convert_onnx(program, _outputs(detector), opset)
    shape = model.graph.input[0].type.tensor_type.shape
    for axis, name in ((2, "height"), (3, "width")):
        shape.dim[axis].dim_param = name
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "detections"
    del model.graph.value_info[:]  # it names sizes by formulas
    return model
