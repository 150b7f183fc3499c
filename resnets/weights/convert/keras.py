"""Keras: H5 files of weights or whole models, and TensorFlow.js: model.json and shards.

Both hold the same graph and the same tensors. Kernels are (H, W, in, out); images are BGR of
0..255 less a mean, as in `keras.applications`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnets.data.preprocessing import Preprocessing
from resnets.models.residual import Architecture, PoolKind, ResidualNetwork, StrideIn
from resnets.support.errors import UserError, one_line
from resnets.support.files import atomic_write, make_folder, write_bytes, write_json
from resnets.weights.convert import caffe_convention
from resnets.weights.convert.caffe_convention import BN_EPS
from resnets.weights.convert.identify import ImportedWeights

MODEL_JSON = "model.json"
_SHARD_BYTES = 4 << 20
_APPLICATIONS_EPS = 1.001e-5  # of today's keras.applications, whose files hold no graph
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_KINDS = {
    "W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance",
}  # fmt: skip
_TENSOR = re.compile(
    r"(kernel|bias|gamma|beta|moving_mean|moving_variance|running_mean|running_std|W|b)"
    r"(?:_\d+)?(?::0)?$"
)

_Arrays = dict[str, dict[str, NDArray[np.float32]]]
"""By layer, then by kind: kernel, bias, gamma, beta, moving_mean, moving_variance."""
_Graph = dict[str, dict[str, Any]]
"""By layer: its settings, its `class_name`, and its inputs as the JSON text `inbound`."""


def read_h5(path: Path, bn_eps: float | None = None) -> ImportedWeights:
    """Read the weights, or the whole model, that Keras saved as one H5 file.

    Args:
        path: the file.
        bn_eps: eps of every BN; overrides the file's.

    Raises:
        UserError: if h5py is missing, or the file is damaged or of another layout.
    """
    h5py = _h5py()
    arrays: _Arrays = {}
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
            group = file.get("model_weights", file)
            if "layer_names" not in group.attrs:
                raise UserError(
                    "unsupported layout of a Keras H5 file",
                    str(path),
                    "save the whole model as H5: model.save('model.h5')",
                )
            for layer in _texts(group.attrs["layer_names"]):
                for name in _texts(group[layer].attrs["weight_names"]):
                    array = np.asarray(group[layer][name], np.float32)
                    arrays.setdefault(layer, {})[_kind(name, path)] = array
        config = None if text is None else json.loads(text)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"not a readable Keras H5 file ({one_line(error)})", str(path)) from error
    return _import(arrays, config, "Keras H5", path, bn_eps)


def read_tfjs(path: Path, bn_eps: float | None = None) -> ImportedWeights:
    """Read a layers model of TensorFlow.js: model.json and the shards in the same folder.

    Args:
        path: the model.json.
        bn_eps: eps of every BN; overrides the file's.

    Raises:
        UserError: if a file is missing, damaged, quantized or of another layout.
    """
    try:
        document = json.loads(path.read_bytes())
        topology = document["modelTopology"]
        config = topology.get("model_config", topology)
        arrays: _Arrays = {}
        for group in document["weightsManifest"]:
            content = b"".join((path.parent / name).read_bytes() for name in group["paths"])
            offset = 0
            for weight in group["weights"]:
                if weight["dtype"] != "float32" or "quantization" in weight:
                    raise UserError("quantized weights are not supported", str(path))
                size = 4 * int(np.prod(weight["shape"]))
                array = np.frombuffer(content[offset : offset + size], "<f4")
                layer, _, name = weight["name"].rpartition("/")
                kinds = arrays.setdefault(layer.split("/")[-1], {})
                kinds[_kind(name, path)] = array.reshape(weight["shape"])
                offset += size
            if offset != len(content):
                raise ValueError(f"shards hold {len(content):,} bytes instead of {offset:,}")
    except FileNotFoundError as error:
        raise UserError("no such file", str(error.filename)) from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"not a readable layers model of TensorFlow.js ({one_line(error)})", str(path)
        ) from error
    return _import(arrays, config, "Keras for TensorFlow.js", path, bn_eps)


def _h5py() -> Any:
    try:
        import h5py  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise UserError(
            "H5 files need the package h5py", hint="pip install 'resnets[convert]'"
        ) from error
    return h5py


def _texts(values: Any) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _kind(name: str, path: Path) -> str:
    found = _TENSOR.search(name)
    if not found:
        raise UserError(f"unknown tensor {name!r}", str(path))
    return _KINDS.get(found[1], found[1])


def _import(
    arrays: _Arrays, config: Any, origin: str, path: Path, bn_eps: float | None
) -> ImportedWeights:
    """Rename and convert the tensors; take strides, pool and eps from the graph if there is one.

    `config`, the model's JSON configuration, is None if the file holds weights only.
    """
    graph = _read_graph(config, path)
    convolutions: dict[str, tuple[Tensor, Tensor | None]] = {}
    norms, classifier = {}, None
    epsilons, biases = set(), False
    for layer, kinds in arrays.items():
        module = caffe_convention.module_of(layer)
        tensors = {kind: torch.from_numpy(array.copy()) for kind, array in kinds.items()}
        try:
            if module == "fc":
                classifier = (tensors["kernel"].T, tensors["bias"])
            elif module is None:
                raise UserError(f"no network of the paper has a layer {layer!r}", str(path))
            elif "kernel" in tensors:
                bias = tensors.get("bias")
                biases = biases or (bias is not None and bool(bias.any()))
                convolutions[module] = (tensors["kernel"].permute(3, 2, 0, 1), bias)
            else:
                own_eps = graph.get(layer, {}).get("epsilon", _APPLICATIONS_EPS)
                eps = float(own_eps if bn_eps is None else bn_eps)
                epsilons.add(eps)
                gamma, beta, mean, variance = (tensors[kind] for kind in _NORM)
                norms[module] = (gamma, beta, mean, variance, eps)
        except (KeyError, RuntimeError) as error:
            raise UserError(f"layer {layer!r} is damaged ({one_line(error)})", str(path)) from error
    return ImportedWeights(
        state=caffe_convention.rgb_state_dict(convolutions, norms, classifier, str(path)),
        origin=origin,
        location=str(path),
        stride_in=_stride_in(graph),
        pool=_pool(graph, path),
        preprocessing=caffe_convention.caffe_preprocessing(_input_size(graph)),
        notes={
            "colours": "BGR, folded into the first convolution",
            "bn_eps": sorted(epsilons),
            "convolution_biases": "folded into the means of BN" if biases else "none",
        },
    )


def _read_graph(config: Any, path: Path) -> _Graph:
    """The graph of a model's JSON configuration; empty if there is none."""
    if config is None:
        return {}
    try:
        graph = {}
        for layer in config["config"]["layers"]:
            settings = layer["config"]
            text = json.dumps(layer.get("inbound_nodes", []))
            graph[settings["name"]] = {
                **settings, "class_name": layer["class_name"], "inbound": text,
            }  # fmt: skip
        return graph
    except (KeyError, TypeError) as error:
        raise UserError(f"the graph is damaged ({one_line(error)})", str(path)) from error


