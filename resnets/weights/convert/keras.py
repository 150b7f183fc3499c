"""Keras: H5 files of weights or whole models, and model.json with shards for TensorFlow.js.

Both hold the same graph and the same tensors. Kernels are (H, W, in, out), images BGR of
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
from resnets.models.residual import PoolKind, ResidualNetwork, StrideIn
from resnets.support.errors import UserError
from resnets.support.files import atomic_write, make_folder, write_bytes, write_json
from resnets.weights.convert import layer_names
from resnets.weights.convert.imported import EPS, Foreign, assemble, caffe_preprocessing, to_bgr
from resnets.weights.convert.keras_graph import describe

SHARD = 4 << 20
MODEL_JSON = "model.json"
_APPLICATIONS_EPS = 1.001e-5  # of today's keras.applications, whose files hold no graph
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
_KINDS = {
    "W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance",
}  # fmt: skip
_TENSOR = re.compile(
    r"(kernel|bias|gamma|beta|moving_mean|moving_variance|running_mean|running_std|W|b)"
    r"(?:_\d+)?(?::0)?$"
)

Layers = dict[str, dict[str, NDArray[np.float32]]]
"""Tensors by kind (kernel, bias, gamma, beta, moving_mean, moving_variance) by layer."""


def read_h5(path: Path, eps: float | None = None) -> Foreign:
    """Weights, or a whole model, as Keras writes them to one H5 file.

    Args:
        path: the file.
        eps: of BN, where it is known better than the file says.

    Raises:
        UserError: if h5py is missing, or the file is damaged or of another layout.
    """
    h5py = _h5py()
    layers: Layers = {}
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
            group = file.get("model_weights", file)
            if "layer_names" not in group.attrs:
                raise UserError(
                    "not a layout of Keras that is read here",
                    str(path),
                    "save the whole model as H5: model.save('model.h5')",
                )
            for layer in _texts(group.attrs["layer_names"]):
                for name in _texts(group[layer].attrs["weight_names"]):
                    array = np.asarray(group[layer][name], np.float32)
                    layers.setdefault(layer, {})[_kind(name, path)] = array
        config = None if text is None else json.loads(text)
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"not a readable H5 file of Keras ({_first(error)})", str(path)) from error
    return _foreign(layers, config, "Keras H5", path, eps)


def read_tfjs(path: Path, eps: float | None = None) -> Foreign:
    """A layers model of TensorFlow.js: its model.json, with the shards beside it.

    Args:
        path: the model.json.
        eps: of BN, where it is known better than the file says.

    Raises:
        UserError: if a file is missing, damaged, quantized or of another layout.
    """
    try:
        document = json.loads(path.read_bytes())
        topology = document["modelTopology"]
        config = topology.get("model_config", topology)
        layers: Layers = {}
        for group in document["weightsManifest"]:
            content = b"".join((path.parent / name).read_bytes() for name in group["paths"])
            offset = 0
            for weight in group["weights"]:
                if weight["dtype"] != "float32" or "quantization" in weight:
                    raise UserError("quantized weights are not read here", str(path))
                size = 4 * int(np.prod(weight["shape"]))
                array = np.frombuffer(content[offset : offset + size], "<f4")
                layer, _, name = weight["name"].rpartition("/")
                layers.setdefault(layer.split("/")[-1], {})[_kind(name, path)] = array.reshape(
                    weight["shape"]
                )
                offset += size
            if offset != len(content):
                raise ValueError(f"shards hold {len(content):,} bytes instead of {offset:,}")
    except FileNotFoundError as error:
        raise UserError("no such file", str(error.filename)) from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"not a readable layers model of TensorFlow.js ({_first(error)})", str(path)
        ) from error
    return _foreign(layers, config, "Keras for TensorFlow.js", path, eps)


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


def _first(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _kind(name: str, path: Path) -> str:
    found = _TENSOR.search(name)
    if not found:
        raise UserError(f"unknown tensor {name!r}", str(path))
    return _KINDS.get(found[1], found[1])


def _foreign(
    layers: Layers, config: Any, origin: str, path: Path, known_eps: float | None
) -> Foreign:
    """Put layers under our names; take strides, pool and eps from the graph if there is one."""
    graph = _graph(config, path)
    convolutions: dict[str, tuple[Tensor, Tensor | None]] = {}
    norms, classifier = {}, None
    epsilons, biases = set(), False
    for layer, arrays in layers.items():
        module = layer_names.ours(layer)
        tensors = {kind: torch.from_numpy(array.copy()) for kind, array in arrays.items()}
        try:
            if module == "fc":
                classifier = (tensors["kernel"].T, tensors["bias"])
            elif module is None:
                raise UserError(f"layer {layer!r} is of no network of the paper", str(path))
            elif "kernel" in tensors:
                bias = tensors.get("bias")
                biases = biases or (bias is not None and bool(bias.any()))
                convolutions[module] = (tensors["kernel"].permute(3, 2, 0, 1), bias)
            else:
                told = graph.get(layer, {}).get("epsilon", _APPLICATIONS_EPS)
                eps = float(told if known_eps is None else known_eps)
                epsilons.add(eps)
                gamma, beta, mean, variance = (tensors[kind] for kind in _NORM)
                norms[module] = (gamma, beta, mean, variance, eps)
        except (KeyError, RuntimeError) as error:
            raise UserError(f"layer {layer!r} is damaged ({_first(error)})", str(path)) from error
    notes = {
        "colours": "BGR, folded into the first convolution",
        "bn_eps": sorted(epsilons),
        "convolution_biases": "folded into the means of BN" if biases else "none",
    }
    return Foreign(
        assemble(convolutions, norms, classifier, str(path)), origin, str(path), _stride_in(graph),
        _pool(graph, path), caffe_preprocessing(_size(graph)), notes=notes,
    )  # fmt: skip


def _graph(config: Any, path: Path) -> dict[str, dict[str, Any]]:
    """Settings of each layer by name, with `class_name` and the names of its inputs."""
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
        raise UserError(f"its graph is damaged ({_first(error)})", str(path)) from error


def _stride_in(graph: dict[str, dict[str, Any]]) -> StrideIn:
    """`1x1` where there is no graph: weights without one are of `keras.applications`."""
    for layer, settings in graph.items():
        strided = settings["class_name"] == "Conv2D" and 2 in settings["strides"]
        if strided and re.search(r"\.0\.conv[12]$", layer_names.ours(layer) or ""):
            return "1x1" if 1 in settings["kernel_size"] else "3x3"
    return "1x1"


def _pool(graph: dict[str, dict[str, Any]], path: Path) -> PoolKind:
    """`padded` where there is no graph: weights without one are of `keras.applications`."""
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
                return "ceil"  # `same` of an even side pads only behind
        raise UserError(
            "pools otherwise than by 3x3/2 padded by one pixel on all sides or behind only",
            f"{path}, layer {name!r}",
        )
    return "padded"


def _size(graph: dict[str, dict[str, Any]]) -> int:
    for settings in graph.values():
        if settings["class_name"] == "InputLayer":
            shape = settings.get("batch_input_shape") or settings.get("batch_shape") or [None, None]
            return int(shape[1] or 224)
    return 224


def _tensors(
    network: ResidualNetwork, preprocessing: Preprocessing
) -> list[tuple[str, dict[str, NDArray[np.float32]]]]:
    """Layers and their tensors in the order of the graph; biases are zeros."""
    state, depths = to_bgr(network, preprocessing), network.architecture.depths
    norm_kinds = ("weight", "bias", "running_mean", "running_var")
    layers: list[tuple[str, dict[str, Tensor]]] = []
    for conv in layer_names.convolutions(network):
        layer, norm_layer = layer_names.layer_names(layer_names.theirs(conv, depths))
        kernel = state[f"{conv}.weight"].permute(2, 3, 1, 0)
        layers.append((layer, {"kernel": kernel, "bias": torch.zeros(kernel.shape[3])}))
        norm = [state[f"{layer_names.bn_of(conv)}.{kind}"] for kind in norm_kinds]
        layers.append((norm_layer, dict(zip(_NORM, norm, strict=True))))
    classes = network.architecture.classes
    layers.append((f"fc{classes}", {"kernel": state["fc.weight"].T, "bias": state["fc.bias"]}))
    return [
        (name, {k: np.ascontiguousarray(t.float().numpy()) for k, t in tensors.items()})
        for name, tensors in layers
    ]


def write_h5(path: Path, network: ResidualNetwork, preprocessing: Preprocessing) -> None:
    """Write a whole model as one H5 file, which `keras.models.load_model` reads.

    Raises:
        UserError: if h5py is missing, Keras has no such layers, or it cannot be written.
    """
    h5py = _h5py()
    config = describe(network.architecture, preprocessing.size, EPS)
    layers = _tensors(network, preprocessing)

    def write(stream: Any) -> None:
        with h5py.File(stream, "w") as file:
            file.attrs["keras_version"] = "2.2.4-tf"
            file.attrs["backend"] = "tensorflow"
            file.attrs["model_config"] = json.dumps(config)
            group = file.create_group("model_weights")
            held = dict(layers)
            names = [layer["config"]["name"] for layer in config["config"]["layers"]]
            group.attrs["layer_names"] = [name.encode() for name in names]
            for name in names:
                arrays = held.get(name, {})
                inner = group.create_group(name)
                inner.attrs["weight_names"] = [f"{name}/{kind}:0".encode() for kind in arrays]
                for kind, array in arrays.items():
                    inner.create_dataset(f"{name}/{kind}:0", data=array)

    atomic_write(path, write)


def write_tfjs(path: Path, network: ResidualNetwork, preprocessing: Preprocessing) -> None:
    """Write `path` (a model.json) and its shards beside it, a layers model of TensorFlow.js.

    Raises:
        UserError: if Keras has no such layers, or it cannot be written.
    """
    config = describe(network.architecture, preprocessing.size, EPS)
    make_folder(path.parent)
    weights, parts = [], []
    for layer, arrays in _tensors(network, preprocessing):
        for kind, array in arrays.items():
            weights.append(
                {"name": f"{layer}/{kind}", "shape": list(array.shape), "dtype": "float32"}
            )
            parts.append(array.astype("<f4").tobytes())
    content = b"".join(parts)
    count = -(-len(content) // SHARD)
    names = [f"group1-shard{i}of{count}.bin" for i in range(1, count + 1)]
    for i, name in enumerate(names):
        write_bytes(path.parent / name, content[i * SHARD : (i + 1) * SHARD])
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
