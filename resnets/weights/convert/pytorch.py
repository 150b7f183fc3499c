"""PyTorch: state dicts of torchvision and timm, whose parameter names this package shares."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from resnets.data.image_formats import is_lfs_pointer
from resnets.data.preprocessing import Preprocessing
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError, one_line
from resnets.support.files import make_folder, write_bytes, write_json
from resnets.weights.card import LFS_POINTER
from resnets.weights.convert import names
from resnets.weights.convert.caffe_convention import unsupported_part
from resnets.weights.convert.identify import ImportedWeights
from resnets.weights.convert.zero_padding import Zeros, move_zeros

TIMM_CONFIG, TIMM_WEIGHTS = "config.json", "model.safetensors"
_SAVE = "save only the model's state_dict()"


def read(path: Path, entry: str | None = None) -> ImportedWeights:
    """Read a state dict from a `.pth` (with `weights_only=True`) or `.safetensors` file.

    Args:
        path: the file.
        entry: of a checkpoint, which of its weights; see `names.state_dict`.

    Raises:
        UserError: if the file is damaged or is not a state dict, or holds several.
    """
    found = read_state_dict(path, entry)
    return ImportedWeights(
        state=found.tensors,
        origin="torchvision",
        location=str(path),
        pool="padded",
        notes={"state": found.entry} if found.entry else {},
        assumed=found.assumed,
    )


def read_timm(folder: Path) -> ImportedWeights:
    """Read a folder as timm saves it for the Hugging Face hub: config.json and the weights.

    Raises:
        UserError: if a file is missing or damaged, or the config lacks the preprocessing.
    """
    config, path = folder / TIMM_CONFIG, weights_file(folder)
    state = read_state_dict(path)
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
            described = document.get("label_descriptions") or {}
            if not isinstance(described, dict):
                raise ValueError("label_descriptions is not an object")
            card = {"classes": [described.get(i, i) for i in ids], "class_ids": ids}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"not a readable timm config ({one_line(error)})", str(config)) from error
    return ImportedWeights(
        state=state.tensors,
        assumed=state.assumed,
        origin="timm",
        location=str(path),
        pool="padded",
        preprocessing=preprocessing,
        card=card,
    )


def weights_file(folder: Path) -> Path:
    """The weights in a folder of timm or transformers; raises `UserError` if there are none."""
    for name in (TIMM_WEIGHTS, "pytorch_model.bin"):
        if (folder / name).exists():
            return folder / name
    if next(folder.glob("*.index.json"), None):
        raise UserError("the weights are in several files", str(folder), "save them as one file")
    raise UserError(f"no weights in this folder: no {TIMM_WEIGHTS}", str(folder))


def read_state_dict(path: Path, entry: str | None = None) -> names.StateDict:
    """The tensors of a `.pth` or `.safetensors` file, under the names of this package.

    Raises:
        UserError: if the file is damaged, or holds more than tensors; as `names.state_dict`.
    """
    try:
        raw = path.read_bytes()
        if is_lfs_pointer(raw):
            raise UserError(LFS_POINTER[0], str(path), LFS_POINTER[1])
        if raw[8:9] == b"{":
            content = dict(safetensors.torch.load(raw))
        else:
            content = torch.load(io.BytesIO(raw), "cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            "the file holds more than tensors, or is damaged; it is not unpickled", str(path), _SAVE
        ) from error
    except OSError as error:
        raise UserError(f"cannot be read ({one_line(error)})", str(path)) from error
    except Exception as error:  # torch.load raises almost anything for damaged files
        raise UserError("not a PyTorch file, or cut off or damaged", str(path)) from error
    return names.state_dict(content, str(path), entry)


def refuse_unsupported(
    network: ResidualNetwork, program: str, strides: tuple[str, ...] = ("3x3",)
) -> None:
    """Raise `UserError` unless another program has this network.

    torchvision and timm have residual networks of option B, with the stride of a bottleneck in the
    3x3 (v1.5); transformers has them with the stride in the 1x1 too.
    """
    row = network.architecture
    if part := unsupported_part(row):
        raise UserError(f"{program} has no network with {part}", hint="use --to resnets")
    if row.shortcut == "none":
        part = "plain blocks"
    elif row.shortcut != "B":
        part = f"shortcut option {row.shortcut}"
    elif row.block == "bottleneck" and row.stride_in not in strides:
        part = "the stride in the 1x1 convolutions (v1)"
    elif row.pool == "ceil":
        part = "Caffe's pool"
    if part:
        raise UserError(
            f"{program} has no network with {part}; its own network would load the weights, "
            "but compute other results",
            hint="use --to resnets, keras-h5, tfjs or caffe",
        )


def write(path: Path, network: ResidualNetwork, zeros: Zeros = "behind") -> None:
    """Write a state dict: as safetensors if `path` ends so, else by `torch.save`.

    It is for torchvision, and of CIFAR networks for the many programs that name their tensors so.

    Args:
        path: the file.
        network: the network.
        zeros: where the reading network has the zeros of option A.

    Raises:
        UserError: if torchvision has no such network, or the file cannot be written.
    """
    row = network.architecture
    if row.stem != "cifar" or unsupported_part(replace(row, stem="imagenet")):
        refuse_unsupported(network, "torchvision")
    state = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    if row.shortcut == "A" and zeros == "both":
        state = move_zeros(state, row, "both")
    state = {name: tensor.contiguous() for name, tensor in state.items()}
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
    refuse_unsupported(network, "timm")
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
