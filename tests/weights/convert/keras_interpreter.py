"""A Keras graph computed layer by layer, without the networks of this package."""

import json

import numpy as np
import torch
from torch.nn import functional as F


def load_tfjs(path):
    """(graph, tensors by full name) of a layers model."""
    document = json.loads(path.read_text())
    (group,) = document["weightsManifest"]
    content = b"".join((path.parent / name).read_bytes() for name in group["paths"])
    tensors, offset = {}, 0
    for weight in group["weights"]:
        count = int(np.prod(weight["shape"]))
        array = np.frombuffer(content, np.float32, count, offset).reshape(weight["shape"])
        tensors[weight["name"]] = torch.from_numpy(array.copy())
        offset += 4 * count
    return document["modelTopology"]["model_config"]["config"], tensors


def run(graph, tensors, x, eps=None):
    """Logits (softmax left out) for images (N, 3, H, W) in the graph's own colours."""
    values = {}
    for layer in graph["layers"]:
        kind, name, settings = layer["class_name"], layer["name"], layer["config"]
        inputs = [values[node[0]] for nodes in layer["inbound_nodes"] for node in nodes]
        tensor = {key.split("/")[1]: t for key, t in tensors.items() if key.split("/")[0] == name}
        first = inputs[0] if inputs else x
        if kind == "ZeroPadding2D":
            (top, bottom), (left, right) = settings["padding"]
            first = F.pad(first, (left, right, top, bottom))
        elif kind == "Conv2D":
            kernel = tensor["kernel"].permute(3, 2, 0, 1)
            pad = settings["kernel_size"][0] // 2 if settings["padding"] == "same" else 0
            assert settings["strides"] == [1, 1] or settings["padding"] == "valid"
            first = F.conv2d(first, kernel, tensor["bias"], settings["strides"], pad)
        elif kind == "BatchNormalization":
            scale = (
                tensor["gamma"] / (tensor["moving_variance"] + (eps or settings["epsilon"])).sqrt()
            )
            shift = tensor["beta"] - tensor["moving_mean"] * scale
            first = first * scale[:, None, None] + shift[:, None, None]
        elif kind == "Activation":
            assert settings["activation"] == "relu"
            first = first.clamp(min=0)
        elif kind == "MaxPooling2D":
            assert settings["padding"] == "valid"
            first = F.max_pool2d(first, settings["pool_size"], settings["strides"])
        elif kind == "Add":
            first = inputs[0] + inputs[1]
        elif kind == "GlobalAveragePooling2D":
            first = first.mean((2, 3))
        elif kind == "Dense":
            first = first @ tensor["kernel"] + tensor["bias"]
        else:
            assert kind == "InputLayer", kind
        values[name] = first
    return first
