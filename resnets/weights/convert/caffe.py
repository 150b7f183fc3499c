"""Caffe, the authors' framework: a prototxt (graph), a caffemodel (tensors), and a mean image.

Its BN is two layers: BatchNorm holds sums of means and variances and the factor to divide
both by, Scale holds gamma and beta. Images are BGR of 0..255 less the mean. The stem's pool
rounds up and pads nothing.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnets.data.preprocessing import Preprocessing
from resnets.models.residual import PoolKind, ResidualNetwork, StrideIn
from resnets.support.errors import UserError
from resnets.support.files import read_text, write_bytes
from resnets.support.names import counted
from resnets.weights.convert import caffe_convention
from resnets.weights.convert.caffe_convention import BN_EPS
from resnets.weights.convert.identify import ImportedWeights

MODEL, GRAPH = ".caffemodel", ".prototxt"
_TENSOR_COUNTS = {"Convolution": 1, "BatchNorm": 3, "Scale": 2, "InnerProduct": 2}
"""Least number of tensors of a layer, by its type."""


def source_files(path: Path) -> list[Path]:
    """The files that `read` reads, the caffemodel first; raises `UserError` if one is missing."""
    model, graph = _find_pair(path)
    return [model, graph, *_mean_files(graph)]


def output_files(path: Path) -> list[Path]:
    """The files that `write` writes, the caffemodel first."""
    path = path.with_suffix(MODEL)
    return [path, path.with_suffix(GRAPH), path.with_name(f"{path.stem}_mean.binaryproto")]


def _find_pair(path: Path) -> tuple[Path, Path]:
    """The caffemodel and the prototxt of a model, from either of them or their folder.

    Raises:
        UserError: if there is none, or more than one that might belong to the other.
    """
    folder = path if path.is_dir() else path.parent
    pair = []
    for ending in (MODEL, GRAPH):
        if path.suffix == ending:
            pair.append(path)
            continue
        there = sorted(folder.glob(f"*{ending}"))
        stem = path.stem.removesuffix("-model").removesuffix("-deploy")
        named = [p for p in there if p.stem in (stem, f"{stem}-deploy", f"{stem}-model")]
        if len(named or there) != 1:
            raise UserError(
                f"{len(there) or 'no'} files *{ending} in {folder}, instead of one",
                str(path),
                f"name the file {stem}{ending}" if path.suffix else f"leave one *{ending} there",
            )
        pair.append((named or there)[0])
    return pair[0], pair[1]


def _mean_files(graph: Path) -> list[Path]:
    return sorted(graph.parent.glob("*mean.binaryproto"))


def read(path: Path) -> ImportedWeights:
    """Read a Caffe model.

    Its mean image is the `*mean.binaryproto` in the same folder, or else the authors'.

    Args:
        path: the caffemodel, the prototxt, or the folder of both.

    Raises:
        UserError: if protobuf is missing, or a file is missing, damaged or of another network.
    """
    model_path, graph_path = _find_pair(path)
    graph, model = _read_graph(graph_path), _read_message("Net", model_path)
    blobs = {layer.name: layer.blobs for layer in model.layer}
    convolutions: dict[str, tuple[Tensor, Tensor | None]] = {}
    statistics: dict[str, tuple[Tensor, Tensor, float]] = {}
    affine: dict[str, tuple[Tensor, Tensor]] = {}
    classifier = None
    for layer in graph.layer:
        if layer.type not in _TENSOR_COUNTS:
            continue
        location = f"{model_path}, layer {layer.name!r}"
        module, tensors = _tensors(layer, blobs.get(layer.name, ()), location)
        if layer.type == "Convolution":
            convolutions[module] = (tensors[0], tensors[1] if len(tensors) > 1 else None)
        elif layer.type == "BatchNorm":
            statistics[module] = _statistics(layer, tensors, location)
        elif layer.type == "Scale":
            affine[module] = (tensors[0], tensors[1])
        else:
            classifier = (tensors[0], tensors[1])
    norms = {name: (*affine[name], *found) for name, found in statistics.items() if name in affine}
    biases = any(bias is not None for _, bias in convolutions.values())
    return ImportedWeights(
        state=caffe_convention.rgb_state_dict(convolutions, norms, classifier, str(model_path)),
        origin="Caffe",
        location=str(model_path),
        stride_in=_stride_in(graph),
        pool=_pool(graph, graph_path),
        preprocessing=caffe_convention.caffe_preprocessing(*_input(graph, graph_path)),
        notes={
            "colours": "BGR, folded into the first convolution",
            "graph": graph_path.name,
            "convolution_biases": "folded into the means of BN" if biases else "none",
        },
    )


def _tensors(layer: Any, blobs: Any, location: str) -> tuple[str, list[Tensor]]:
    """The module that a layer belongs to, and the layer's tensors."""
    module = caffe_convention.module_of(layer.name)
    if module is None:
        raise UserError("no network of the paper has this layer", location)
    tensors, least = [_array(blob, location) for blob in blobs], _TENSOR_COUNTS[layer.type]
    if len(tensors) < least:
        message = f"the layer has {counted(len(tensors), 'tensor')} instead of {least}"
        raise UserError(message, location)
    return module, tensors