def _stride_in(graph: _Graph) -> StrideIn:
    """Which convolution of a bottleneck has the stride; without a graph `keras.applications`'s."""
    for layer, settings in graph.items():
        strided = settings["class_name"] == "Conv2D" and 2 in settings["strides"]
        if strided and re.search(r"\.0\.conv[12]$", caffe_convention.module_of(layer) or ""):
            return "1x1" if 1 in settings["kernel_size"] else "3x3"
    return "1x1"


def _pool(graph: _Graph, path: Path) -> PoolKind:
    """How the stem pools; without a graph as in `keras.applications`.

    Raises:
        UserError: if it pools in another way than networks of this package.
    """
    for name, pool in graph.items():
        if pool["class_name"] != "MaxPooling2D":
            continue
        pads = [s for n, s in graph.items() if f'"{n}"' in pool["inbound"]]
        before = next((s.get("padding") for s in pads if s["class_name"] == "ZeroPadding2D"), 0)
        if (pool.get("pool_size"), pool.get("strides")) == ([3, 3], [2, 2]):
            form = (pool.get("padding"), before)
            if form in (("valid", [[1, 1], [1, 1]]), ("valid", [1, 1]), ("valid", 1)):
                return "padded"
            if form in (("valid", [[0, 1], [0, 1]]), ("same", 0)):
                return "ceil"  # `same` pads an even side at the end only
        raise UserError(
            "unsupported pool: not 3x3/2 padded by one pixel on all sides, or at the end only",
            f"{path}, layer {name!r}",
        )
    return "padded"


