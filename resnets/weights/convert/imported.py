"""Weights of other programs under our names: which network they fit, and what they say."""

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
from resnets.weights import model_file
from resnets.weights.convert import layer_names

EPS = 1e-5  # of every BN of ours
CAFFE_MEAN = (123.68, 116.779, 103.939)  # red, green, blue of 0..255: the authors' mean image


@dataclass(frozen=True)
class Foreign:
    """What a file of another program holds.

    Args:
        state: tensors under our names.
        origin: the program, for people.
        where: the file, for messages.
        stride_in: where a bottleneck has its stride; None if the file does not say.
        pool: how the stem pools; None if the file does not say.
        preprocessing: None if the file does not say.
        card: classes and what else the file says about itself.
        notes: what was folded or assumed, for the card's provenance.
    """

    state: dict[str, Tensor]
    origin: str
    where: str
    stride_in: StrideIn | None = None
    pool: PoolKind | None = None
    preprocessing: Preprocessing | None = None
    card: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def channels(values: tuple[float, ...] | list[float]) -> Tensor:
    """Three numbers as (3, 1, 1)."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def caffe_preprocessing(size: int = 224, mean: Tensor | None = None) -> Preprocessing:
    """Pixels of 0..255 less a mean, undivided, as the authors' models and Keras expect them.

    Args:
        size: side of the input in pixels.
        mean: (3, 1, 1) or (3, size, size), RGB, on the scale 0..1; the authors' by default.
    """
    mean = channels(CAFFE_MEAN) / 255 if mean is None else mean
    return Preprocessing(size, round(size * 256 / 224), mean=mean, std=channels([1 / 255] * 3))


def assemble(
    convolutions: Mapping[str, tuple[Tensor, Tensor | None]],
    norms: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor, float]],
    classifier: tuple[Tensor, Tensor] | None,
    where: str = "",
) -> dict[str, Tensor]:
    """Tensors of a network that takes BGR images as those of ours, which takes RGB; exact.

    A convolution's bias b goes into the mean of the BN behind it: (x + b) - m = x - (m - b).
    Another eps goes into the variance: v + eps = (v + eps - 1e-5) + 1e-5.

    Args:
        convolutions: weight (out, in, H, W) and bias, by our names.
        norms: gamma, beta, mean, variance and eps, by our names.
        classifier: weight (classes, in) and bias.
        where: the file, for messages.

    Raises:
        UserError: if a layer's tensors have shapes that do not go together.
    """

    def check(name: str, dimensions: int, weight: Tensor, *vectors: Tensor) -> None:
        if weight.ndim != dimensions or any(v.shape != weight.shape[:1] for v in vectors):
            shapes = ", ".join(str(tuple(t.shape)) for t in (weight, *vectors))
            raise UserError(f"tensors of {name} do not go together: {shapes}", where)

    state: dict[str, Tensor] = {}
    for name, (weight, bias) in convolutions.items():
        norm = layer_names.bn_of(name)
        check(name, 4, weight, *norms.get(norm, ())[:4], *(() if bias is None else (bias,)))
        state[f"{name}.weight"] = weight.flip(1) if name == "conv1" else weight
        if norm in norms:
            gamma, beta, mean, variance, eps = norms[norm]
            shift = 0.0 if bias is None else bias.double()
            state[f"{norm}.weight"], state[f"{norm}.bias"] = gamma, beta
            state[f"{norm}.running_mean"] = (mean.double() - shift).float()
            state[f"{norm}.running_var"] = (variance.double() + (eps - EPS)).float()
            state[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    if classifier is not None:
        check("fc", 2, *classifier)
        state["fc.weight"], state["fc.bias"] = classifier
    return {name: tensor.contiguous() for name, tensor in state.items()}


def to_bgr(network: ResidualNetwork, preprocessing: Preprocessing) -> dict[str, Tensor]:
    """Weights for BGR images of 0..255 less the mean: the scale goes into the first convolution."""
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    std = torch.ones(3, 1, 1) if preprocessing.std is None else preprocessing.std
    scale = 255 * std.double()
    if torch.allclose(scale, torch.ones_like(scale), rtol=1e-6):
        scale = torch.ones_like(scale)
    state["conv1.weight"] = (state["conv1.weight"].double() / scale).float().flip(1)
    return state


@cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """WordNet identifiers and names of ImageNet's 1000 classes, in the order of the logits."""
    text = (resources.files("resnets") / "weights" / "convert" / "imagenet_classes.tsv").read_text(
        "utf-8"
    )
    rows = list(csv.reader(text.splitlines()[1:], delimiter="\t"))
    return tuple(row[0] for row in rows), tuple(row[1] for row in rows)


