"""How a test image is shown to a network: the paper's three protocols (section 3.4).

`docs/protocols.md` tells what the paper leaves open and what is chosen here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from resnets.data.preprocessing import (
    Normalize,
    Preprocessing,
    resize_shorter,
    scaled_size,
    to_tensor,
)
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError, nearest

NAMES = ("center", "ten-crop", "dense")
CROP = 224
SIDES = (224, 256, 384, 480, 640)  # section 3.4, for a network trained on crops of 224 pixels
NARROWEST = 20
"""A side that many times the other is too long to be scaled for dense testing."""

Shape = tuple[int, int]


class Views(Protocol):
    """A test protocol."""

    flips: ClassVar[bool]
    """Whether every picture is shown a second time, mirrored."""

    @property
    def look(self) -> Preprocessing:
        """The network's preprocessing; its size is that of the crops."""

    @property
    def protocol(self) -> str:
        """The protocol in words, for results."""

    def shapes(self, width: int, height: int) -> tuple[Shape, ...]:
        """Height and width of the pictures that an image of this size gives, at every scale."""

    def pictures(self, image: Image.Image) -> list[Tensor]:
        """The pictures of an image, without flips, at every scale: uint8 (pictures, 3, H, W).

        Raises:
            UserError: if the image cannot be shown like this.
        """

    def softmax(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Class probabilities (N, classes) of the network's inputs (N, 3, H, W)."""


@dataclass(frozen=True)
class Center:
    """One crop from the centre of the scaled image."""

    look: Preprocessing
    flips: ClassVar[bool] = False

    @property
    def protocol(self) -> str:
        return f"centre crop of {self.look.size} pixels from shorter side {self.look.resize}"

    def shapes(self, width: int, height: int) -> tuple[Shape, ...]:
        return ((self.look.size, self.look.size),)

    def pictures(self, image: Image.Image) -> list[Tensor]:
        look = self.look
        return [to_tensor(look.crop(image))[None]]

    def softmax(self, network: nn.Module, inputs: Tensor) -> Tensor:
        chances: Tensor = network(inputs).float().softmax(1)
        return chances


@dataclass(frozen=True)
class TenCrop:
    """Crops from the corners and the centre of the scaled image, and their mirror images."""

    look: Preprocessing
    flips: ClassVar[bool] = True

    @property
    def protocol(self) -> str:
        look = self.look
        return f"10 crops of {look.size} pixels from shorter side {look.resize}, softmax averaged"

    def shapes(self, width: int, height: int) -> tuple[Shape, ...]:
        return ((self.look.size, self.look.size),)

    def pictures(self, image: Image.Image) -> list[Tensor]:
        look = self.look
        width, height = scaled_size(*image.size, look.resize)
        right, bottom = width - look.size, height - look.size
        crops = [
            look.crop_at(image, left, top)
            for left, top in ((0, 0), (right, 0), (0, bottom), (right, bottom))
        ]
        crops.append(look.crop(image))
        return [torch.stack([to_tensor(crop) for crop in crops])]

    def softmax(self, network: nn.Module, inputs: Tensor) -> Tensor:
        chances: Tensor = network(inputs).float().softmax(1)
        return chances


@dataclass(frozen=True)
class Dense:
    """The whole image at several scales, the classifier at every location of the last map.

    Args:
        look: as in `Views`; its mean is one number for each channel, for a mean image fits
            only crops.
        sides: shorter sides in pixels.
        window: side of the last map for a crop; the average pool before the classifier has it.
    """

    look: Preprocessing
    sides: tuple[int, ...]
    window: int
    flips: ClassVar[bool] = True

    @property
    def protocol(self) -> str:
        sides = ", ".join(map(str, self.sides))
        return (
            f"fully convolutional at shorter sides {sides}, with flips, "
            "softmax averaged over locations, flips and scales"
        )

    def shapes(self, width: int, height: int) -> tuple[Shape, ...]:
        sizes = [scaled_size(width, height, side) for side in self.sides]
        return tuple((h, w) for w, h in sizes)

    def pictures(self, image: Image.Image) -> list[Tensor]:
        if max(image.size) > NARROWEST * min(image.size):
            raise UserError(
                f"the image is too narrow for dense testing ({image.width} x {image.height} "
                f"pixels; at most {NARROWEST}:1)",
                hint="leave it out, or test with other --views",
            )
        filtering = self.look.interpolation
        return [to_tensor(resize_shorter(image, side, filtering))[None] for side in self.sides]

    def softmax(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """The mean over the locations of the softmax at each."""
        assert isinstance(network, ResidualNetwork)
        last = network.features(inputs)[network.stage_names[-1]]
        logits = network.dense_head(last, self.window)
        return logits.float().softmax(1).mean((2, 3))


@torch.no_grad()
def map_side(network: ResidualNetwork, size: int) -> int:
    """Side of the last map for a crop of `size` pixels: 7 for 224 (Table 1)."""
    device, was_training = next(network.parameters()).device, network.training
    network.eval()  # so that BN's statistics stay as they are
    maps = network.features(torch.zeros(1, 3, size, size, device=device))
    network.train(was_training)
    return maps[network.stage_names[-1]].shape[-1]


def refuse_unknown(name: str) -> None:
    """Raise `UserError` if there is no protocol called `name`."""
    if name not in NAMES:
        raise UserError(f"unknown views {name!r}", "--views", nearest(name, NAMES))


def make(
    name: str, network: nn.Module, look: Preprocessing, image_size: int | None = None
) -> Views:
    """The protocol called `name`, for a network and its preprocessing.

    Args:
        image_size: crops of this many pixels instead of the preprocessing's size; the scales
            go with it.

    Raises:
        UserError: if there is no such protocol, or the network cannot be tested by it.
    """
    refuse_unknown(name)
    look = look.resized_to(image_size or look.size)
    if name == "center":
        return Center(look)
    if name == "ten-crop":
        return TenCrop(look)
    if not isinstance(network, ResidualNetwork):
        raise UserError(
            "dense testing needs a network without fully connected layers before its last",
            "--views dense",
            "use --views ten-crop",
        )
    look = replace(look, mean=look.mean.mean((1, 2), keepdim=True))
    sides = tuple(round(side * look.size / CROP) for side in SIDES)
    return Dense(look, sides, map_side(network, look.size))


@torch.no_grad()
def score(
    views: Views,
    network: nn.Module,
    normalize: Normalize,
    device: torch.device,
    scales: Sequence[Tensor],
    budget: int,
) -> Tensor:
    """Class probabilities of some images: the mean over all pictures, flips and scales.

    Args:
        views: the protocol.
        network: in evaluation mode, on `device`.
        normalize: pictures to the network's input, on `device`.
        scales: the pictures of every scale, uint8 (images, pictures, 3, H, W).
        budget: pixels that the network is given at a time, where one image has no more.

    Returns:
        float32 (images, classes).
    """
    means = []
    for pictures in scales:
        images, each, _, height, width = pictures.shape
        shown = each * (2 if views.flips else 1)
        step = max(1, budget // (shown * height * width))
        parts = []
        for start in range(0, images, step):
            part = pictures[start : start + step].to(device).flatten(0, 1)
            if views.flips:  # before the mean image is subtracted, which is not mirrored
                part = torch.cat((part, part.flip(3)))
            inputs = normalize(part).contiguous(memory_format=torch.channels_last)
            chances = views.softmax(network, inputs)
            parts.append(chances.view(shown // each, -1, each, chances.shape[1]).mean((0, 2)))
        means.append(torch.cat(parts))
    return torch.stack(means).mean(0)
