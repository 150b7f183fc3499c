"""The convention of the authors' Caffe models, which Keras follows: layer names, graph, BGR.

Files of both name layers alike, hold a graph of layers, and take BGR images of 0..255 less a
mean, where networks of this package take RGB. Converting is exact: colours, biases before BN,
and another eps are folded into the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from resnets.data.preprocessing import Preprocessing
from resnets.models.blocks import Convolution
from resnets.models.residual import Architecture, ResidualNetwork
from resnets.support.errors import UserError

BN_EPS = 1e-5
"""eps of every BN in this package's networks."""
CAFFE_MEAN = (123.68, 116.779, 103.939)
"""Red, green and blue of 0..255: the channel means of the authors' mean image."""

# res2a_branch2a, bn3b7_branch1, scale5c_branch2c: the authors' names, kept by early Keras.
_MSRA_NAME = re.compile(r"(res|bn|scale)(\d)([a-z])(\d*)_branch(1|2[abc])")
# conv2_block1_0_bn, conv5_block3_3_conv: today's Keras.
_KERAS_NAME = re.compile(r"conv(\d)_block(\d+)_([0-3])_(conv|bn)")
_STEM = {
    "conv1": "conv1", "conv1_conv": "conv1",
    "bn_conv1": "bn1", "scale_conv1": "bn1", "conv1_bn": "bn1",
}  # fmt: skip
_BRANCHES = {"1": 0, "2a": 1, "2b": 2, "2c": 3}


def module_of(layer: str) -> str | None:
    """The module of our networks that a layer of Caffe or Keras belongs to; None if unknown.

    Example: `res2a_branch2a`, `conv2_block1_1_conv` -> `layer1.0.conv1`.
    """
    if layer in _STEM:
        return _STEM[layer]
    if re.fullmatch(r"fc\d*|predictions", layer):
        return "fc"
    if found := _MSRA_NAME.fullmatch(layer):
        kind, stage, letter, number, branch = found.groups()
        block = int(number) if number else ord(letter) - ord("a")
        return _module(int(stage), block, _BRANCHES[branch], kind == "res")
    if found := _KERAS_NAME.fullmatch(layer):
        stage, number, branch, kind = found.groups()
        return _module(int(stage), int(number) - 1, int(branch), kind == "conv")
    return None


def _module(stage: int, block: int, branch: int, is_conv: bool) -> str:
    name = f"layer{stage - 1}.{block}."
    if branch == 0:
        return name + ("downsample.0" if is_conv else "downsample.1")
    return name + ("conv" if is_conv else "bn") + str(branch)


def layer_suffix(module: str, depths: Sequence[int]) -> str:
    """What the authors' names of a convolution and its BN have in common: `2a_branch2a`.

    Blocks are counted a, b, c, ... and, in the long stages of 101 and 152 layers, a, b1, b2, ...
    `depths` is the number of blocks in each stage.
    """
    if module == "conv1":
        return module
    stage, block, part = module.split(".")[:3]
    number, depth = int(block), depths[int(stage[5:]) - 1]
    lettered = number == 0 or depth <= 3 or sum(depths) <= 16
    position = chr(ord("a") + number) if lettered else f"b{number}"
    branch = "1" if part == "downsample" else "2" + "abc"[int(part[4:]) - 1]
    return f"{int(stage[5:]) + 1}{position}_branch{branch}"


def conv_and_bn_names(suffix: str) -> tuple[str, str]:
    """The authors' names of a convolution and of its BN, from their `layer_suffix`."""
    return (suffix, f"bn_{suffix}") if suffix == "conv1" else (f"res{suffix}", f"bn{suffix}")


def bn_of(conv: str) -> str:
    """The module name of the BN that follows a convolution of our networks."""
    if conv.endswith("downsample.0"):
        return conv.removesuffix("0") + "1"
    return conv.replace("conv", "bn")


def convolutions(network: ResidualNetwork) -> list[str]:
    """Module names of all convolutions; a BN follows each."""
    found = (re.fullmatch(r"(.*(?:conv\d|downsample\.0))\.weight", n) for n in network.state_dict())
    return [match[1] for match in found if match]


class GraphWriter(Protocol):
    """Appends layers to the graph of a file format; each method returns its output's name."""

    def input(self) -> str:
        """The image."""

    def conv(self, suffix: str, x: str, filters: int, size: int, stride: int) -> str:
        """A convolution padded by size // 2, then BN; `suffix` as from `layer_suffix`."""

    def relu(self, name: str, x: str) -> str:
        """A ReLU."""

    def pool(self, x: str, ceil: bool) -> str:
        """The stem's 3x3/2 max pool: rounded up, or padded by one pixel."""

    def add(self, name: str, x: str, y: str) -> str:
        """A sum."""

    def head(self, x: str, classes: int) -> str:
        """Global average pool, classifier and softmax."""


def unsupported_part(row: Architecture) -> str:
    """The part of a network that no ImageNet network of the paper has, in words; "" if none.

    Formats of other programs support only networks without such parts.
    """
    if row.stem != "imagenet":
        return f"the {'CIFAR stem' if row.stem == 'cifar' else 'stem for small images'}"
    if row.block not in ("basic", "bottleneck"):
        return "blocks of one layer"
    if row.shortcut == "highway":
        return "gates"
    return "the pre-activation order" if row.order == "pre" else ""


