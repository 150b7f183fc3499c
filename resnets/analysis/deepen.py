"""The constructed solution of the introduction: a deeper network with the same outputs.

"There exists a solution by construction to the deeper model: the added layers are identity
mapping, and the other layers are copied from the learned shallower model."
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from resnets.analysis.responses import Layer, main_path
from resnets.models import zoo
from resnets.models.batch_norm import evaluating
from resnets.models.blocks import Block
from resnets.models.residual import Architecture, ResidualNetwork
from resnets.support.errors import UserError
from resnets.weights.model_file import Model, make_card

TOLERANCE = 1e-4
"""Difference of logits, relative to the largest, that rounding in float32 may cause."""
_DEPTH = re.compile(r"(resnet|plain|highway|preact)\d+")


@dataclass(frozen=True)
class Agreement:
    """The difference of two networks' logits for the same images.

    Args:
        images: number of images.
        difference: largest absolute difference of two logits.
        largest: largest absolute value of the first network's logits.
    """

    images: int
    difference: float
    largest: float

    @property
    def good(self) -> bool:
        """Whether rounding can explain the difference."""
        return self.difference <= TOLERANCE * max(1.0, self.largest)


def target(name: str, to: str) -> str:
    """The name of the deeper network that `to` means for the network `name`.

    Args:
        name: such as `cifar-resnet20`.
        to: another name, or a number of layers, such as `56`.

    Raises:
        UserError: if there is no such network, or it is not a deeper one of the same family.
    """
    wanted = _DEPTH.sub(rf"\g<1>{int(to)}", name, count=1) if to.isdecimal() else to
    _refuse(zoo.architecture(name), zoo.architecture(wanted))
    return wanted


def deepen(model: Model, to: str, images: Iterable[Tensor]) -> tuple[Model, Agreement]:
    """A deeper model of the same family with the same outputs, checked on images.

    The card's provenance has the number of added blocks, and provenance and results of the
    shallower model. No result counts as measured on the deeper one.

    Args:
        model: the shallower model.
        to: name or number of layers of the deeper network.
        images: batches of training images as inputs (N, 3, H, W), on the network's device;
            iterated more than once.

    Raises:
        UserError: if there is no such network, if it is not `model`'s with more blocks, or if the
            outputs differ by more than rounding.
    """
    network, card = model.network, model.card
    if not isinstance(network, ResidualNetwork):
        raise UserError(f"{card['network']} has no blocks that could be added")
    name = target(card["network"], to)
    row = zoo.architecture(name).with_classes(len(model.classes))
    deep = deepened(network, row, images)
    found = check(network, deep, images)
    if not found.good:
        raise UserError(
            f"{name} does not give the outputs of {card['network']}: logits differ by up to "
            f"{found.difference:.3g} (the largest is {found.largest:.3g})"
        )
    made_from = {
        "network": card["network"],
        "added_blocks": sum(row.depths) - sum(network.architecture.depths),
        "images": found.images,
        "largest_difference_of_logits": found.difference,
        "provenance": card.get("provenance", {}),
        "measured": card.get("measured", []),
    }
    made = make_card(name, model.classes, {"deepened_from": made_from}, [], model.class_ids)
    return Model(deep.requires_grad_(False).eval(), made, model.preprocessing), found


@torch.no_grad()
def check(shallow: nn.Module, deep: nn.Module, images: Iterable[Tensor]) -> Agreement:
    """The largest difference of two networks' logits, both in evaluation mode.

    On GPUs, convolutions in TF32 lose more digits of a plain network than `TOLERANCE` allows.
    """
    count, difference, largest = 0, 0.0, 0.0
    with evaluating(shallow, deep):
        for batch in images:
            first, second = shallow(batch), deep(batch)
            count += len(batch)
            distance = (first - second).abs().nan_to_num(nan=math.inf)
            difference = max(difference, float(distance.max()))
            largest = max(largest, float(first.abs().max()))
    if not count:
        raise UserError("no images to compare the networks on")
    return Agreement(count, difference, largest)


def deepened(
    network: ResidualNetwork, to: Architecture, images: Iterable[Tensor] = (), seed: int = 0
) -> ResidualNetwork:
    """`network` with additional blocks, which are identities, at the end of each stage.

    The branch of a block with an identity shortcut has output zero: gamma and beta of its last BN
    are zero (or, if no BN follows, the last convolution is), and the rest is He-initialised, so
    that it can learn. In a plain block, and in option C's projections, each convolution copies its
    input, and BN inverts its own normalisation: its running statistics are mean and variance of
    `images`, gamma is the deviation and beta the mean. With running statistics this is the identity
    up to rounding; with the statistics of a batch, as in training, approximately.

    Args:
        network: the shallower network.
        to: architecture of the deeper network.
        images: batches of training images as inputs; needed for plain networks and option C.
        seed: of the initial weights.

    Raises:
        UserError: if `to` is not deeper or of another family, or its blocks cannot be identities.
    """
    row = network.architecture
    _refuse(row, to)
    device = network.fc.weight.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        deep = ResidualNetwork(to)
    deep.load_state_dict(network.state_dict(), strict=False)  # without the added blocks
    deep.to(device).train(network.training)
    layers = {layer.name: layer for layer in main_path(deep)}
    copies = to.shortcut in ("none", "C")
    moments = _stage_moments(network, images) if copies else {}
    for name, block in deep.blocks():
        stage, _, index = name.partition(".")
        if int(index) < row.depths[deep.stage_names.index(stage)]:
            continue
        mine = [layer for key, layer in layers.items() if key.startswith(f"{name}.")]
        if to.shortcut == "none":
            for layer in mine:
                _copy_input(layer, moments[stage], block)
        else:
            _silence(mine[-1])
            if to.shortcut == "C":
                _copy_input(_projection(name, block), moments[stage], block)
    return deep


def _refuse(row: Architecture, to: Architecture) -> None:
    """Raise `UserError` unless `to` is `row` with more blocks, which can be identities."""
    if row.shortcut not in ("none", "A", "B", "C"):
        raise UserError(f"blocks with the shortcut {row.shortcut!r} cannot be added as identities")
    if row.shortcut == "none" and row.block == "bottleneck":
        raise UserError("a plain bottleneck cannot be an identity: its middle is too narrow")
    differs = [
        f"{field.name} {getattr(to, field.name)}, not {getattr(row, field.name)}"
        for field in fields(row)
        if field.name not in ("depths", "classes")
        and getattr(to, field.name) != getattr(row, field.name)
    ]
    if differs:
        raise UserError(
            f"that is a network of another family ({'; '.join(differs)})",
            hint="only blocks of the same kind can be added",
        )
    if replace(to, depths=row.depths) != row:
        raise UserError(f"the deeper network has {to.classes} classes, not {row.classes}")
    for stage, (old, new) in enumerate(zip(row.depths, to.depths, strict=True), 1):
        if new < old:
            raise UserError(
                f"layer{stage} would shrink from {old} to {new} blocks",
                f"--to {to.layers}",
                "give more layers",
            )
    if to.depths == row.depths:
        raise UserError(
            f"{to.layers} layers are not more than the {row.layers} that it has",
            "--to",
            "give more layers",
        )


def _silence(last: Layer) -> None:
    """Make a branch's output zero by its last layer, which can still learn."""
    if isinstance(last.norm, nn.BatchNorm2d):
        nn.init.zeros_(last.norm.weight)
        nn.init.zeros_(last.norm.bias)
    else:
        nn.init.zeros_(last.convolution.weight)


