"""Random training crops of photographs, each a pure function of (seed, epoch, image).

The section [photos] of a recipe describes them. The crops and flips of CIFAR-10 are in
`cifar10_batches`; the section [augment] describes those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.images import decode, upright_size
from resnets.data.preprocessing import Box, CentralCrop, Interpolation, resized_crop, scaled_size

CropKind = Literal["scale", "area", "centre"]

# Eigenvalues and eigenvectors (columns) of the colours of ImageNet's training pixels, RGB in
# 0..1, as fb.resnet.torch published them. Section 3.4 says "the standard colour augmentation"
# of AlexNet without numbers; docs/data.md discusses these.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
PCA_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)
_AREA_TRIES = 10
"""How often a crop by area is drawn again when it does not fit into the image."""


@dataclass(frozen=True)
class Augmentation:
    """How a training image is cropped, mirrored and recoloured.

    Args:
        kind: `scale`: the paper's, a square of `size` pixels from the image with its shorter
            side scaled to one of `sides` (section 3.4); `area`: a part of the image of
            a random area and shape, scaled to `size`; `centre`: the central crop of a test.
        size: side in pixels of the network's input.
        sides: smallest and largest shorter side, in pixels, for `scale`; all are equally likely.
        areas: smallest and largest share of the image's area, for `area`.
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


@dataclass(frozen=True)
class Crop:
    """What was drawn for one image.

    Args:
        box: the crop in the upright image's pixels.
        shorter: shorter side, in pixels, to which the image may be scaled before cropping.
        flip: whether the crop is mirrored.
        shift: float32 (3,), to be added to red, green and blue on the scale 0..1.
    """

    box: Box
    shorter: int
    flip: bool
    shift: NDArray[np.float32]


def draw_crop(
    width: int, height: int, augmentation: Augmentation, random: np.random.Generator
) -> Crop:
    """Draw the crop of an upright image of this size; the decoder makes no difference."""
    size = augmentation.size
    if augmentation.kind == "area":
        box: Box = draw_area_box(width, height, augmentation.areas, random)
        # No smaller than the box needs to fill the crop.
        part = min(box[2] - box[0], box[3] - box[1]) / min(width, height)
        shorter = math.ceil(size / part)
    elif augmentation.kind == "scale":
        shorter = int(random.integers(augmentation.sides[0], augmentation.sides[1] + 1))
        scaled = scaled_size(width, height, shorter)
        left, top = random.integers(0, [scaled[0] - size + 1, scaled[1] - size + 1]).tolist()
        box = CentralCrop(size, shorter).box_at(width, height, left, top)
    else:
        shorter = augmentation.resize
        box = CentralCrop(size, shorter).box(width, height)
    flip = bool(augmentation.flip and random.random() < 0.5)
    return Crop(box, shorter, flip, draw_colour_shift(random, augmentation.colour))


def draw_area_box(
    width: int, height: int, areas: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw a random part of an image: left, top, right and bottom in pixels.

    Its share of the area is uniform in `areas`, its shape log-uniform between 3:4 and 4:3
    (GoogLeNet's training crop). If none of `_AREA_TRIES` fits: the largest central square.
    """
    for _ in range(_AREA_TRIES):
        area = random.uniform(*areas) * width * height
        shape = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.integers(0, [width - w + 1, height - h + 1])
            return int(left), int(top), int(left) + w, int(top) + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def draw_colour_shift(random: np.random.Generator, deviation: float) -> NDArray[np.float32]:
    """AlexNet's colour augmentation: [p1 p2 p3] [a1 l1, a2 l2, a3 l3], a ~ N(0, deviation)."""
    if not deviation:
        return np.zeros(3, np.float32)
    alphas = random.normal(0, deviation, 3)
    shift: NDArray[np.float32] = (PCA_VECTORS @ (alphas * PCA_VALUES)).astype(np.float32)
    return shift


def load_augmented(
    content: bytes,
    name: str,
    augmentation: Augmentation,
    *,
    random: np.random.Generator,
    out: NDArray[np.uint8],
) -> NDArray[np.float32]:
    """Decode one image, crop and mirror it at random, and write its pixels to `out`.

    Args:
        content: the image file.
        name: for messages.
        augmentation: what is done.
        random: decides all that is left to chance.
        out: uint8 (size, size, 3), RGB.

    Returns:
        The shift (3,) of red, green and blue on the scale 0..1, which the caller adds.

    Raises:
        ImageError: if the image cannot be read.
    """
    # Only JPEGs can be decoded at a smaller scale, for which their size must be known before.
    whole = None if content.startswith(b"\xff\xd8") else decode(content, name)
    width, height = upright_size(content, name) if whole is None else whole.size
    crop = draw_crop(width, height, augmentation, random)
    image = whole or decode(content, name, crop.shorter)
    x, y = image.width / width, image.height / height
    left, top, right, bottom = crop.box
    box = (left * x, top * y, min(right * x, image.width), min(bottom * y, image.height))
    cropped = resized_crop(image, box, augmentation.size, augmentation.interpolation)
    if crop.flip:  # by Pillow, in a third of the time that NumPy takes
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    out[:] = np.asarray(cropped)
    return crop.shift
