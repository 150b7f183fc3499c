"""State dicts of torchvision and timm, whose names are ours."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from resnets.data.preprocessing import Preprocessing, imagenet
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError
from resnets.support.files import make_folder, write_bytes, write_json
from resnets.weights.convert.imported import Foreign, channels
from resnets.weights.convert.layers import beyond_table_1

WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put in front
TIMM_CONFIG, TIMM_WEIGHTS = "config.json", "model.safetensors"


def read(path: Path) -> Foreign:
    """A `.pth` (never unpickling anything but tensors) or `.safetensors` file.

    Raises:
        UserError: if it is damaged or holds something else than a state dict.
    """
    return Foreign(_unwrapped(_tensors(path), path), "torchvision", str(path), pool="padded",
                   preprocessing=imagenet(), notes={"preprocessing": "torchvision's"})  # fmt: skip


def read_timm(folder: Path) -> Foreign:
    """A folder of timm's hub layout: config.json and model.safetensors.

    Raises:
        UserError: if a file is missing, damaged, or without the settings of preprocessing.
    """
    config, path = folder / TIMM_CONFIG, folder / TIMM_WEIGHTS
    state = _unwrapped(_tensors(path), path)
    try:
        document = json.loads(config.read_bytes())
        facts = document["pretrained_cfg"]
        _, height, size = map(int, facts["input_size"])
        if height != size:
            raise ValueError(f"input_size is {facts['input_size']}: not square")
        if facts.get("crop_mode", "center") != "center":
            raise ValueError(f"crop_mode is {facts['crop_mode']!r}: only 'center' is read here")
        if not 0 < facts["crop_pct"] <= 1:
            raise ValueError(f"crop_pct is {facts['crop_pct']}: not above 0 and at most 1")
        preprocessing = Preprocessing(
            size, max(size, int(size / facts["crop_pct"])), facts["interpolation"],
            mean=channels(facts["mean"]), std=channels(facts["std"]),
        )  # fmt: skip
        card: dict[str, Any] = {}
        if "label_names" in document:
            ids = list(document["label_names"])
            names = document.get("label_descriptions") or {}
            if not isinstance(names, dict):
                raise TypeError("label_descriptions tells no name by identifier")
            card = {"classes": [names.get(i, i) for i in ids], "class_ids": ids}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"not a readable config of timm ({line})", str(config)) from error
    return Foreign(state, "timm", str(path), pool="padded", preprocessing=preprocessing, card=card)


def _tensors(path: Path) -> dict[str, Any]:
    """Whatever the file calls its tensors."""
    try:
        raw = path.read_bytes()
        if raw[8:9] == b"{":
            return dict(safetensors.torch.load(raw))
        content = torch.load(io.BytesIO(raw), "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            "holds more than tensors, or is damaged; it is not unpickled", str(path),
            "save its state_dict() alone",
        ) from error  # fmt: skip
    except Exception as error:  # torch.load raises nearly anything at damaged files
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"not a readable file of tensors ({line})", str(path)) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UserError("holds no state dict", str(path), "save its state_dict() alone")
    return content


def _unwrapped(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    state = {}
    if not content:
        raise UserError("holds no tensors", str(path))
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{name!r} is no tensor", str(path), "save its state_dict() alone")
        while name.startswith(WRAPPERS):
            name = name.split(".", 1)[1]
        state[name] = tensor
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    for norm in norms:  # files from before 2018 lack it
        state.setdefault(f"{norm}num_batches_tracked", torch.tensor(0))
    return state


def _refuse_unlike(network: ResidualNetwork, program: str) -> None:
    """torchvision and timm build only networks of our `-v1.5` rows, and option B."""
    row = network.architecture
    if beyond := beyond_table_1(row):
        raise UserError(f"{program} has no network with {beyond}", hint="use --to resnets")
    what = ""
    if row.shortcut != "B":
        what = "a plain network" if row.shortcut == "none" else f"shortcut option {row.shortcut}"
    elif row.block == "bottleneck" and row.stride_in == "1x1":
        what = "the stride in the 1x1 convolutions (v1)"
    elif row.pool == "ceil":
        what = "Caffe's pool"
    if what:
        raise UserError(
            f"{program} has no network with {what}; its own would load the weights and answer "
            "otherwise",
            hint="use --to resnets, keras-h5, tfjs or caffe",
        )


def write(path: Path, network: ResidualNetwork) -> None:
    """Write a state dict that torchvision loads: `.safetensors`, or else as torch.save does.

    Raises:
        UserError: if torchvision has no such network, or it cannot be written.
    """
    _refuse_unlike(network, "torchvision")
    state = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    if path.suffix == ".safetensors":
        write_bytes(path, safetensors.torch.save(state, {"format": "pt"}))
        return
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def write_timm(
    folder: Path, network: ResidualNetwork, preprocessing: Preprocessing, card: dict[str, Any]
) -> None:
    """Write a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads.

    Raises:
        UserError: if timm has no such network, or it cannot be written.
    """
    _refuse_unlike(network, "timm")
    make_folder(folder)
    name = card["network"].removesuffix("-v1.5").removesuffix("-b")
    std = torch.ones(3) if preprocessing.std is None else preprocessing.std.flatten()
    size = preprocessing.size
    ids = card.get("class_ids") or card["classes"]
    document = {
        "architecture": name,
        "num_classes": network.architecture.classes,
        "num_features": network.fc.in_features,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "mean": preprocessing.mean.mean((1, 2)).tolist(),
            "std": std.tolist(),
            "interpolation": preprocessing.interpolation,
            # timm rounds size / crop_pct down, which must not lose a pixel.
            "crop_pct": size / (preprocessing.resize + 1e-3),
            "crop_mode": "center",
            "num_classes": network.architecture.classes,
            "first_conv": "conv1",
            "classifier": "fc",
        },
        "label_names": list(ids),
        "label_descriptions": dict(zip(ids, card["classes"], strict=True)),
    }
    write(folder / TIMM_WEIGHTS, network)
    write_json(folder / TIMM_CONFIG, document)
