"""A deployable network in the form of another engine, for any number of images at a time."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnets.inference.deployable import Deployable
from resnets.inference.engines import INPUT, OUTPUTS, openvino, package

AXES = {0: "batch", 2: "height", 3: "width"}


def to_openvino(network: Deployable, size: int) -> Any:
    """An OpenVINO model: uint8 `images` to float32 `logits` and `features`.

    Args:
        size: side in pixels of the images; any, where the network is dense.
    """
    ov = openvino()
    example = _example(network, size)
    side = -1 if network.dense else size
    with torch.no_grad(), quiet():
        model = ov.convert_model(
            network, example_input=example, input=[ov.PartialShape([-1, 3, side, side])]
        )
    model.inputs[0].set_names({INPUT})
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.set_names({name})
    return model


def save_openvino(model: Any, file: Path) -> None:
    """Write an OpenVINO model as an IR file (.xml) with its weights (.bin); raises `OSError`."""
    try:
        openvino().save_model(model, file, compress_to_fp16=False)
    except RuntimeError as error:  # it tells no reason
        raise OSError(f"OpenVINO: {str(error).strip().splitlines()[-1]}") from error


def _example(network: Deployable, size: int) -> Tensor:
    """Images to trace with; large ones where dense, for a side of 1 would stay for ever."""
    side = max(size, 96) if network.dense else size
    return torch.zeros(2, 3, side, side + 32 if network.dense else side, dtype=torch.uint8)


def to_torch_export(network: Deployable, size: int) -> torch.export.ExportedProgram:
    """A program of `torch.export`: uint8 images to a tuple of logits and features."""
    example = _example(network, size)
    free = {axis: torch.export.Dim.DYNAMIC for axis in (AXES if network.dense else (0,))}
    with torch.no_grad(), quiet():
        program = torch.export.export(_Tuple(network).eval(), (example,), dynamic_shapes=(free,))
    for node in program.graph.nodes:  # the paths of this machine are nobody's business
        node.meta.pop("stack_trace", None)
    return program


def to_onnx(network: Deployable, size: int) -> Any:
    """An ONNX model: uint8 `images` to float32 `logits` and `features`.

    Raises:
        UserError: if the package onnx or onnxscript is missing.
    """
    for name in ("onnx", "onnxscript"):
        package(name, "resnets[export]")
    program = to_torch_export(network, size)
    with torch.no_grad(), quiet():
        made = torch.onnx.export(
            program, (), dynamo=True, verbose=False, optimize=True,
            input_names=[INPUT], output_names=list(OUTPUTS),
        )  # fmt: skip
    assert made is not None
    model = made.model_proto
    _name_axes(model)
    for thing in (*model.graph.node, *model.graph.value_info, *model.graph.input,
                  *model.graph.output, *model.graph.initializer):  # fmt: skip
        del thing.metadata_props[:]
        thing.doc_string = ""
    return model


def _name_axes(model: Any) -> None:
    """Give the input's free axes their names, and the outputs' what follows from them."""
    known = {}
    for axis, name in AXES.items():
        dim = model.graph.input[0].type.tensor_type.shape.dim[axis]
        if dim.dim_param:
            known[dim.dim_param], dim.dim_param = name, name
    for value in (*model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            for old, new in known.items():
                dim.dim_param = dim.dim_param.replace(old, new)


def round_openvino(model: Any) -> Any:
    """Store an OpenVINO model's weights in bf16; what computes in bf16 is the engine's choice."""
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
        short = ops.constant(ov.Tensor(bits, bits.shape, ov.Type.bf16), shared_memory=False)
        long = ops.convert(short, "f32")
        node.input(1).replace_source_output(long.output(0))
    model.validate_nodes_and_infer_types()
    return model


def round_onnx(model: Any) -> Any:
    """Store an ONNX model's weights in bf16; they are cast back when it is opened.

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
        full = tensor.name
        tensor.name = f"{full}.bf16"
        tensor.data_type = onnx.TensorProto.BFLOAT16
        tensor.ClearField("float_data")
        tensor.raw_data = bits.tobytes()
        casts.append(
            onnx.helper.make_node("Cast", [tensor.name], [full], to=onnx.TensorProto.FLOAT)
        )
    for place, node in enumerate(casts):
        model.graph.node.insert(place, node)
    return model


def round_torch(network: Deployable) -> Deployable:
    """A copy that computes in bf16; pixels are scaled, and outputs given, in float32."""
    network = copy.deepcopy(network)
    network.network.to(torch.bfloat16)
    return network


def _bf16_bits(values: Tensor) -> Any:
    """The bits of the nearest bf16 numbers, uint16."""
    return values.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


class _Tuple(nn.Module):
    """A plain tuple for the named one, so that programs load without this package."""

    def __init__(self, network: Deployable) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, features = self.network(images)
        return logits, features


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the converters' warnings, which are about this program's own code."""
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
