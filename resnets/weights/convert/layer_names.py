"""Names of layers in the authors' Caffe models and in Keras, and ours for them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from resnets.models.residual import ResidualNetwork

# res2a_branch2a, bn3b7_branch1, scale5c_branch2c: the authors' names, kept by early Keras.
_MSRA = re.compile(r"(res|bn|scale)(\d)([a-z])(\d*)_branch(1|2[abc])")
# conv2_block1_0_bn, conv5_block3_3_conv: today's Keras.
_KERAS = re.compile(r"conv(\d)_block(\d+)_([0-3])_(conv|bn)")
_STEM = {
    "conv1": "conv1", "conv1_conv": "conv1",
    "bn_conv1": "bn1", "scale_conv1": "bn1", "conv1_bn": "bn1",
}  # fmt: skip
_BRANCHES = {"1": 0, "2a": 1, "2b": 2, "2c": 3}


def ours(layer: str) -> str | None:
    """Our name of the module that a layer of theirs is part of; None if it is of none."""
    if layer in _STEM:
        return _STEM[layer]
    if re.fullmatch(r"fc\d*|predictions", layer):
        return "fc"
    if found := _MSRA.fullmatch(layer):
        kind, stage, letter, number, branch = found.groups()
        block = int(number) if number else ord(letter) - ord("a")
        return _module(int(stage), block, _BRANCHES[branch], kind == "res")
    if found := _KERAS.fullmatch(layer):
        stage, number, branch, kind = found.groups()
        return _module(int(stage), int(number) - 1, int(branch), kind == "conv")
    return None


def _module(stage: int, block: int, place: int, is_conv: bool) -> str:
    name = f"layer{stage - 1}.{block}."
    if place == 0:
        return name + ("downsample.0" if is_conv else "downsample.1")
    return name + ("conv" if is_conv else "bn") + str(place)


def theirs(module: str, depths: Sequence[int]) -> str:
    """The authors' name of a convolution of ours, less `res` in front.

    Blocks are counted a, b, c, ... and, in the long stages of 101 and 152 layers, a, b1, b2, ...
    """
    if module == "conv1":
        return module
    stage, block, part = module.split(".")[:3]
    number, depth = int(block), depths[int(stage[5:]) - 1]
    lettered = number == 0 or depth <= 3 or sum(depths) <= 16
    place = chr(ord("a") + number) if lettered else f"b{number}"
    branch = "1" if part == "downsample" else "2" + "abc"[int(part[4:]) - 1]
    return f"{int(stage[5:]) + 1}{place}_branch{branch}"


def layer_names(place: str) -> tuple[str, str]:
    """The authors' names of a convolution and of its BN, given what `theirs` says."""
    return (place, f"bn_{place}") if place == "conv1" else (f"res{place}", f"bn{place}")


def bn_of(conv: str) -> str:
    """Name of the BN that follows a convolution of ours."""
    if conv.endswith("downsample.0"):
        return conv.removesuffix("0") + "1"
    return conv.replace("conv", "bn")


def convolutions(network: ResidualNetwork) -> list[str]:
    """Names of all convolutions; a BN follows each."""
    found = (re.fullmatch(r"(.*(?:conv\d|downsample\.0))\.weight", n) for n in network.state_dict())
    return [match[1] for match in found if match]