def _statistics(layer: Any, tensors: list[Tensor], location: str) -> tuple[Tensor, Tensor, float]:
    """Mean, variance and eps of a BatchNorm layer."""
    mean, variance, divisor = tensors[:3]
    if divisor.numel() != 1:
        raise UserError(f"it divides by {divisor.numel()} numbers instead of one", location)
    scale = 0 if divisor.item() == 0 else 1 / divisor.item()
    param = layer.batch_norm_param
    return mean * scale, variance * scale, param.eps if param.HasField("eps") else BN_EPS


def _read_message(kind: str, path: Path) -> Any:
    message = messages()[kind]()
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise UserError(f"not a readable Caffe file ({error})", str(path)) from error
    if kind == "Net" and not message.layer:
        raise UserError(
            "the file holds no layers of Caffe's current format",
            str(path),
            "upgrade it with Caffe's upgrade_net_proto_binary",
        )
    return message


def _read_graph(path: Path) -> Any:
    net = messages()["Net"]()  # first, for its message if protobuf is missing
    from google.protobuf import text_format

    try:
        text_format.Parse(read_text(path), net, allow_unknown_field=True)
    except text_format.ParseError as error:
        raise UserError(f"not a readable prototxt ({error})", str(path)) from error
    if not net.layer:
        raise UserError("the prototxt has no layers", str(path))
    return net