def _copy_input(layer: Layer, moments: tuple[Tensor, Tensor], block: Block) -> None:
    """Make a block's convolution and BN an identity for inputs of this mean and variance."""
    norm = layer.norm
    if not isinstance(norm, nn.BatchNorm2d) or norm not in block.modules():
        raise UserError("has no BN after it, so it cannot be an identity", layer.name)
    mean, variance = moments
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        nn.init.dirac_(layer.convolution.weight)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_((norm.running_var + norm.eps).sqrt())
        norm.bias.copy_(norm.running_mean)


def _projection(name: str, block: Block) -> Layer:
    """Option C's projection as a layer."""
    parts = list(block.downsample.children()) if block.downsample is not None else []
    if len(parts) != 2 or not isinstance(parts[0], nn.Conv2d):
        raise UserError("is not a convolution with BN", f"{name}.downsample")
    return Layer(f"{name}.downsample.0", parts[0], parts[1])


@torch.no_grad()
def _stage_moments(
    network: ResidualNetwork, images: Iterable[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and variance (C,) in float64 of the channels of every stage's output."""
    totals: dict[str, Tensor] = {}
    count = 0
    with evaluating(network):
        for batch in images:
            count += len(batch)
            for stage, maps in network.features(batch).items():
                values = maps.cpu().double()
                sums = torch.stack([t.mean((2, 3)).sum(0) for t in (values, values.square())])
                totals[stage] = totals.get(stage, 0) + sums
    if not count:
        raise UserError(
            "the added BN layers need the statistics of training images", hint="give some images"
        )
    moments = {stage: (total / count).unbind() for stage, total in totals.items()}
    return {
        stage: (mean, (square - mean**2).clamp(min=0)) for stage, (mean, square) in moments.items()
    }
