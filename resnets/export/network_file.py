"""The file of an exported network: converted, rounded or quantized, with its facts inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from resnets.export import quantization
from resnets.inference import conversion, pt2
from resnets.inference.deployable import Deployable
from resnets.inference.engines import OnnxRuntime, OpenVinoRuntime, Runtime, package


def write(
    network: Deployable,
    file: Path,
    size: int,
    precision: str,
    images: Sequence[Tensor],
    facts: dict[str, Any],
) -> Runtime | None:
    """Write a network's file, of the kind that its ending says.

    Args:
        network: in evaluation mode.
        size: side in pixels of the images.
        images: to calibrate int8 with: uint8 (3, H, W).
        facts: what the file tells of itself.

    Raises:
        OSError: if it cannot be written.

    Returns:
        For int8 the same network in the same engine in float32, to compare the speed with.
    """
    if file.suffix == ".pt2":
        if precision == "bf16":
            network = conversion.round_torch(network)
        pt2.save(conversion.to_torch_export(network, size), file, facts)
        return None
    write_it = _write_openvino if file.suffix == ".xml" else _write_onnx
    return write_it(network, file, size, precision, images, facts)


def _write_openvino(
    network: Deployable,
    file: Path,
    size: int,
    precision: str,
    images: Sequence[Tensor],
    facts: dict[str, Any],
) -> Runtime | None:
    peer = None
    made = conversion.to_openvino(network, size)
    if precision == "bf16":
        made = conversion.round_openvino(made)
    if precision == "int8":
        peer = OpenVinoRuntime(made, "fp32")
        made = quantization.quantize(made, "openvino", images)
    made.set_rt_info(json.dumps(facts), ["resnets", "config"])
    conversion.save_openvino(made, file)
    return peer


def _write_onnx(
    network: Deployable,
    file: Path,
    size: int,
    precision: str,
    images: Sequence[Tensor],
    facts: dict[str, Any],
) -> Runtime | None:
    onnx, peer = package("onnx", "resnets[export]"), None
    made = conversion.to_onnx(network, size)
    if precision == "bf16":
        made = conversion.round_onnx(made)
    if precision == "int8":
        onnx.save(made, file)
        peer = OnnxRuntime(file, "fp32")
        made = quantization.quantize(made, "onnx", images)
    onnx.helper.set_model_props(made, {"resnets": json.dumps(facts)})
    onnx.save(made, file)
    onnx.checker.check_model(file)
    return peer