def _array(blob: Any, location: str) -> Tensor:
    """A blob's tensor, without the leading ones in shapes of old files; flat if it has no shape.

    Raises:
        UserError: if its number of bytes is not that of its shape.
    """
    raw, kind = (blob.double_data, "<f8") if blob.double_data else (blob.data, "<f4")
    size = np.dtype(kind).itemsize
    data = np.frombuffer(raw[: len(raw) // size * size], kind).astype(np.float32)
    shape = list(blob.shape.dim)
    if not shape:
        shape = [blob.num, blob.channels, blob.height, blob.width]
        while len(shape) > 1 and shape[0] in (0, 1):
            shape.pop(0)
    if shape == [0]:  # none of the four is given
        shape = [len(data)]
    if min(shape) < 0 or size * int(np.prod(shape)) != len(raw):
        raise UserError(f"a tensor of shape {tuple(shape)} has {len(raw):,} bytes", location)
    return torch.from_numpy(data).reshape(shape)


def _stride(layer: Any) -> int:
    param = layer.convolution_param
    return param.stride[0] if param.stride else param.stride_h or 1


def _stride_in(graph: Any) -> StrideIn | None:
    """Which convolution has the stride, in the first block that halves the feature map."""
    for layer in graph.layer:
        module = caffe_convention.module_of(layer.name) or ""
        first = layer.type == "Convolution" and module.endswith((".0.conv1", ".0.conv2"))
        if first and _stride(layer) == 2:
            return "1x1" if list(layer.convolution_param.kernel_size) == [1] else "3x3"
    return None


def _pool(graph: Any, path: Path) -> PoolKind:
    for layer in graph.layer:
        if layer.type == "Pooling" and not layer.pooling_param.global_pooling:
            pool = layer.pooling_param
            form = (pool.pool, pool.kernel_size, pool.stride, pool.pad, pool.round_mode)
            if form == (0, 3, 2, 0, 0):
                return "ceil"
            if form == (0, 3, 2, 1, 1):
                return "padded"
            raise UserError(
                "unsupported pool: not 3x3/2 rounded up, or padded by 1 and rounded down",
                f"{path}, layer {layer.name!r}",
            )
    raise UserError("the prototxt has no pooling layer", str(path))


def _input(graph: Any, path: Path) -> tuple[int, Tensor | None]:
    """Side of the input, and the mean image (3, H, W), RGB of 0..1, or None if there is none."""
    params = [layer.input_param for layer in graph.layer if layer.type == "Input"]
    shapes = [*graph.input_shape, *(shape for param in params for shape in param.shape)]
    shape = list(graph.input_dim) or [side for shape in shapes for side in shape.dim]
    if shape and shape[-2:] != [shape[-1]] * 2:
        raise UserError(f"images of {shape} are not square", str(path))
    size = int(shape[-1]) if shape else 224
    files = _mean_files(path)
    if not files:
        return size, None
    mean = _array(_read_message("BlobProto", files[0]), str(files[0]))
    if mean.ndim != 3 or len(mean) != 3:
        raise UserError("not a mean image of three channels", str(files[0]))
    mean = mean.flip(0) / 255
    fits = mean.shape[1:] == (size, size)
    return size, mean if fits else mean.mean((1, 2), keepdim=True)


def write(path: Path, network: ResidualNetwork, preprocessing: Preprocessing) -> None:
    """Write a caffemodel at `path`, and in the same folder its prototxt and its mean image.

    Raises:
        UserError: if protobuf is missing, the network has parts that Caffe files cannot hold,
            or a file cannot be written.
    """
    graph = _CaffeGraph(preprocessing.size)  # first, for its message if protobuf is missing
    from google.protobuf import text_format

    caffe_convention.write_graph(network.architecture, graph, "Caffe")
    net = graph.net
    text = text_format.MessageToString(net)
    state = caffe_convention.bgr_state_dict(network, preprocessing)
    for layer in net.layer:
        module = caffe_convention.module_of(layer.name)
        if module is None:
            continue
        if layer.type == "BatchNorm":
            tensors = [state[f"{module}.running_mean"], state[f"{module}.running_var"]]
            tensors.append(torch.ones(1))
        elif layer.type == "Convolution":
            tensors = [state[f"{module}.weight"]]
        else:
            tensors = [state[f"{module}.weight"], state[f"{module}.bias"]]
        for tensor in tensors:
            _fill(layer.blobs.add(), tensor)
    mean = messages()["BlobProto"]()
    side = preprocessing.size
    image = (255 * preprocessing.mean.double()).float().flip(0).expand(3, side, side)
    mean.num, mean.channels, mean.height, mean.width = 1, 3, side, side
    mean.data = image.contiguous().numpy().astype("<f4").tobytes()
    contents = (net.SerializeToString(), text.encode(), mean.SerializeToString())
    for file, content in zip(output_files(path), contents, strict=True):
        write_bytes(file, content)


def _fill(blob: Any, tensor: Tensor) -> None:
    blob.shape.dim.extend(tensor.shape)
    blob.data = tensor.float().contiguous().numpy().astype("<f4").tobytes()


class _CaffeGraph:
    """Layers of a Caffe net, without tensors."""

    def __init__(self, size: int) -> None:
        self.net = messages()["Net"](name="resnet", input=["data"], input_dim=[1, 3, size, size])

    def _layer(self, name: str, kind: str, top: str, *bottoms: str) -> Any:
        return self.net.layer.add(name=name, type=kind, bottom=bottoms, top=[top])

    def input(self) -> str:
        return "data"

    def conv(self, suffix: str, x: str, filters: int, size: int, stride: int) -> str:
        name, norm = caffe_convention.conv_and_bn_names(suffix)
        conv = self._layer(name, "Convolution", name, x).convolution_param
        conv.num_output, conv.bias_term = filters, False
        conv.kernel_size.append(size)
        conv.pad.append(size // 2)
        conv.stride.append(stride)
        self._layer(norm, "BatchNorm", name, name).batch_norm_param.use_global_stats = True
        scale = self._layer(norm.replace("bn", "scale", 1), "Scale", name, name)
        scale.scale_param.bias_term = True
        return name

    def relu(self, name: str, x: str) -> str:
        self._layer(f"{x}_relu", "ReLU", x, x)
        return x

    def pool(self, x: str, ceil: bool) -> str:
        pool = self._layer("pool1", "Pooling", "pool1", x).pooling_param
        pool.pool, pool.kernel_size, pool.stride = 0, 3, 2
        if not ceil:
            pool.pad, pool.round_mode = 1, 1
        return "pool1"

    def add(self, name: str, x: str, y: str) -> str:
        self._layer(f"res{name}", "Eltwise", f"res{name}", x, y)
        return f"res{name}"

    def head(self, x: str, classes: int) -> str:
        pool = self._layer("pool5", "Pooling", "pool5", x).pooling_param
        pool.pool, pool.global_pooling = 1, True
        name = f"fc{classes}"
        self._layer(name, "InnerProduct", name, "pool5").inner_product_param.num_output = classes
        self._layer("prob", "Softmax", "prob", name)
        return "prob"


# The part of caffe.proto that residual networks use, as message: {field: (number, type)}.
# `*` marks repeated fields.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "BlobShape": {"dim": (1, "int64*")},
    # Packed floats are encoded like a string of bytes, which NumPy reads at once.
    "BlobProto": {
        "num": (1, "int64"), "channels": (2, "int64"), "height": (3, "int64"),
        "width": (4, "int64"), "data": (5, "bytes"), "shape": (7, "BlobShape"),
        "double_data": (8, "bytes"),
    },
    "Convolution": {
        "num_output": (1, "uint32"), "bias_term": (2, "bool"), "pad": (3, "uint32*"),
        "kernel_size": (4, "uint32*"), "stride": (6, "uint32*"), "stride_h": (13, "uint32"),
    },
    "BatchNorm": {"use_global_stats": (1, "bool"), "eps": (3, "float")},
    "Scale": {"bias_term": (4, "bool")},
    "Pooling": {
        "pool": (1, "uint32"), "kernel_size": (2, "uint32"), "stride": (3, "uint32"),
        "pad": (4, "uint32"), "global_pooling": (12, "bool"), "round_mode": (13, "uint32"),
    },
    "InnerProduct": {"num_output": (1, "uint32")},
    "Input": {"shape": (1, "BlobShape*")},
    "Layer": {
        "name": (1, "string"), "type": (2, "string"), "bottom": (3, "string*"),
        "top": (4, "string*"), "blobs": (7, "BlobProto*"),
        "convolution_param": (106, "Convolution"),
        "inner_product_param": (117, "InnerProduct"), "pooling_param": (121, "Pooling"),
        "batch_norm_param": (139, "BatchNorm"), "scale_param": (142, "Scale"),
        "input_param": (143, "Input"),
    },
    "Net": {
        "name": (1, "string"), "input": (3, "string*"), "input_dim": (4, "int64*"),
        "input_shape": (8, "BlobShape*"), "layer": (100, "Layer*"),
    },
}  # fmt: skip
_ENUMS = {"pool": ("MAX", "AVE"), "round_mode": ("CEIL", "FLOOR")}


@cache
def messages() -> dict[str, Any]:
    """Caffe's protobuf message classes by name, built at run time.

    Raises:
        UserError: if protobuf is not installed.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise UserError(
            "Caffe files need the package protobuf", hint="pip install 'resnets[convert]'"
        ) from error
    file = descriptor_pb2.FileDescriptorProto(
        name="resnets/caffe.proto", package="resnets.caffe", syntax="proto2"
    )
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=f"{name}_values")
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, text) in fields.items():
            kind = text.removesuffix("*")
            label = kinds.LABEL_REPEATED if text.endswith("*") else kinds.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if field in _ENUMS:
                added.type, added.type_name = kinds.TYPE_ENUM, f".resnets.caffe.{field}_values"
            elif kind in _MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".resnets.caffe.{kind}"
            else:
                added.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
            if text == "int64*" and name == "BlobShape":
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"resnets.caffe.{name}"))
        for name in _MESSAGES
    }
