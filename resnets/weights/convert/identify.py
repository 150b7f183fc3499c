"""Imported weights: which network they fit, and the model that they make."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from resnets.data.preprocessing import Preprocessing
from resnets.models import zoo
from resnets.models.residual import Architecture, PoolKind, ResidualNetwork, StrideIn
from resnets.support.errors import UserError
from resnets.weights.model_file import Model, make_card


@dataclass(frozen=True, kw_only=True)
class ImportedWeights:
    """Weights from a file of another program, under the parameter names of this package.

    Args:
        state: the state dict.
        origin: name of the program.
        location: the file, for messages.
        stride_in: which convolution of a bottleneck has the stride; None if the file does not say.
        pool: how the stem pools; None if the file does not say.
        preprocessing: what the network expects.
        card: classes, provenance and test results, as far as known.
        notes: what was folded or assumed; goes into the card's provenance.
    """

    state: dict[str, Tensor]
    origin: str
    location: str
    preprocessing: Preprocessing
    stride_in: StrideIn | None = None
    pool: PoolKind | None = None
    card: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def to_model(weights: ImportedWeights, network: str | None = None) -> Model:
    """The model with these weights, and a card that says where they come from.

    Args:
        weights: the weights.
        network: a name of the zoo table; by default the network that they fit.

    Raises:
        UserError: if they do not fit that network, or are not finite.
    """
    name = network or identify(weights)
    card = weights.card
    _check_fit(weights, name)
    count = len(weights.state["fc.bias"])
    if "classes" in card and len(card["classes"]) != count:
        raise UserError(
            f"the weights have {count} classes, but the card names {len(card['classes'])}",
            weights.location,
            f"train a new classifier on them: resnets train finetune --set init={weights.location}",
        )
    module = ResidualNetwork(zoo.architecture(name).with_classes(count))
    module.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in weights.state.items()},
    )
    if not all(bool(torch.isfinite(t).all()) for t in module.state_dict().values()):
        raise UserError("weights are not finite numbers", weights.location)
    names, ids = _class_names(card, count)
    row = module.architecture
    provenance = {
        **card.get("provenance", {}),
        "converted_from": {
            "origin": weights.origin,
            "file": weights.location,
            "stride_in": row.stride_in if row.block == "bottleneck" else None,
            "pool": row.pool,
            **weights.notes,
        },
    }
    made = make_card(name, names, provenance, card.get("measured", []), ids)
    return Model(module.requires_grad_(False).eval(), made, weights.preprocessing)


def identify(weights: ImportedWeights) -> str:
    """Name of the network that the weights fit.

    A file that does not say which convolution of a bottleneck has the stride counts as one of
    torchvision or timm, which stride in the 3x3. CIFAR networks of the table stride in the 1x1.

    Raises:
        UserError: if they fit none, or several that differ in parts without weights.
    """
    stride_in = weights.stride_in or "3x3"
    names = [
        name
        for name, row in _candidates(weights.state).items()
        if row.block != "bottleneck" or row.stem == "cifar" or row.stride_in == stride_in
    ]
    if not names:
        raise UserError(
            _no_network(weights.state), weights.location, "list the networks: resnets info"
        )
    if len(names) > 1:
        raise UserError(
            f"the weights fit {' as well as '.join(names)}, which differ in shortcuts "
            "without weights",
            weights.location,
            "say which: --network NAME",
        )
    return names[0] + zoo.CEIL if weights.pool == "ceil" else names[0]


def _check_fit(weights: ImportedWeights, network: str) -> None:
    """Raise `UserError` if weights are not of `network`; it says what differs."""
    row = zoo.architecture(network)
    differences = _differences(weights.state, row)
    if weights.stride_in and row.block == "bottleneck" and weights.stride_in != row.stride_in:
        where = f"{weights.stride_in} instead of the {row.stride_in}"
        differences.append(f"the stride is in the {where}")
    if weights.pool and row.stem == "imagenet" and weights.pool != row.pool:
        differences.append(f"the pool is {weights.pool!r} instead of {row.pool!r}")
    if not differences:
        return
    try:
        hint = f"the weights fit --network {identify(weights)}"
    except UserError:
        hint = "leave out --network to see which network is nearest"
    raise UserError(f"not weights of {network}: {', '.join(differences)}", weights.location, hint)


def _candidates(state: Mapping[str, Tensor]) -> dict[str, Architecture]:
    """Networks whose parameters have exactly these names and shapes, by name."""
    depths = _stage_depths(state)
    names = list(zoo.NAMED)
    if len(depths) == 3 and len(set(depths)) == 1:
        layers = 6 * depths[0] + 2
        names += [f"cifar-resnet{layers}{end}" for end in ("", "-b", "-c")]
        names.append(f"cifar-plain{layers}")
    found: dict[str, Architecture] = {}
    for name in names:
        row = zoo.architecture(name)
        if row.depths == depths and row not in found.values() and not _differences(state, row):
            found[name] = row
    return found


def _stage_depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks in each stage."""
    blocks = {tuple(name.split(".")[:2]) for name in state if name.startswith("layer")}
    stages = sorted({stage for stage, _ in blocks})
    return tuple(sum(stage == other for other, _ in blocks) for stage in stages)


def _shapes(row: Architecture) -> dict[str, tuple[int, ...]]:
    """Shapes of a network's parameters and statistics, by name."""
    with torch.device("meta"):
        return _shapes_of(ResidualNetwork(row).state_dict())


def _shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


def _differences(state: Mapping[str, Tensor], row: Architecture) -> list[str]:
    """How a state dict differs from a network with as many classes, in words."""
    bias = state.get("fc.bias")
    classes = len(bias) if bias is not None and bias.ndim == 1 else 0
    expected, found = _shapes(row.with_classes(classes or row.classes)), _shapes_of(state)
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    other = [name for name in expected if name in found and found[name] != expected[name]]
    words = []
    if other:
        name = other[0]
        words.append(
            f"{len(other)} shapes differ (first {name}: {found[name]} instead of {expected[name]})"
        )
    if missing:
        words.append(f"{len(missing)} tensors are missing (first {missing[0]})")
    if unknown:
        words.append(f"{len(unknown)} tensors are unknown (first {unknown[0]})")
    return words


def _no_network(state: Mapping[str, Tensor]) -> str:
    """The message for weights that fit no network: how they differ from the nearest."""
    depths = _stage_depths(state)

    def distance(name: str) -> tuple[int, int]:
        row = zoo.NAMED[name]
        return (row.depths != depths, len(_shapes(row).keys() ^ state.keys()))

    name = min(zoo.NAMED, key=distance)
    words = ", ".join(_differences(state, zoo.NAMED[name]))
    return f"the weights fit no known network; nearest {name}: {words}"


def _class_names(card: Mapping[str, Any], count: int) -> tuple[list[str], list[str] | None]:
    """Class names and identifiers: the card's, ImageNet's for 1000, else numbers."""
    if "classes" in card:
        return list(card["classes"]), card.get("class_ids")
    if count == 1000:
        ids, names = imagenet_classes()
        return list(names), list(ids)
    digits = int(math.log10(count)) + 1
    return [f"class {number:0{digits}d}" for number in range(count)], None


@cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet identifiers and names of ImageNet's 1000 classes, in the order of the logits."""
    file = resources.files("resnets") / "weights" / "convert" / "imagenet_classes.tsv"
    rows = list(csv.reader(file.read_text("utf-8").splitlines()[1:], delimiter="\t"))
    return tuple(row[0] for row in rows), tuple(row[1] for row in rows)
