"""PyTorch: state dicts of torchvision and timm, whose parameter names this package shares."""

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
from resnets.support.errors import UserError, one_line
from resnets.support.files import make_folder, write_bytes, write_json
from resnets.weights.convert.caffe_convention import unsupported_part
from resnets.weights.convert.identify import ImportedWeights

TIMM_CONFIG, TIMM_WEIGHTS = "config.json", "model.safetensors"
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes of DataParallel and torch.compile
_SAVE = "save only the model's state_dict()"


def read(path: Path) -> ImportedWeights:
    """Read a state dict from a `.pth` (with `weights_only=True`) or `.safetensors` file.

    Raises:
        UserError: if the file is damaged or is not a state dict.
    """
    return ImportedWeights(
        state=_state_dict(path),
        origin="torchvision",
        location=str(path),
        pool="padded",
        preprocessing=imagenet(),
        notes={"preprocessing": "torchvision's"},
    )


def read_timm(folder: Path) -> ImportedWeights:
    """Read a folder as timm saves it for the Hugging Face hub: config.json, model.safetensors.

    Raises:
        UserError: if a file is missing or damaged, or the config lacks the preprocessing.
    """
    config, path = folder / TIMM_CONFIG, folder / TIMM_WEIGHTS
    state = _state_dict(path)
    try:
        document = json.loads(config.read_bytes())
        facts = document["pretrained_cfg"]
        _, height, size = map(int, facts["input_size"])
        if height != size:
            raise ValueError(f"input_size is {facts['input_size']}: not square")
        if facts.get("crop_mode", "center") != "center":
            raise ValueError(f"crop_mode is {facts['crop_mode']!r}: only 'center' is supported")
        if not 0 < facts["crop_pct"] <= 1:
            raise ValueError(f"crop_pct is {facts['crop_pct']}: not above 0 and at most 1")
        preprocessing = Preprocessing(
            size=size,
            resize=max(size, int(size / facts["crop_pct"])),
            mean=torch.tensor(facts["mean"], dtype=torch.float32)[:, None, None],
            std=torch.tensor(facts["std"], dtype=torch.float32)[:, None, None],
            interpolation=facts["interpolation"],
        )
        card: dict[str, Any] = {}
        if "label_names" in document:
            ids = list(document["label_names"])
            names = document.get("label_descriptions") or {}
            if not isinstance(names, dict):
                raise TypeError("label_descriptions is not an object")
            card = {"classes": [names.get(i, i) for i in ids], "class_ids": ids}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"not a readable timm config ({one_line(error)})", str(config)) from error
    return ImportedWeights(
        state=state,
        origin="timm",
        location=str(path),
        pool="padded",
        preprocessing=preprocessing,
        card=card,
    )


def _state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without the prefixes of wrappers."""
    content = _read(path)
    if not content:
        raise UserError("the file holds no tensors", str(path))
    state = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{name!r} is not a tensor", str(path), _SAVE)
        while name.startswith(_WRAPPERS):
            name = name.split(".", 1)[1]
        state[name] = tensor
    norms = [name.removesuffix("running_var") for name in state if name.endswith("running_var")]
    for norm in norms:  # files from before 2018 lack it
        state.setdefault(f"{norm}num_batches_tracked", torch.tensor(0))
    return state


def _read(path: Path) -> dict[Any, Any]:
    """The content of a file: its state dict, or the one under `state_dict` or `model`."""
    try:
        raw = path.read_bytes()
        if raw[8:9] == b"{":
            return dict(safetensors.torch.load(raw))
        content = torch.load(io.BytesIO(raw), "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            "the file holds more than tensors, or is damaged; it is not unpickled", str(path), _SAVE
        ) from error
    except Exception as error:  # torch.load raises almost anything for damaged files
        raise UserError(f"not a readable PyTorch file ({one_line(error)})", str(path)) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UserError("the file holds no state dict", str(path), _SAVE)
    return content


def _refuse_unsupported(network: ResidualNetwork, program: str) -> None:
    """Raise `UserError` unless torchvision and timm have this network.

    They have residual networks of option B, with the stride of a bottleneck in the 3x3 (v1.5).
    """
    row = network.architecture
    if part := unsupported_part(row):
        raise UserError(f"{program} has no network with {part}", hint="use --to resnets")
    if row.shortcut == "none":
        part = "plain blocks"
    elif row.shortcut != "B":
        part = f"shortcut option {row.shortcut}"
    elif row.block == "bottleneck" and row.stride_in == "1x1":
        part = "the stride in the 1x1 convolutions (v1)"
    elif row.pool == "ceil":
        part = "Caffe's pool"
    if part:
        raise UserError(
            f"{program} has no network with {part}; its own network would load the weights, "
            "but compute other results",
            hint="use --to resnets, keras-h5, tfjs or caffe",
        )


def write(path: Path, network: ResidualNetwork) -> None:
    """Write a state dict for torchvision: as safetensors if `path` ends so, else by `torch.save`.

    Raises:
        UserError: if torchvision has no such network, or the file cannot be written.
    """
    _refuse_unsupported(network, "torchvision")
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
        UserError: if timm has no such network, or a file cannot be written.
    """
    _refuse_unsupported(network, "timm")
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