def write_graph(row: Architecture, writer: GraphWriter, program: str) -> str:
    """Append all layers of a network to a graph of `program`; returns the name of its output.

    Raises:
        UserError: if the network is not one of Table 1, or has shortcuts of option A.
    """
    part = unsupported_part(row) or ("shortcuts of option A" if row.shortcut == "A" else "")
    if part:
        raise UserError(f"{part} cannot be written for {program}", hint="use --to resnets")
    x = writer.relu("conv1", writer.conv("conv1", writer.input(), row.widths[0], 7, 2))
    x, channels = writer.pool(x, row.pool == "ceil"), row.widths[0]
    for stage, (depth, width) in enumerate(zip(row.depths, row.widths, strict=True), 1):
        for i in range(depth):
            stride = 2 if stage > 1 and i == 0 else 1
            parts = row.convolutions(width, stride, i)
            projects = row.shortcut == "C" or channels != parts[-1].filters or stride != 1
            x = _write_block(row, writer, x, f"layer{stage}.{i}", parts, stride if projects else 0)
            channels = parts[-1].filters
    return writer.head(x, row.classes)


def _write_block(
    row: Architecture,
    writer: GraphWriter,
    x: str,
    block: str,
    parts: Sequence[Convolution],
    projection: int,
) -> str:
    """Append a block; returns its output's name.

    `projection` is the stride of the projection on its shortcut, 0 if it has none.
    """
    y = x
    for number, (size, filters, stride) in enumerate(parts, 1):
        suffix = layer_suffix(f"{block}.conv{number}", row.depths)
        y = writer.conv(suffix, y, filters, size, stride)
        if number < len(parts):
            y = writer.relu(suffix, y)
    name = layer_suffix(f"{block}.conv1", row.depths).removesuffix("_branch2a")
    if row.shortcut != "none":
        if projection:
            suffix = layer_suffix(f"{block}.downsample.0", row.depths)
            x = writer.conv(suffix, x, parts[-1].filters, 1, projection)
        y = writer.add(name, x, y)
    return writer.relu(name, y)


def caffe_preprocessing(size: int = 224, mean: Tensor | None = None) -> Preprocessing:
    """Pixels of 0..255 less a mean, undivided, as the authors' models and Keras expect them.

    Args:
        size: side of the input in pixels.
        mean: (3, 1, 1) or (3, size, size), RGB, on the scale 0..1; the authors' by default.
    """
    if mean is None:
        mean = torch.tensor(CAFFE_MEAN)[:, None, None] / 255
    return Preprocessing(
        size, round(size * 256 / 224), mean=mean, std=torch.full((3, 1, 1), 1 / 255)
    )


def rgb_state_dict(
    convolutions: Mapping[str, tuple[Tensor, Tensor | None]],
    norms: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor, float]],
    classifier: tuple[Tensor, Tensor] | None,
    location: str = "",
) -> dict[str, Tensor]:
    """The state dict of a network for RGB images, from the layers of one for BGR images; exact.

    A convolution's bias b goes into the mean of the BN after it: (x + b) - m = x - (m - b).
    Another eps goes into the variance: v + eps = (v + eps - 1e-5) + 1e-5.

    Args:
        convolutions: weight (out, in, H, W) and bias (out,), by module.
        norms: gamma, beta, mean, variance (channels,) and eps, by module.
        classifier: weight (classes, in) and bias (classes,).
        location: the file, for messages.

    Raises:
        UserError: if the shapes of a layer's tensors do not match.
    """

    def check(name: str, dimensions: int, weight: Tensor, *vectors: Tensor) -> None:
        if weight.ndim != dimensions or any(v.shape != weight.shape[:1] for v in vectors):
            shapes = ", ".join(str(tuple(t.shape)) for t in (weight, *vectors))
            raise UserError(f"the tensors of {name} do not match: {shapes}", location)

    state: dict[str, Tensor] = {}
    for name, (weight, bias) in convolutions.items():
        norm = bn_of(name)
        check(name, 4, weight, *norms.get(norm, ())[:4], *(() if bias is None else (bias,)))
        state[f"{name}.weight"] = weight.flip(1) if name == "conv1" else weight
        if norm in norms:
            gamma, beta, mean, variance, eps = norms[norm]
            shift = 0.0 if bias is None else bias.double()
            state[f"{norm}.weight"], state[f"{norm}.bias"] = gamma, beta
            state[f"{norm}.running_mean"] = (mean.double() - shift).float()
            state[f"{norm}.running_var"] = (variance.double() + (eps - BN_EPS)).float()
            state[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    if classifier is not None:
        check("fc", 2, *classifier)
        state["fc.weight"], state["fc.bias"] = classifier
    return {name: tensor.contiguous() for name, tensor in state.items()}


def bgr_state_dict(network: ResidualNetwork, preprocessing: Preprocessing) -> dict[str, Tensor]:
    """Weights for BGR images of 0..255 less the mean; the first convolution divides by the std."""
    state = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    std = torch.ones(3, 1, 1) if preprocessing.std is None else preprocessing.std
    scale = 255 * std.double()
    if torch.allclose(scale, torch.ones_like(scale), rtol=1e-6):
        scale = torch.ones_like(scale)
    state["conv1.weight"] = (state["conv1.weight"].double() / scale).float().flip(1)
    return state