def _input_size(graph: _Graph) -> int:
    for settings in graph.values():
        if settings["class_name"] == "InputLayer":
            shape = settings.get("batch_input_shape") or settings.get("batch_shape") or [None, None]
            return int(shape[1] or 224)
    return 224


def _layer_arrays(
    network: ResidualNetwork, preprocessing: Preprocessing
) -> list[tuple[str, dict[str, NDArray[np.float32]]]]:
    """Layers and their arrays in the order of the graph; biases are zeros."""
    state, depths = (
        caffe_convention.bgr_state_dict(network, preprocessing),
        network.architecture.depths,
    )
    norm_kinds = ("weight", "bias", "running_mean", "running_var")
    tensors: list[tuple[str, dict[str, Tensor]]] = []
    for conv in caffe_convention.convolutions(network):
        layer, norm_layer = caffe_convention.conv_and_bn_names(
            caffe_convention.layer_suffix(conv, depths)
        )
        kernel = state[f"{conv}.weight"].permute(2, 3, 1, 0)
        tensors.append((layer, {"kernel": kernel, "bias": torch.zeros(kernel.shape[3])}))
        norm = [state[f"{caffe_convention.bn_of(conv)}.{kind}"] for kind in norm_kinds]
        tensors.append((norm_layer, dict(zip(_NORM, norm, strict=True))))
    classes = network.architecture.classes
    tensors.append((f"fc{classes}", {"kernel": state["fc.weight"].T, "bias": state["fc.bias"]}))
    return [
        (name, {k: np.ascontiguousarray(t.float().numpy()) for k, t in kinds.items()})
        for name, kinds in tensors
    ]


def write_h5(path: Path, network: ResidualNetwork, preprocessing: Preprocessing) -> None:
    """Write a whole model as one H5 file, which `keras.models.load_model` reads.

    Raises:
        UserError: if h5py is missing, the network has parts that Keras files cannot hold, or
            the file cannot be written.
    """
    h5py = _h5py()
    config = _write_graph(network.architecture, preprocessing.size)
    arrays = dict(_layer_arrays(network, preprocessing))

    def write(stream: Any) -> None:
        with h5py.File(stream, "w") as file:
            file.attrs["keras_version"] = "2.2.4-tf"
            file.attrs["backend"] = "tensorflow"
            file.attrs["model_config"] = json.dumps(config)
            group = file.create_group("model_weights")
            names = [layer["config"]["name"] for layer in config["config"]["layers"]]
            group.attrs["layer_names"] = [name.encode() for name in names]
            for name in names:
                kinds = arrays.get(name, {})
                inner = group.create_group(name)
                inner.attrs["weight_names"] = [f"{name}/{kind}:0".encode() for kind in kinds]
                for kind, array in kinds.items():
                    inner.create_dataset(f"{name}/{kind}:0", data=array)

    atomic_write(path, write)


