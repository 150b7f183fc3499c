"""The file of an exported network: OpenVINO IR, ONNX, or a program of `torch.export`.

Each file also holds a description of itself (classes, preprocessing, precision) as JSON.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from resnets.export import calibration
from resnets.inference.deployable import Deployable
from resnets.inference.engines import (
    INPUT,
    OUTPUTS,
    OnnxRuntime,
    OpenVinoRuntime,
    Runtime,
    openvino,
    package,
    without_warnings,
)
from resnets.inference.openvino_model import save_openvino, to_openvino
from resnets.support.errors import UserError

_AXES = {0: "batch", 2: "height", 3: "width"}


def write(
    network: Deployable,
    file: Path,
    *,
    size: int,
    precision: str,
    images: Sequence[Tensor],
    description: dict[str, Any],
    opset: int,
) -> Runtime | None:
    """Write a network to a file, in the format of its suffix (.xml, .onnx, .pt2).

    Args:
        network: in evaluation mode.
        size: height and width of the images in pixels.
        images: calibration images for int8: uint8 (3, H, W).
        description: stored in the file as JSON.
        opset: version of ONNX's operators; of no effect on other formats.

    Returns:
        For int8, the same network and engine in float32, to compare the speed with.

    Raises:
        OSError: if the file cannot be written.
    """
    baseline: Runtime | None = None
    text = json.dumps(description)
    if file.suffix == ".pt2":
        _write_torch_export(network, file, size, precision, text)
    elif file.suffix == ".xml":
        model = to_openvino(network, size)
        if precision == "bf16":
            _store_bf16_openvino(model)
        if precision == "int8":
            baseline = OpenVinoRuntime(model, "fp32")
            model = calibration.quantize(model, "openvino", images)
        model.set_rt_info(text, ["resnets", "config"])
        save_openvino(model, file)
    else:
        onnx = package("onnx", "resnets[export]")
        model = _to_onnx(network, size, opset)
        if precision == "bf16":
            _store_bf16_onnx(model)
        if precision == "int8":
            onnx.save(model, file)
            baseline = OnnxRuntime(file, "fp32")
            model = calibration.quantize(model, "onnx", images)
        save_onnx(model, file, text)
    return baseline


def save_onnx(model: Any, file: Path, description: str) -> None:
    """Write an ONNX model with its description; raises `OSError`."""
    onnx = package("onnx", "resnets[export]")
    onnx.helper.set_model_props(model, {"resnets": description})
    # The oldest file format that has the operators, which the most programs read.
    model.ir_version = onnx.helper.find_min_ir_version_for(model.opset_import)
    onnx.save(model, file)
    onnx.checker.check_model(model)  # by its name it could not open every file


def _store_bf16_openvino(model: Any) -> None:
    """Store the weights in bf16; whether to compute in bf16 is decided when the model runs."""
    ov = openvino()
    from openvino import opset13 as ops

    for node in model.get_ops():
        if node.get_type_name() not in ("Convolution", "MatMul", "GroupConvolution"):
            continue
        weights = node.input(1).get_source_output()
        constant = weights.get_node()
        if constant.get_type_name() != "Constant" or constant.get_element_type() != ov.Type.f32:
            continue
        bits = _bf16_bits(torch.from_numpy(np.array(constant.data)))
        stored = ops.constant(ov.Tensor(bits, bits.shape, ov.Type.bf16), shared_memory=False)
        node.input(1).replace_source_output(ops.convert(stored, "f32").output(0))
    model.validate_nodes_and_infer_types()


def _to_onnx(network: Deployable, size: int, opset: int) -> Any:
    """An ONNX model: uint8 `images` to float32 `logits` and `features`."""
    package("onnxscript", "resnets[export]")
    model = convert_onnx(_to_torch_export(network, size), OUTPUTS, opset)
    _name_axes(model)
    return model


def convert_onnx(program: torch.export.ExportedProgram, outputs: Sequence[str], opset: int) -> Any:
    """An ONNX model of a program with one input, `images`.

    Args:
        program: of `torch.export`.
        outputs: their names.
        opset: version of ONNX's operators.

    Raises:
        UserError: if PyTorch cannot write this opset.
    """
    with torch.no_grad(), without_warnings():
        converted = torch.onnx.export(
            program, (), dynamo=True, verbose=False, optimize=True,
            input_names=[INPUT], output_names=list(outputs), opset_version=opset,
        )  # fmt: skip
    assert converted is not None
    model = converted.model_proto
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written.get("") != opset:  # where PyTorch cannot convert, it only warns
        raise UserError(f"PyTorch wrote opset {written.get('')}", f"--opset {opset}",
                        "use another opset, or another version of PyTorch")  # fmt: skip
    graph = model.graph
    for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]  # paths of this machine
        item.doc_string = ""
    return model


def _name_axes(model: Any) -> None:
    """Rename the free axes of an ONNX model's input, and the sizes derived from them."""
    names = {}
    for axis, name in _AXES.items():
        dim = model.graph.input[0].type.tensor_type.shape.dim[axis]
        if dim.dim_param:
            names[dim.dim_param], dim.dim_param = name, name
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            for old, new in names.items():
                dim.dim_param = dim.dim_param.replace(old, new)


def _store_bf16_onnx(model: Any) -> None:
    """Store the weights in bf16; they are cast to float32 when the model is loaded.

    ONNX Runtime has no bf16 convolutions on CPUs: it computes in float32.
    """
    onnx = package("onnx", "resnets[export]")
    users = {name: node for node in model.graph.node for name in node.input}
    casts = []
    for tensor in model.graph.initializer:
        node = users.get(tensor.name)
        if len(tensor.dims) < 2 or node is None or node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        bits = _bf16_bits(torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()))
        name = tensor.name
        tensor.name = f"{name}.bf16"
        tensor.data_type = onnx.TensorProto.BFLOAT16
        tensor.ClearField("float_data")
        tensor.raw_data = bits.tobytes()
        casts.append(
            onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
        )
    for position, node in enumerate(casts):
        model.graph.node.insert(position, node)


def _write_torch_export(
    network: Deployable, file: Path, size: int, precision: str, description: str
) -> None:
    if precision == "bf16":  # pixels are scaled, and outputs returned, in float32
        network = copy.deepcopy(network)
        network.network.to(torch.bfloat16)
    content = io.BytesIO()  # so that a full disk raises OSError, not an error of torch's writer
    program = _to_torch_export(network, size)
    torch.export.save(program, content, extra_files={"resnets.json": description})
    file.write_bytes(content.getbuffer())


def _to_torch_export(network: Deployable, size: int) -> torch.export.ExportedProgram:
    """A program of `torch.export`: uint8 images to a tuple of logits and features."""
    example = network.example_images(size)
    free = {axis: torch.export.Dim.DYNAMIC for axis in (_AXES if network.dense else (0,))}
    with torch.no_grad(), without_warnings():
        program = torch.export.export(
            _PlainTuple(network).eval(), (example,), dynamic_shapes=(free,)
        )
    for node in program.graph.nodes:  # it names paths of this machine
        node.meta.pop("stack_trace", None)
    return program


class _PlainTuple(nn.Module):
    """Returns a plain tuple instead of `Outputs`, so that programs load without this package."""

    def __init__(self, network: Deployable) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = self.network(images)
        return logits, features


def _bf16_bits(values: Tensor) -> NDArray[np.uint16]:
    """The bits of the nearest bf16 numbers."""
    bits: NDArray[np.uint16] = values.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    return bits
