"""The authors' framework: a deploy prototxt (the graph), a caffemodel (the tensors), a mean image.

Their BN is two layers: BatchNorm holds sums of means and variances and the factor to divide
both by, Scale holds gamma and beta. Images are BGR of 0..255 less the mean. The stem's pool
rounds up and pads nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnets.data.preprocessing import Preprocessing
from resnets.models.residual import PoolKind, ResidualNetwork, StrideIn
from resnets.support.errors import UserError
from resnets.support.files import write_bytes
from resnets.weights.convert import layer_names
from resnets.weights.convert.caffe_proto import messages
from resnets.weights.convert.imported import EPS, Foreign, assemble, caffe_preprocessing, to_bgr
from resnets.weights.convert.layers import walk

MODEL, GRAPH = ".caffemodel", ".prototxt"


def find(path: Path) -> tuple[Path, Path]:
    """The caffemodel and the prototxt that belong together, given either or their folder.

    Raises:
        UserError: if one is missing or not unmistakable.
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
            many = f"{len(there)} files" if there else "no file"
            raise UserError(
                f"{many} *{ending} beside it", str(path),
                f"put one {stem}{ending} there" if path.suffix else f"leave one *{ending} there",
            )  # fmt: skip
        pair.append((named or there)[0])
    return pair[0], pair[1]


def found(path: Path) -> list[Path]:
    """The files that `read` reads, the caffemodel first; raises `UserError` like `find`."""
    model, graph = find(path)
    return [model, graph, *_means(graph)]


def _means(graph: Path) -> list[Path]:
    return sorted(graph.parent.glob("*mean.binaryproto"))


def written(path: Path) -> list[Path]:
    """The files that `write` writes, the caffemodel first."""
    path = path.with_suffix(MODEL)
    return [path, path.with_suffix(GRAPH), path.with_name(f"{path.stem}_mean.binaryproto")]


def read(path: Path) -> Foreign:
    """A Caffe model, given its caffemodel, its prototxt or their folder.

    A `*mean.binaryproto` beside them is its mean image; else the authors' mean is taken.

    Raises:
        UserError: if protobuf is missing, or a file is missing, damaged or of another network.
    """
    model_path, graph_path = find(path)
    graph, model = _read_graph(graph_path), _read_message("Net", model_path)
    blobs = {layer.name: layer.blobs for layer in model.layer}
    convolutions: dict[str, tuple[Tensor, Tensor | None]] = {}
    statistics: dict[str, tuple[Tensor, Tensor, float]] = {}
    affine: dict[str, tuple[Tensor, Tensor]] = {}
    classifier = None
    biases = False
    for layer in graph.layer:
        if layer.type not in ("Convolution", "BatchNorm", "Scale", "InnerProduct"):
            continue
        module, where = layer_names.ours(layer.name), f"{model_path}, layer {layer.name!r}"
        arrays = [_array(blob, where) for blob in blobs.get(layer.name, ())]
        if module is None:
            raise UserError("is of no network of the paper", where)
        needed = 3 if layer.type == "BatchNorm" else 1 if layer.type == "Convolution" else 2
        if len(arrays) < needed:
            raise UserError(f"has {len(arrays)} tensors instead of {needed}", where)
        if layer.type == "Convolution":
            bias = arrays[1] if len(arrays) > 1 else None
            biases = biases or bias is not None
            convolutions[module] = (arrays[0], bias)
        elif layer.type == "BatchNorm":
            if arrays[2].numel() != 1:
                raise UserError(f"divides by {arrays[2].numel()} numbers instead of one", where)
            factor = arrays[2].item()
            scale = 0 if factor == 0 else 1 / factor
            eps = layer.batch_norm_param.eps if layer.batch_norm_param.HasField("eps") else EPS
            statistics[module] = (arrays[0] * scale, arrays[1] * scale, eps)
        elif layer.type == "Scale":
            affine[module] = (arrays[0], arrays[1])
        else:
            classifier = (arrays[0], arrays[1])
    norms = {name: (*affine[name], *found) for name, found in statistics.items() if name in affine}
    preprocessing = caffe_preprocessing(*_input(graph, graph_path))
    notes = {
        "colours": "BGR, folded into the first convolution",
        "graph": graph_path.name,
        "convolution_biases": "folded into the means of BN" if biases else "none",
    }
    state = assemble(convolutions, norms, classifier, str(model_path))
    return Foreign(state, "Caffe", str(model_path), _stride_in(graph), _pool(graph, graph_path),
                   preprocessing, notes=notes)  # fmt: skip