def write_tfjs(path: Path, network: ResidualNetwork, preprocessing: Preprocessing) -> None:
    """Write a layers model of TensorFlow.js: `path`, a model.json, and shards in its folder.

    Raises:
        UserError: if the network has parts that Keras files cannot hold, or a file cannot be
            written.
    """
    config = _write_graph(network.architecture, preprocessing.size)
    make_folder(path.parent)
    weights, parts = [], []
    for layer, kinds in _layer_arrays(network, preprocessing):
        for kind, array in kinds.items():
            weights.append(
                {"name": f"{layer}/{kind}", "shape": list(array.shape), "dtype": "float32"}
            )
            parts.append(array.astype("<f4").tobytes())
    content = b"".join(parts)
    count = -(-len(content) // _SHARD_BYTES)
    names = [f"group1-shard{i}of{count}.bin" for i in range(1, count + 1)]
    for i, name in enumerate(names):
        write_bytes(path.parent / name, content[i * _SHARD_BYTES : (i + 1) * _SHARD_BYTES])
    document = {
        "format": "layers-model",
        "generatedBy": "keras v2.2.4-tf",
        "convertedBy": "resnets",
        "modelTopology": {
            "keras_version": "2.2.4-tf",
            "backend": "tensorflow",
            "model_config": config,
        },
        "weightsManifest": [{"paths": names, "weights": weights}],
    }
    write_json(path, document)


class _KerasGraph:
    """Layers of a Keras functional model, in its JSON form."""

    def __init__(self, size: int) -> None:
        self.layers: list[dict[str, Any]] = []
        self._size = size

    def _add(self, kind: str, name: str, *inputs: str, **settings: Any) -> str:
        nodes = [[[source, 0, 0, {}] for source in inputs]] if inputs else []
        config = {"name": name, "dtype": "float32", **settings}
        self.layers.append(
            {"name": name, "class_name": kind, "config": config, "inbound_nodes": nodes}
        )
        return name

    def _pad(self, name: str, x: str, before: int, after: int) -> str:
        sides = [[before, after], [before, after]]
        return self._add("ZeroPadding2D", name, x, padding=sides, data_format="channels_last")

    def input(self) -> str:
        return self._add(
            "InputLayer", "input_1", batch_input_shape=[None, self._size, self._size, 3]
        )

    def conv(self, suffix: str, x: str, filters: int, size: int, stride: int) -> str:
        conv, norm = caffe_convention.conv_and_bn_names(suffix)
        # Keras' own `same` pads strided convolutions on one side only.
        same = stride == 1
        if not same and size > 1:
            x = self._pad(f"{conv}_pad", x, size // 2, size // 2)
        x = self._add(
            "Conv2D", conv, x, filters=filters, kernel_size=[size, size],
            strides=[stride, stride], padding="same" if same else "valid",
            data_format="channels_last", activation="linear", use_bias=True,
        )  # fmt: skip
        return self._add("BatchNormalization", norm, x, axis=[3], momentum=0.99,
                         epsilon=BN_EPS, center=True, scale=True)  # fmt: skip

    def relu(self, name: str, x: str) -> str:
        return self._add("Activation", f"relu_{name}", x, activation="relu")

    def pool(self, x: str, ceil: bool) -> str:
        # A ReLU's outputs are not negative, so that zeros around them change no maximum.
        x = self._pad("pool1_pad", x, 0 if ceil else 1, 1)
        return self._add("MaxPooling2D", "pool1", x, pool_size=[3, 3], strides=[2, 2],
                         padding="valid", data_format="channels_last")  # fmt: skip

    def add(self, name: str, x: str, y: str) -> str:
        return self._add("Add", f"add_{name}", y, x)

    def sorted(self) -> list[dict[str, Any]]:
        """The layers in the order in which Keras will number them: farthest from the end first.

        H5 files hold tensors in this order; Keras ignores their names.
        """
        far: dict[str, int] = {}
        for layer in reversed(self.layers):
            far.setdefault(layer["name"], 0)
            for source, *_ in (node for nodes in layer["inbound_nodes"] for node in nodes):
                far[source] = max(far.get(source, 0), far[layer["name"]] + 1)
        return sorted(self.layers, key=lambda layer: -far[layer["name"]])

    def head(self, x: str, classes: int) -> str:
        x = self._add("GlobalAveragePooling2D", "avg_pool", x, data_format="channels_last")
        return self._add("Dense", f"fc{classes}", x, units=classes, activation="softmax",
                         use_bias=True)  # fmt: skip


def _write_graph(row: Architecture, size: int) -> dict[str, Any]:
    """A network as the JSON configuration of a Keras functional model.

    Raises:
        UserError: as in `caffe_convention.write_graph`.
    """
    graph = _KerasGraph(size)
    output = caffe_convention.write_graph(row, graph, "Keras")
    return {
        "class_name": "Model",
        "config": {
            "name": "resnet",
            "layers": graph.sorted(),
            "input_layers": [["input_1", 0, 0]],
            "output_layers": [[output, 0, 0]],
        },
    }
