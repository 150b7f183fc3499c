"""Names of tensors in state dicts of other programs, and what they are called in this package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resnets.support.errors import UserError

_STATES = ("state_dict_ema", "state_dict", "model_state_dict", "model", "net")
"""Entries of a training's checkpoint that hold the weights; averaged weights first."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "resnet.")
"""Of DataParallel, torch.compile, and of modules that hold a network as a part."""
_CLASSIFIER = re.compile(r"((?:fc|linear|classifier|head)(?:\.fc)?(?:\.\d+)?)\.(weight|bias)")
_SHORTCUT = re.compile(r"(layer\d+\.\d+)\.shortcut\.(.+)")
_STEM = re.compile(r"embedder\.embedder\.(convolution|normalization)\.(.+)")
_LAYER = re.compile(
    r"(?:encoder\.)?stages\.(\d+)\.layers\.(\d+)\.(?:shortcut|layer\.(\d+))\."
    r"(convolution|normalization)\.(.+)"
)
_SAVE = "save only the model's state_dict()"


def state_dict(content: Any, location: str) -> dict[str, Tensor]:
    """The tensors of a file's content under the names of this package, as far as they are known.

    Args:
        content: a state dict, or a checkpoint that has one as an entry.
        location: the file, for messages.

    Raises:
        UserError: if it holds anything but tensors, or two tensors of one name.
    """
    while isinstance(content, dict):
        entry = next((key for key in _STATES if isinstance(content.get(key), dict)), None)
        if entry is None:
            break
        content = content[entry]
    if not isinstance(content, dict):
        raise UserError("the file holds no state dict", location, _SAVE)
    if not content:
        raise UserError("the file holds no tensors", location)
    state: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{name!r} is not a tensor", location, _SAVE)
        own = _own_name(name)
        if own in state:
            both = f"{origins[own]} and {name}"
            raise UserError(f"two networks are in the file: {both}", location, _SAVE)
        state[own], origins[own] = tensor, name
    state = _with_classifier(state)
    for name in [name for name in state if name.endswith(".running_var")]:
        norm = name.removesuffix("running_var")
        state.setdefault(f"{norm}num_batches_tracked", torch.tensor(0))  # new in 2018
    return state


def _own_name(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    if found := _SHORTCUT.fullmatch(name):
        return f"{found[1]}.downsample.{found[2]}"
    if found := _STEM.fullmatch(name):
        return f"{'conv1' if found[1] == 'convolution' else 'bn1'}.{found[2]}"
    if found := _LAYER.fullmatch(name):
        stage, block, layer, kind, rest = found.groups()
        conv = kind == "convolution"
        if layer is None:
            part = "downsample.0" if conv else "downsample.1"
        else:
            part = f"{'conv' if conv else 'bn'}{int(layer) + 1}"
        return f"layer{int(stage) + 1}.{block}.{part}.{rest}"
    return name


def _with_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same with the names `fc.weight` and `fc.bias`, if the classifier is one layer."""
    found = {name: match for name in state if (match := _CLASSIFIER.fullmatch(name))}
    if len({match[1] for match in found.values()}) != 1:
        return dict(state)
    return {f"fc.{found[n][2]}" if n in found else n: tensor for n, tensor in state.items()}


def to_transformers(name: str) -> str:
    """The name in `transformers` of a tensor of this package's networks for ImageNet."""
    kinds = {"conv": "convolution", "bn": "normalization"}
    if found := re.fullmatch(r"(conv|bn)1\.(.+)", name):
        return f"resnet.embedder.embedder.{kinds[found[1]]}.{found[2]}"
    if found := re.fullmatch(r"layer(\d)\.(\d+)\.(?:(conv|bn)(\d)|downsample\.([01]))\.(.+)", name):
        stage, block, kind, layer, shortcut, rest = found.groups()
        kind = kinds[kind] if kind else ("normalization" if int(shortcut) else "convolution")
        part = f"layer.{int(layer) - 1}" if layer else "shortcut"
        return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.{part}.{kind}.{rest}"
    return name.replace("fc.", "classifier.1.")
