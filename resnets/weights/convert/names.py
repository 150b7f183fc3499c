"""Names of tensors in state dicts of other programs, and what they are called in this package."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resnets.support.errors import UserError

_STATES = ("state_dict", "model_state_dict", "model", "net")
"""Entries of a training's checkpoint that hold the weights. Any other may, too, if it has some."""
_AVERAGED = re.compile(r"(?:.*_)?(?:ema|swa|averaged)(?:_.*)?")
"""Names of entries that hold averaged weights."""
_COUNTER = "n_averaged"
"""Tensor of `torch.optim.swa_utils.AveragedModel` that belongs to no network."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "resnet.")
"""Of DataParallel, torch.compile, and of modules that hold a network as a part."""
_CLASSIFIER = re.compile(r"((?:fc|linear|classifier|head)(?:\.fc)?(?:\.\d+)?)\.(weight|bias)")
_SHORTCUT = re.compile(r"(layer\d+\.\d+)\.shortcut\.(.+)")
_STEM = re.compile(r"embedder\.embedder\.(convolution|normalization)\.(.+)")
_LAYER = re.compile(
    r"(?:encoder\.)?stages\.(\d+)\.layers\.(\d+)\.(?:shortcut|layer\.(\d+))\."
    r"(convolution|normalization)\.(.+)"
)
_PART = re.compile(r"conv1|bn1|layer\d+|fc|linear|classifier|head")
"""What the names of a network's parts begin with: no prefix, even if all names have it."""
_SAVE = "save only the model's state_dict()"


@dataclass(frozen=True)
class StateDict:
    """The tensors of one network in a file.

    Args:
        tensors: under the names of this package, as far as they are known.
        entry: of a checkpoint, the entry that held them; empty if there was no choice.
        assumed: what this choice and these names assume, in words; empty if nothing.
    """

    tensors: dict[str, Tensor]
    entry: str = ""
    assumed: list[str] = field(default_factory=list)


def state_dict(content: Any, location: str, wanted: str | None = None) -> StateDict:
    """The weights in a file's content.

    A checkpoint may have several entries with weights. Of these the averaged ones are taken, as
    trainings test them; if that does not decide, `wanted` must.

    Args:
        content: a state dict, or a checkpoint that has one as an entry.
        location: the file, for messages.
        wanted: the entry to take.

    Raises:
        UserError: if it holds anything but tensors, two tensors of one name, no entry `wanted`, or
            several entries of which none is the one to take.
    """
    taken: list[str] = []
    assumed: list[str] = []
    known: list[str] = []
    while isinstance(content, dict) and (entries := _entries(content)):
        known += entries
        if wanted in entries and wanted not in taken:
            taken.append(wanted)
            content = content[wanted]
        elif len(entries) == 1:
            content = content[entries[0]]
        elif wanted is None or wanted in taken:
            entry, assumed = _preferred(content, entries, location)
            taken.append(entry)
            content = content[entry]
        else:
            break
    if wanted is not None and wanted not in taken:
        hint = f"it has {', '.join(known)}" if known else "it holds one network: leave it out"
        raise UserError(f"{location} has no weights called {wanted!r}", "--state", hint)
    tensors, prefix = _tensors(content, location)
    if prefix:
        assumed = [*assumed, f"names without the prefix {prefix} that they all have"]
    return StateDict(tensors, ".".join(taken), assumed)


def _entries(content: Mapping[Any, Any]) -> list[str]:
    """The entries of a checkpoint that hold weights: known ones, and others with convolutions."""
    found = [key for key, value in content.items() if isinstance(key, str) and _has_weights(value)]
    usual = [key for key in _STATES if isinstance(content.get(key), dict) and key not in found]
    return found or usual


def _has_weights(value: Any) -> bool:
    """Whether a value is a state dict with a convolution, or holds one that is."""
    if not isinstance(value, dict):
        return False
    inner = any(_has_weights(value[key]) for key in _STATES if key in value)
    return inner or any(isinstance(t, Tensor) and t.ndim == 4 for t in value.values())


def _preferred(
    content: Mapping[str, Any], entries: list[str], location: str
) -> tuple[str, list[str]]:
    """Which of several entries to take, and in words what that assumes: nothing of equal ones."""
    first, *others = entries
    if all(_equal(content[first], content[other]) for other in others):
        return first, []
    averaged = [entry for entry in entries if _AVERAGED.fullmatch(entry)]
    if len(averaged) != 1:
        hint = f"choose one: resnets convert {shlex.quote(location)} OUT --state {first}"
        raise UserError(f"holds several weights: {', '.join(entries)}", location, hint)
    others = [entry for entry in entries if entry != averaged[0]]
    return averaged[0], [f"the averaged weights {averaged[0]}, not {' or '.join(others)} (--state)"]


def _equal(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Whether two state dicts hold the same tensors."""
    first, second = ({_own_name(str(n)): t for n, t in state.items()} for state in (one, other))
    return first.keys() == second.keys() and all(
        isinstance(t, Tensor) and isinstance(second[n], Tensor) and torch.equal(t, second[n])
        for n, t in first.items()
    )


def _tensors(content: Any, location: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a state dict under the names of this package; raises `UserError`.

    Returns:
        The tensors, and an unknown prefix that all names had.
    """
    if not isinstance(content, dict):
        raise UserError("the file holds no state dict", location, _SAVE)
    if not content:
        raise UserError("the file holds no tensors", location)
    state: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    prefix = _common_prefix([name for name in content if isinstance(name, str)])
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(f"{name!r} is not a tensor", location, _SAVE)
        own = _own_name(_bare(name).removeprefix(prefix))
        if own == _COUNTER:
            continue
        if own in state:
            both = f"{origins[own]} and {name}"
            raise UserError(f"two networks are in the file: {both}", location, _SAVE)
        state[own], origins[own] = tensor, name
    state = _with_classifier(state)
    for name in [name for name in state if name.endswith(".running_var")]:
        norm = name.removesuffix("running_var")
        state.setdefault(f"{norm}num_batches_tracked", torch.tensor(0))  # new in 2018
    return state, prefix


def _common_prefix(names: list[str]) -> str:
    """What all names of a state dict begin with, after known prefixes, before a network's parts."""
    prefix, rest = "", [_bare(name) for name in names if _bare(name) != _COUNTER]
    while len(heads := {name.partition(".")[0] for name in rest}) == 1:
        (head,) = heads
        if _PART.fullmatch(head) or not all("." in name for name in rest):
            break
        prefix += f"{head}."
        rest = [name.removeprefix(f"{head}.") for name in rest]
    return prefix


def _bare(name: str) -> str:
    """A name without known prefixes."""
    while name.startswith(_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _own_name(name: str) -> str:
    name = _bare(name)
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
