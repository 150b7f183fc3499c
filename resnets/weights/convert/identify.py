"""Imported weights: which network they fit, and the model that they make."""

from __future__ import annotations

import csv
import math
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from resnets.data import cifar_classes
from resnets.data.cifar_classes import CLASSES, CifarName
from resnets.data.preprocessing import Preprocessing, imagenet
from resnets.models import zoo
from resnets.models.residual import Architecture, PoolKind, ResidualNetwork, StrideIn
from resnets.support.errors import UserError
from resnets.support.names import counted
from resnets.weights.convert.zero_padding import Zeros, move_zeros
from resnets.weights.model_file import Model, fault_of, make_card


@dataclass(frozen=True, kw_only=True)
class ImportedWeights:
    """Weights from a file of another program, under the parameter names of this package.

    Args:
        state: the state dict.
        origin: name of the program.
        location: the file, for messages.
        stride_in: which convolution of a bottleneck has the stride; None if the file does not say.
        pool: how the stem pools; None if the file does not say.
        network: its name in the zoo table; None if the file does not say.
        preprocessing: what the network expects; None if the file does not say.
        zeros: where the zeros of option A are; None if the file does not say.
        card: classes, provenance and test results, as far as known.
        notes: what was folded; goes into the card's provenance.
        assumed: what the file does not say, in words, with the option that says it.
    """

    state: dict[str, Tensor]
    origin: str
    location: str
    network: str | None = None
    preprocessing: Preprocessing | None = None
    zeros: Zeros | None = None
    stride_in: StrideIn | None = None
    pool: PoolKind | None = None
    card: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What a user says about weights whose file does not say it, or says it wrongly.

    Args:
        classes: class names.
        size: side of the network's input in pixels.
        mean: red, green and blue, of pixels in 0..1.
        std: the same of the deviation; ones for no division.
        zeros: where the zeros of option A are.
        state: the entry of a checkpoint that holds the weights.
    """

    classes: list[str] | None = None
    size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    zeros: Zeros | None = None
    state: str | None = None


def to_model(
    weights: ImportedWeights,
    network: str | None = None,
    stated: Statement | None = None,
    *,
    classifier: bool = True,
) -> Model:
    """The model with these weights, and a card that says where they come from.

    Args:
        weights: the weights.
        network: a name of the zoo table; by default the network that they fit.
        stated: what a user says about them.
        classifier: whether the model must have one. If not, a model without classes may result,
            whose classifier has one output of zero: a start for a training.

    Raises:
        UserError: if they do not fit that network or the statement, or are not finite.
    """
    stated, card, state = stated or Statement(), weights.card, dict(weights.state)
    name = network or weights.network or identify(weights)
    _check_fit(weights, name)
    if weights.network not in (None, name):
        hint = "leave out --network"
        raise UserError(f"its card says {weights.network}, not {name}", weights.location, hint)
    row = zoo.architecture(name)
    count = _outputs(weights, classifier)
    if not count:
        features = row.widths[-1] * row.expansion
        state |= {"fc.weight": torch.zeros(1, features), "fc.bias": torch.zeros(1)}
    module = ResidualNetwork(row.with_classes(count or 1))
    assumed = list(weights.assumed)
    unsaid = weights.stride_in is None and weights.network is None
    if unsaid and row.block == "bottleneck" and row.stem == "imagenet":
        assumed.append(f"the stride in the {row.stride_in} convolutions (--network)")
    if row.shortcut == "A":
        zeros = stated.zeros or weights.zeros or "behind"
        if not (stated.zeros or weights.zeros):
            assumed.append("zeros of option A behind the channels (--zeros)")
        if zeros == "both":
            state = move_zeros(state, row, "behind")
    elif stated.zeros:
        raise UserError(f"{name} has no shortcuts of option A", "--zeros", "leave it out")
    preprocessing = _preprocessing(weights, row, stated, count, assumed)
    names, ids = _class_names(weights, row, stated, count, assumed)
    module.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    if fault := fault_of(module.state_dict()):
        raise UserError(fault, weights.location)
    provenance = {
        **card.get("provenance", {}),
        "converted_from": {
            "origin": weights.origin,
            "file": weights.location,
            "stride_in": row.stride_in if row.block == "bottleneck" else None,
            "pool": row.pool,
            **weights.notes,
            **({"assumed": assumed} if assumed else {}),
        },
    }
    made = make_card(name, names, provenance, card.get("measured", []), ids)
    return Model(module.requires_grad_(False).eval(), made, preprocessing)


def _outputs(weights: ImportedWeights, classifier: bool) -> int:
    """Outputs of the classifier; 0 if it is missing or has one, which only a training may accept.

    Raises:
        UserError: if the weights must have a classifier and have none.
    """
    count = len(weights.state["fc.bias"]) if "fc.bias" in weights.state else 0
    if count < 2 and classifier:
        raise UserError(
            "the weights have one output, whose probability is always 100 %"
            if count
            else "the weights have no classifier (fc)",
            weights.location,
            "train a classifier of two or more classes on them: "
            f"resnets train RECIPE --init {shlex.quote(weights.location)}",
        )
    return count if count > 1 else 0


def _preprocessing(
    weights: ImportedWeights, row: Architecture, stated: Statement, count: int, assumed: list[str]
) -> Preprocessing:
    """What the user says, else the file, else what is usual for the stem; notes assumptions."""
    known = weights.preprocessing
    preprocessing = known or _usual_preprocessing(row, count)
    if known is None:
        if stated.size is None:
            assumed.append(f"images of {preprocessing.size} pixels (--size)")
        if stated.mean is None:
            whose = cifar_classes.title(_cifar_of(count)) if row.stem == "cifar" else "ImageNet"
            assumed.append(f"{whose}'s mean (--mean)")
        if stated.std is None:
            whose = "no" if preprocessing.std is None else "ImageNet's"
            assumed.append(f"{whose} deviation (--std)")
    if stated.size is not None:
        preprocessing = preprocessing.resized_to(stated.size)
    changes: dict[str, Any] = {}
    for name in ("mean", "std"):
        values = getattr(stated, name)
        if values is None:
            continue
        least, example = _RANGES[name]
        if not all(least <= value <= 1 for value in values):
            hint = "divide numbers for pixels of 0..255 by 255"
            if not any(value > 1 for value in values):
                hint = f"give red, green and blue, such as --{name} {example}"
            raise UserError(f"must be of pixels in 0..1, from {least:g} to 1", f"--{name}", hint)
        changes[name] = torch.tensor(values)[:, None, None]
    return replace(preprocessing, **changes)


_RANGES = {"mean": (0.0, "0.485 0.456 0.406"), "std": (0.001, "0.229 0.224 0.225")}
"""The least value of a statement, and ImageNet's as an example. A deviation of 1/255 is usual."""