def _read_message(kind: str, path: Path) -> Any:
    from google.protobuf.message import DecodeError

    message = messages()[kind]()
    try:
        message.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise UserError(f"not a readable file of Caffe ({error})", str(path)) from error
    if kind == "Net" and not message.layer:
        raise UserError(
            "holds no layers of today's Caffe", str(path),
            "upgrade it with Caffe's upgrade_net_proto_binary",
        )  # fmt: skip
    return message


def _read_graph(path: Path) -> Any:
    net = messages()["Net"]()
    from google.protobuf import text_format

    try:
        text_format.Parse(path.read_text(), net, allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"not a readable prototxt ({error})", str(path)) from error
    if not net.layer:
        raise UserError("describes no layers", str(path))
    return net


def _array(blob: Any, where: str) -> Tensor:
    """A blob's tensor, without the leading ones of old files; flat if it tells no shape.

    Raises:
        UserError: if it holds more or less than its shape says.
    """
    raw, kind = (blob.double_data, "<f8") if blob.double_data else (blob.data, "<f4")
    size = np.dtype(kind).itemsize
    data = np.frombuffer(raw[: len(raw) // size * size], kind).astype(np.float32)
    shape = list(blob.shape.dim)
    if not shape:
        shape = [blob.num, blob.channels, blob.height, blob.width]
        while len(shape) > 1 and shape[0] in (0, 1):
            shape.pop(0)
    if shape == [0]:  # none of the four told
        shape = [len(data)]
    if min(shape) < 0 or size * int(np.prod(shape)) != len(raw):
        raise UserError(f"a tensor of shape {tuple(shape)} has {len(raw):,} bytes", where)
    return torch.from_numpy(data).reshape(shape)


def _stride(layer: Any) -> int:
    param = layer.convolution_param
    return param.stride[0] if param.stride else param.stride_h or 1


def _stride_in(graph: Any) -> StrideIn | None:
    """Where the first block that shrinks the map has its stride."""
    for layer in graph.layer:
        module = layer_names.ours(layer.name) or ""
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
                "pools otherwise than by 3x3/2 rounded up, or padded by 1 and rounded down",
                f"{path}, layer {layer.name!r}",
            )
    raise UserError("has no pool", str(path))


def _input(graph: Any, path: Path) -> tuple[int, Tensor | None]:
    """Side of the input, and the mean image where there is one: RGB of 0..1."""
    layers = [layer.input_param for layer in graph.layer if layer.type == "Input"]
    shapes = [*graph.input_shape, *(shape for param in layers for shape in param.shape)]
    shape = list(graph.input_dim) or [side for shape in shapes for side in shape.dim]
    if shape and shape[-2:] != [shape[-1]] * 2:
        raise UserError(f"images of {shape} are not square", str(path))
    size = int(shape[-1]) if shape else 224
    files = _means(path)
    if not files:
        return size, None
    mean = _array(_read_message("BlobProto", files[0]), str(files[0]))
    if mean.ndim != 3 or len(mean) != 3:
        raise UserError("not a mean image of three channels", str(files[0]))
    mean = mean.flip(0) / 255
    fits = mean.shape[1:] == (size, size)
    return size, mean if fits else mean.mean((1, 2), keepdim=True)


def write(path: Path, network: ResidualNetwork, preprocessing: Preprocessing) -> None:
    """Write a caffemodel at `path`, its deploy prototxt and its mean image beside it.

    Raises:
        UserError: if protobuf is missing, Caffe has no such layers, or they cannot be written.
    """
    from google.protobuf import text_format

    graph = _Graph(preprocessing.size)
    walk(network.architecture, graph, "Caffe")
    net = graph.net
    text = text_format.MessageToString(net)
    state = to_bgr(network, preprocessing)
    for layer in net.layer:
        module = layer_names.ours(layer.name)
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
    for file, content in zip(written(path), contents, strict=True):
        write_bytes(file, content)


def _fill(blob: Any, tensor: Tensor) -> None:
    blob.shape.dim.extend(tensor.shape)
    blob.data = tensor.float().contiguous().numpy().astype("<f4").tobytes()


class _Graph:
    """Layers of a Caffe net, without tensors."""

    def __init__(self, size: int) -> None:
        self.net = messages()["Net"](name="resnet", input=["data"], input_dim=[1, 3, size, size])

    def _layer(self, name: str, kind: str, top: str, *bottoms: str) -> Any:
        return self.net.layer.add(name=name, type=kind, bottom=bottoms, top=[top])

    def input(self) -> str:
        return "data"

    def conv(self, place: str, x: str, filters: int, size: int, stride: int) -> str:
        name, norm = layer_names.layer_names(place)
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
