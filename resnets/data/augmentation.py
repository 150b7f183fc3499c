"""Training crops of photographs, each a pure function of (seed, epoch, image)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.images import (
    Interpolation,
    central,
    cut_box,
    decode,
    scaled_size,
    square,
    upright_size,
)

CropKind = Literal["scale", "area", "centre"]

# Eigenvalues and eigenvectors (columns) of the colours of ImageNet's training pixels, RGB in
# 0..1, as fb.resnet.torch published them. Section 3.4 says "the standard colour augmentation"
# of AlexNet and gives no numbers; docs/data.md tells what they are worth.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
TRIES = 10
"""How often a crop by area is drawn anew when it does not fit into the image."""


@dataclass(frozen=True)
class Augmentation:
    """How a training image is shown.

    Args:
        kind: `scale`: the paper's, a square of `size` pixels from the image with its shorter
            side scaled to one of `sides` (section 3.4); `area`: a part of the image of
            a random area and shape, scaled to `size`; `centre`: as in a test.
        size: pixels a side of what the network sees.
        sides: first and last shorter side, in pixels, for `scale`; each is as likely.
        areas: smallest and largest part of the image's area, for `area`.
        resize: shorter side before the central crop, in pixels, for `centre`.
        flip: whether half of the images are mirrored.
        colour: standard deviation of the three PCA coefficients; 0 for none.
        interpolation: how images are scaled.
    """

    kind: CropKind
    size: int
    sides: tuple[int, int] = (256, 480)
    areas: tuple[float, float] = (0.08, 1.0)
    resize: int = 256
    flip: bool = True
    colour: float = 0.1
    interpolation: Interpolation = "bilinear"


def show(
    content: bytes,
    name: str,
    look: Augmentation,
    random: np.random.Generator,
    out: NDArray[np.uint8],
) -> NDArray[np.float32]:
    """Decode one image, crop it by `random`, and write its pixels to `out`.

    Args:
        content: the image file.
        name: for messages.
        look: what to do.
        random: decides everything that is left to chance.
        out: uint8 (size, size, 3), RGB.

    Returns:
        The shift (3,) of red, green and blue on the scale 0..1 that the caller adds.

    Raises:
        UserError: if the image cannot be read.
    """
    # Only JPEGs can be decoded smaller, for which their size must be known beforehand.
    whole = None if content.startswith(b"\xff\xd8") else decode(content, name)
    width, height = upright_size(content, name) if whole is None else whole.size
    crop = draw(width, height, look, random)
    image = whole or decode(content, name, crop.shorter)
    x, y = image.width / width, image.height / height
    left, top, right, bottom = crop.box
    box = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
    cropped = cut_box(image, box, look.size, look.interpolation)
    if crop.flip:  # in a third of the time that numpy takes
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    out[:] = np.asarray(cropped)
    return crop.shift


@dataclass(frozen=True)
class Crop:
    """What is shown of an image.

    Args:
        box: left, top, right and bottom in the upright image's pixels.
        shorter: to this shorter side, in pixels, the image may be scaled before it is cropped.
        flip: whether the crop is mirrored.
        shift: float32 (3,), to be added to red, green and blue on the scale 0..1.
    """

    box: tuple[float, float, float, float]
    shorter: int
    flip: bool
    shift: NDArray[np.float32]


def draw(width: int, height: int, look: Augmentation, random: np.random.Generator) -> Crop:
    """The crop of an image of so many pixels, whoever decodes it."""
    size = look.size
    if look.kind == "area":
        box: tuple[float, float, float, float] = area_box(width, height, look.areas, random)
        # No smaller than the box needs to fill the crop.
        part = min(box[2] - box[0], box[3] - box[1]) / min(width, height)
        shorter = math.ceil(size / part)
    else:
        shorter = look.resize
        if look.kind == "scale":
            shorter = int(random.integers(look.sides[0], look.sides[1] + 1))
        scaled = scaled_size(width, height, shorter)
        left, top = central(*scaled, size)
        if look.kind == "scale":
            left, top = random.integers(0, [scaled[0] - size + 1, scaled[1] - size + 1]).tolist()
        box = square(width, height, shorter, left, top, size)
    flip = bool(look.flip and random.random() < 0.5)
    return Crop(box, shorter, flip, colour_shift(random, look.colour))


def colour_shift(random: np.random.Generator, deviation: float) -> NDArray[np.float32]:
    """AlexNet's colour augmentation: [p1 p2 p3] [a1 l1, a2 l2, a3 l3], a ~ N(0, deviation)."""
    if not deviation:
        return np.zeros(3, np.float32)
    alphas = random.normal(0, deviation, 3)
    shift: NDArray[np.float32] = (PCA_VECTORS @ (alphas * PCA_VALUES)).astype(np.float32)
    return shift


def area_box(
    width: int, height: int, areas: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random part of an image.

    Its area is a uniform part of the image's, its shape log-uniform between 3:4 and 4:3 (the
    crop of GoogLeNet's training). Where none of `TRIES` fits: the largest central square.
    """
    for _ in range(TRIES):
        area = random.uniform(*areas) * width * height
        shape = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.integers(0, [width - w + 1, height - h + 1])
            return int(left), int(top), int(left) + w, int(top) + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
