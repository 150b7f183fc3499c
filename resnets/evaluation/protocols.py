"""Test protocols: how an image is shown to a network (section 3.4).

`docs/protocols.md` states what the paper leaves open and what is chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from resnets.data.preprocessing import (
    Preprocessing,
    resize_shorter,
    scaled_size,
    to_tensor,
)
from resnets.models.batch_norm import evaluating
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError, nearest

NAMES = ("center", "ten-crop", "dense")
CROP = 224
SIDES = (224, 256, 384, 480, 640)
"""Shorter sides of dense testing (section 3.4), for a network trained on crops of `CROP` pixels."""
MAX_ASPECT = 20
"""Largest ratio of an image's sides that dense testing accepts."""

Shape = tuple[int, int]
"""Height and width."""
Scorer = Callable[[Tensor], Tensor]
"""uint8 images (N, 3, H, W), RGB, to class probabilities, float32 (N, classes)."""


class Views(Protocol):
    """A test protocol: the views of an image whose class probabilities are averaged."""

    flips: ClassVar[bool]
    """Whether the mirror image of every view is a view, too."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The network's preprocessing; its size is that of the crops."""

    @property
    def window(self) -> int | None:
        """Side of the last feature map's window that the classifier is applied to, at every
        location; None to apply it once, to the whole map."""

    @property
    def protocol(self) -> str:
        """The protocol in words, for results."""

    def shapes(self, width: int, height: int) -> tuple[Shape, ...]:
        """Shape of the views of an image of this size, at every scale."""

    def apply(self, image: Image.Image) -> list[Tensor]:
        """The views of an image at every scale, without mirror images: uint8 (views, 3, H, W).

        Raises:
            UserError: if the protocol does not suit the image.
        """


@dataclass(frozen=True)
class Center:
    """One crop from the centre of the scaled image."""

    preprocessing: Preprocessing
    flips: ClassVar[bool] = False
    window: ClassVar[int | None] = None

    @property
    def protocol(self) -> str:
        size, resize = self.preprocessing.size, self.preprocessing.resize
        return f"centre crop of {size} pixels from shorter side {resize}"

    def shapes(self, width: int, height: int) -> tuple[Shape, ...]:
        return ((self.preprocessing.size, self.preprocessing.size),)

    def apply(self, image: Image.Image) -> list[Tensor]:
        return [to_tensor(self.preprocessing.crop(image))[None]]


@dataclass(frozen=True)
class TenCrop(Center):
    """Crops from the corners and the centre of the scaled image, and their mirror images."""

    flips: ClassVar[bool] = True

    @property
    def protocol(self) -> str:
        size, resize = self.preprocessing.size, self.preprocessing.resize
        return f"10 crops of {size} pixels from shorter side {resize}, softmax averaged"

    def apply(self, image: Image.Image) -> list[Tensor]:
        p = self.preprocessing
        width, height = scaled_size(*image.size, p.resize)
        right, bottom = width - p.size, height - p.size
        corners = ((0, 0), (right, 0), (0, bottom), (right, bottom))
        crops = [*(p.crop_at(image, left, top) for left, top in corners), p.crop(image)]
        return [torch.stack([to_tensor(crop) for crop in crops])]


@dataclass(frozen=True)
class Dense:
    """The whole image at several scales, the classifier at every location of the last map.

    Args:
        preprocessing: as in `Views`; its mean has one number per channel, because a mean image
            fits only crops.
        sides: shorter sides in pixels.
        window: side of the last feature map of a crop, over which the network's average pool
            goes.
    """

    preprocessing: Preprocessing
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

    def apply(self, image: Image.Image) -> list[Tensor]:
        if max(image.size) > MAX_ASPECT * min(image.size):
            raise UserError(
                f"the image is too narrow for dense testing ({image.width} x {image.height} "
                f"pixels; at most {MAX_ASPECT}:1)",
                hint="leave it out, or test with other --views",
            )
        interpolation = self.preprocessing.interpolation
        return [to_tensor(resize_shorter(image, side, interpolation))[None] for side in self.sides]


def refuse_unknown(name: str) -> None:
    """Raise `UserError` if there is no protocol called `name`."""
    if name not in NAMES:
        raise UserError(f"unknown views {name!r}", "--views", nearest(name, NAMES))


def make(
    name: str,
    network: nn.Module | None,
    preprocessing: Preprocessing,
    image_size: int | None = None,
) -> Views:
    """The protocol called `name`, for a network and its preprocessing.

    Args:
        network: only `dense` needs it.
        image_size: side of the crops in pixels, instead of the preprocessing's; all other sizes
            scale with it.

    Raises:
        UserError: if there is no such protocol, or it does not suit the network.
    """
    refuse_unknown(name)
    preprocessing = preprocessing.resized_to(image_size or preprocessing.size)
    if name == "center":
        return Center(preprocessing)
    if name == "ten-crop":
        return TenCrop(preprocessing)
    if not isinstance(network, ResidualNetwork):
        raise UserError(
            "dense testing needs a network without fully connected layers before its last",
            "--views dense",
            "use --views ten-crop",
        )
    preprocessing = replace(preprocessing, mean=preprocessing.mean.mean((1, 2), keepdim=True))
    sides = tuple(round(side * preprocessing.size / CROP) for side in SIDES)
    return Dense(preprocessing, sides, map_side(network, preprocessing.size))


@torch.no_grad()
def map_side(network: ResidualNetwork, size: int) -> int:
    """Side of the last feature map for a crop of `size` pixels: 7 for 224 (Table 1)."""
    device = next(network.parameters()).device
    with evaluating(network):
        maps = network.features(torch.zeros(1, 3, size, size, device=device))
    return maps[network.stage_names[-1]].shape[-1]


def network_scorer(
    network: nn.Module,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device,
    window: int | None = None,
) -> Scorer:
    """The class probabilities of a network, in evaluation mode and float32.

    Args:
        network: on `device`; its mode is restored after each call.
        normalize: uint8 images on `device` to the network's input.
        device: where to compute.
        window: as in `Views`: the softmax is averaged over all locations of the classifier.
    """

    @torch.no_grad()
    def score(images: Tensor) -> Tensor:
        inputs = normalize(images.to(device)).contiguous(memory_format=torch.channels_last)
        with evaluating(network):
            if window is None:
                probabilities: Tensor = network(inputs).float().softmax(1)
                return probabilities
            assert isinstance(network, ResidualNetwork)
            last = network.features(inputs)[network.stage_names[-1]]
            return network.dense_head(last, window).float().softmax(1).mean((2, 3))

    return score


def average_views(
    score: Scorer, scales: Sequence[Tensor], *, flips: bool, budget: int, device: torch.device
) -> Tensor:
    """Class probabilities of some images: the mean over all views, mirror images and scales.

    Args:
        score: images on `device` to probabilities.
        scales: the views at every scale, uint8 (images, views, 3, H, W).
        flips: whether to add the mirror image of every view.
        budget: pixels to score at a time, unless a single image has more.
        device: where to compute.

    Returns:
        float32 (images, classes).
    """
    means = []
    for views in scales:
        images, each, _, height, width = views.shape
        copies = 2 if flips else 1
        step = max(1, budget // (copies * each * height * width))
        parts = []
        for start in range(0, images, step):
            part = views[start : start + step].to(device).flatten(0, 1)
            if flips:  # before the mean image is subtracted, which is not mirrored
                part = torch.cat((part, part.flip(3)))
            scores = score(part)
            parts.append(scores.view(copies, -1, each, scores.shape[1]).mean((0, 2)))
        means.append(torch.cat(parts))
    return torch.stack(means).mean(0)