def depths(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks in each stage."""
    blocks = {tuple(name.split(".")[:2]) for name in state if name.startswith("layer")}
    stages = sorted({stage for stage, _ in blocks})
    return tuple(sum(stage == other for other, _ in blocks) for stage in stages)


def candidates(state: Mapping[str, Tensor]) -> dict[str, Architecture]:
    """Networks of the table whose tensors have just these names and shapes."""
    blocks = depths(state)
    names = list(zoo.NAMED)
    if len(blocks) == 3 and len(set(blocks)) == 1:
        layers = 6 * blocks[0] + 2
        names += [f"cifar-resnet{layers}{end}" for end in ("", "-b", "-c")]
        names.append(f"cifar-plain{layers}")
    found: dict[str, Architecture] = {}
    for name in names:
        row = zoo.architecture(name)
        if row.depths == blocks and row not in found.values() and not _differences(state, row):
            found[name] = row
    return found


def _shapes(row: Architecture) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = ResidualNetwork(row)
    return {
        name: tuple(tensor.shape)
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def _differences(state: Mapping[str, Tensor], row: Architecture) -> list[str]:
    """In words, how tensors differ from a network's, with as many classes as they have."""
    expected = _shapes(row.with_classes(_classes(state) or row.classes))
    there = {n: tuple(t.shape) for n, t in state.items() if not n.endswith("num_batches_tracked")}
    missing = [name for name in expected if name not in there]
    unknown = [name for name in there if name not in expected]
    shapes = [name for name in expected if name in there and there[name] != expected[name]]
    words = []
    if shapes:
        name = shapes[0]
        words.append(
            f"{len(shapes)} shapes differ (first {name}: {there[name]} instead of {expected[name]})"
        )
    if missing:
        words.append(f"{len(missing)} tensors are missing (first {missing[0]})")
    if unknown:
        words.append(f"{len(unknown)} tensors are unknown (first {unknown[0]})")
    return words


def _classes(state: Mapping[str, Tensor]) -> int | None:
    bias = state.get("fc.bias")
    return None if bias is None or bias.ndim != 1 or not len(bias) else len(bias)


def identify(foreign: Foreign) -> str:
    """The network that tensors fit.

    Files that do not say where a bottleneck has its stride come from torchvision's family,
    which has it in the 3x3; on CIFAR the table has it in the 1x1 only.

    Raises:
        UserError: if they fit none, or several that differ in what has no weights.
    """
    found = candidates(foreign.state)
    stride_in = foreign.stride_in or "3x3"
    fitting = {
        name: row
        for name, row in found.items()
        if row.block != "bottleneck" or row.stem == "cifar" or row.stride_in == stride_in
    }
    if not fitting:
        raise UserError(_unlike_all(foreign.state), foreign.where, "resnets info lists them")
    if len(fitting) > 1:
        raise UserError(
            f"the weights fit {' as well as '.join(fitting)}, which differ in shortcuts "
            "without weights",
            foreign.where,
            "say which: --network NAME",
        )
    name = next(iter(fitting))
    return name + zoo.CEIL if foreign.pool == "ceil" else name


def _unlike_all(state: Mapping[str, Tensor]) -> str:
    """Why no network fits: the differences from the one that is nearest."""

    def distance(name: str) -> tuple[int, int]:
        row = zoo.NAMED[name]
        return (row.depths != depths(state), len(_shapes(row).keys() ^ state.keys()))

    name = min(zoo.NAMED, key=distance)
    words = ", ".join(_differences(state, zoo.NAMED[name]))
    return f"weights of no network that this program knows; nearest {name}: {words}"


def fit(foreign: Foreign, network: str, classes: int | None = None) -> None:
    """Refuse weights that are not of `network`, saying what differs.

    Args:
        foreign: the weights.
        network: a name of the table.
        classes: outputs that are wanted, if any number will not do.

    Raises:
        UserError: if names, shapes, the place of the stride, the pool or the classes differ.
    """
    row = zoo.architecture(network)
    what: list[str] = _differences(foreign.state, row)
    if foreign.stride_in and row.block == "bottleneck" and foreign.stride_in != row.stride_in:
        what.append(f"the stride is in the {foreign.stride_in} instead of the {row.stride_in}")
    if foreign.pool and row.stem == "imagenet" and foreign.pool != row.pool:
        what.append(f"the pool is {foreign.pool!r} instead of {row.pool!r}")
    if what:
        try:
            hint = f"the weights fit --network {identify(foreign)}"
        except UserError:
            hint = "leave --network out to see what they are nearest to"
        raise UserError(f"weights of another network than {network}: {', '.join(what)}",
                        foreign.where, hint)  # fmt: skip
    own = _classes(foreign.state)
    if classes is not None and own != classes:
        raise wrong_classes(own or 0, classes, foreign.where)


def wrong_classes(own: int, wanted: int, where: str) -> UserError:
    """The error for a classifier of another size, which says how to train one that fits."""
    return UserError(
        f"the weights know {own} classes, not {wanted}",
        where,
        f"train a new classifier on them: resnets train finetune --set init={where}",
    )


def to_model(foreign: Foreign, network: str | None = None) -> model_file.Model:
    """A model of ours with these weights and a card that says where they come from.

    Args:
        foreign: the weights.
        network: a name of the table; by default what the weights fit.

    Raises:
        UserError: if the weights are not of that network, or not finite.
    """
    name = network or identify(foreign)
    card = foreign.card
    fit(foreign, name, len(card["classes"]) if "classes" in card else None)
    count = _classes(foreign.state)
    assert count is not None  # `fit` found fc.bias
    module = ResidualNetwork(zoo.architecture(name).with_classes(count))
    module.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in foreign.state.items()},
    )
    if not all(bool(torch.isfinite(t).all()) for t in module.state_dict().values()):
        raise UserError("weights are not finite numbers", foreign.where)
    names, ids = class_names(card, count)
    row = module.architecture
    provenance = {
        **card.get("provenance", {}),
        "converted_from": {
            "origin": foreign.origin,
            "file": foreign.where,
            "stride_in": row.stride_in if row.block == "bottleneck" else None,
            "pool": row.pool,
            **foreign.notes,
        },
    }
    made = model_file.make_card(name, names, provenance, card.get("measured", []), ids)
    preprocessing = foreign.preprocessing
    if preprocessing is None:
        raise UserError("says nothing about preprocessing", foreign.where)
    return model_file.Model(module.requires_grad_(False).eval(), made, preprocessing)


def class_names(card: Mapping[str, Any], count: int) -> tuple[list[str], list[str] | None]:
    """Names and identifiers of classes: the card's, ImageNet's for 1000, numbers for others."""
    if "classes" in card:
        return list(card["classes"]), card.get("class_ids")
    if count == 1000:
        ids, names = imagenet_classes()
        return list(names), list(ids)
    digits = int(math.log10(count)) + 1
    return [f"class {number:0{digits}d}" for number in range(count)], None