_CIFAR_MEANS = {"CIFAR-10": (0.4914, 0.4822, 0.4465), "CIFAR-100": (0.5071, 0.4865, 0.4409)}


def _cifar_of(outputs: int) -> CifarName:
    """The data set of CIFAR with as many classes; CIFAR-10 if none has."""
    return next((name for name in cifar_classes.NAMES if len(CLASSES[name]) == outputs), "cifar10")


def _usual_preprocessing(row: Architecture, count: int) -> Preprocessing:
    """What is usual for a stem: torchvision's; for CIFAR a mean and no deviation (section 4.2)."""
    ready = imagenet()
    if row.stem == "imagenet":
        return ready
    if row.stem == "cifar":
        mean = torch.tensor(_CIFAR_MEANS[cifar_classes.title(_cifar_of(count))])
        return Preprocessing(32, 32, mean=mean[:, None, None])
    return Preprocessing(64, 64, mean=ready.mean, std=ready.std)


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
        raise _no_network(weights)
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
    found: dict[str, Architecture] = {}
    for name in _names(state):
        row = zoo.architecture(name)
        if row.depths == depths and row not in found.values() and not _differences(state, row):
            found[name] = row
    return found


def _names(state: Mapping[str, Tensor]) -> list[str]:
    """All networks of the table, and those for CIFAR with as many convolutions."""
    names = list(zoo.NAMED)
    blocks = (sum(tensor.ndim == 4 for tensor in state.values()) - 1) // 6  # of each stage
    layers = 6 * blocks + 2
    if blocks > 0 and layers <= zoo.MAX_CIFAR_DEPTH:
        names += [f"cifar-resnet{layers}{end}" for end in ("", "-b", "-c")]
        names.append(f"cifar-plain{layers}")
    return names


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
    if not any(name.startswith("fc.") for name in found):  # weights to start a training from
        expected = {name: s for name, s in expected.items() if not name.startswith("fc.")}
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    other = [name for name in expected if name in found and found[name] != expected[name]]
    words = []
    if other:
        name = other[0]
        words.append(
            f"{counted(len(other), 'shape differs', 'shapes differ')} "
            f"(first {name}: {found[name]} instead of {expected[name]})"
        )
    if missing:
        words.append(f"{_tensors(len(missing))} missing (first {missing[0]})")
    if unknown:
        words.append(f"{_tensors(len(unknown))} unknown (first {unknown[0]})")
    return words


