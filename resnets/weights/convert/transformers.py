"""Hugging Face transformers: folders of `ResNetForImageClassification`, read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from resnets.data.preprocessing import Preprocessing
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError, one_line
from resnets.support.files import make_folder, write_bytes, write_json
from resnets.weights.convert import names, pytorch
from resnets.weights.convert.identify import ImportedWeights

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of interpolations, which the processor's config has."""
_CONVNEXT_CROPS_BELOW = 384
"""The processor of Microsoft's ResNets squeezes larger images into a square instead."""


def read(folder: Path) -> ImportedWeights:
    """Read a folder: config.json, the weights, and preprocessor_config.json if there is one.

    Raises:
        UserError: if a file is missing or damaged, or the network or its preprocessing is one that
            this package does not have.
    """
    path = pytorch.weights_file(folder)
    state = pytorch.read_state_dict(path)
    config = folder / CONFIG
    try:
        document = json.loads(config.read_bytes())
        _refuse_other_networks(document)
        bottleneck = document.get("layer_type", "bottleneck") == "bottleneck"
        in_1x1 = bottleneck and bool(document.get("downsample_in_bottleneck", False))
        card = {}
        if labels := document.get("id2label"):
            card["classes"] = [str(labels[str(index)]) for index in range(len(labels))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"not a readable config of transformers ({one_line(error)})"
        raise UserError(message, str(config)) from error
    return ImportedWeights(
        state=state.tensors,
        assumed=state.assumed,
        origin="transformers",
        location=str(path),
        stride_in="1x1" if in_1x1 else "3x3",
        pool="padded",
        preprocessing=_read_processor(folder / PROCESSOR),
        card=card,
    )


def _refuse_other_networks(document: dict[str, Any]) -> None:
    """Raise `ValueError` for what networks of this package do not have."""
    for key, supported in (
        ("hidden_act", "relu"), ("downsample_in_first_stage", False), ("num_channels", 3),
    ):  # fmt: skip
        if document.get(key, supported) != supported:
            raise ValueError(f"{key} is {document[key]!r}: only {supported!r} is supported")


def _read_processor(path: Path) -> Preprocessing | None:
    """The preprocessing that a processor's config describes; None if there is no config."""
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_bytes())
        size, resize = _sizes(facts)
        if (
            facts.get("do_rescale", True)
            and abs(facts.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3
        ):
            raise ValueError("rescale_factor is not 1/255")
        if not facts.get("do_normalize", True):
            mean, std = torch.zeros(3), torch.ones(3)
        else:
            mean, std = (torch.tensor(facts[f"image_{kind}"]).float() for kind in ("mean", "std"))
        return Preprocessing(
            size, resize, _FILTERS[facts.get("resample", 2)],  # type: ignore[arg-type]
            mean=mean[:, None, None], std=std[:, None, None],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        message = f"not a readable config of an image processor ({one_line(error)})"
        raise UserError(message, str(path)) from error


def _sizes(facts: dict[str, Any]) -> tuple[int, int]:
    """Side of the crop, and the shorter side of the scaled image; raises `ValueError`."""
    given = facts["size"]
    shorter = given if isinstance(given, int) else given.get("shortest_edge")
    if shorter is None:
        raise ValueError(f"size is {given}: only shortest_edge is supported, which keeps the shape")
    if facts.get("do_center_crop"):
        crop = facts["crop_size"]
        sides = {crop} if isinstance(crop, int) else {crop["height"], crop["width"]}
        if len(sides) != 1:
            raise ValueError(f"crop_size is {crop}: not square")
        return int(sides.pop()), int(shorter)
    if "crop_pct" in facts and shorter < _CONVNEXT_CROPS_BELOW:
        return int(shorter), int(shorter / (facts["crop_pct"] or 1))
    raise ValueError("it cuts out no square: neither do_center_crop nor crop_pct")


def write(
    folder: Path, network: ResidualNetwork, preprocessing: Preprocessing, card: dict[str, Any]
) -> None:
    """Write a folder that `ResNetForImageClassification.from_pretrained` loads.

    Raises:
        UserError: if transformers has no such network, or a file cannot be written.
    """
    pytorch.refuse_unsupported(network, "transformers", strides=("1x1", "3x3"))
    make_folder(folder)
    row, size = network.architecture, preprocessing.size
    std = torch.ones(3) if preprocessing.std is None else preprocessing.std.flatten()
    labels = dict(enumerate(card["classes"]))
    config = {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": row.widths[0],
        "hidden_sizes": [width * row.expansion for width in row.widths],
        "depths": list(row.depths),
        "layer_type": row.block,
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": row.block == "bottleneck" and row.stride_in == "1x1",
        "id2label": {str(index): name for index, name in labels.items()},
        "label2id": {name: index for index, name in labels.items()},
        "torch_dtype": "float32",
    }
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": preprocessing.resize},
        "resample": next(n for n, name in _FILTERS.items() if name == preprocessing.interpolation),
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": preprocessing.mean.mean((1, 2)).tolist(),
        "image_std": std.tolist(),
    }
    state = {
        names.to_transformers(name): tensor.cpu().contiguous()
        for name, tensor in network.state_dict().items()
    }
    write_bytes(folder / WEIGHTS, safetensors.torch.save(state, {"format": "pt"}))
    write_json(folder / PROCESSOR, processor)
    write_json(folder / CONFIG, config)