def _tensors(count: int) -> str:
    return counted(count, "tensor is", "tensors are")


def _no_network(weights: ImportedWeights) -> UserError:
    """The error for weights that fit no network: how they differ from the nearest.

    The nearest has the same shapes; or else the most names and shapes in common, each counted
    alone: tensors may have been renamed, or a network made wider.
    """
    found = _shapes_of(weights.state)
    flat = [shape for shape in found.values() if len(shape) == 2]
    classes = flat[0][0] if len(flat) == 1 else None

    def distances(name: str) -> tuple[int, int]:
        row = zoo.architecture(name)
        expected = _shapes(row.with_classes(classes or row.classes))
        ours, theirs = Counter(expected.values()), Counter(found.values())
        of_shapes = (ours - theirs).total() + (theirs - ours).total()
        return len(expected.keys() ^ found.keys()), of_shapes

    apart = {name: distances(name) for name in _names(weights.state)}
    name = min(apart, key=lambda name: (apart[name][1] > 0, sum(apart[name])))
    row = zoo.architecture(name)
    expected = _shapes(row.with_classes(classes or row.classes))
    unknown = {n: shape for n, shape in found.items() if n not in expected}
    missing = {shape: n for n, shape in reversed(expected.items()) if n not in found}
    renamed = next((n for n, shape in unknown.items() if shape in missing), None)
    if renamed is not None and not apart[name][1]:
        pair = f"{renamed} for {missing[unknown[renamed]]}"
        return UserError(
            f"the shapes are those of {name}, but names differ, such as {pair}",
            weights.location,
            "rename the tensors as in torchvision's resnet",
        )
    words = ", ".join(_differences(weights.state, row))
    message = f"the weights fit no known network; nearest {name}: {words}"
    return UserError(message, weights.location, "list the networks: resnets info")


def _class_names(
    weights: ImportedWeights, row: Architecture, stated: Statement, count: int, assumed: list[str]
) -> tuple[list[str], list[str] | None]:
    """Class names and identifiers: the user's, the card's, else the usual ones of the network.

    Raises:
        UserError: if they are not as many as the outputs.
    """
    card = weights.card
    if not count:
        return [], None
    if stated.classes is not None:
        if len(stated.classes) != count:
            names = f"{counted(len(stated.classes), 'class name')} for weights with {count} outputs"
            raise UserError(names, "--classes", "name every class, in the order of the outputs")
        return stated.classes, None
    if "classes" in card:
        if len(card["classes"]) != count:
            raise UserError(
                f"the weights have {count} classes, but the card names {len(card['classes'])}",
                weights.location,
                "name them with --classes FILE, or train a new classifier on them: "
                f"resnets train finetune --set init={weights.location}",
            )
        return list(card["classes"]), card.get("class_ids")
    if count == 1000:
        identifiers, imagenets = imagenet_classes()
        return list(imagenets), list(identifiers)
    data = next((name for name in cifar_classes.NAMES if len(CLASSES[name]) == count), None)
    if data is not None and row.stem == "cifar":
        assumed.append(f"{cifar_classes.title(data)}'s class names (--classes)")
        return list(CLASSES[data]), None
    assumed.append("numbers for class names (--classes)")
    digits = int(math.log10(count)) + 1
    return [f"class {number:0{digits}d}" for number in range(count)], None


@cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet identifiers and names of ImageNet's 1000 classes, in the order of the logits."""
    file = resources.files("resnets") / "weights" / "convert" / "imagenet_classes.tsv"
    rows = list(csv.reader(file.read_text("utf-8").splitlines()[1:], delimiter="\t"))
    return tuple(row[0] for row in rows), tuple(row[1] for row in rows)
