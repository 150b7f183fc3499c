"""From a decoded image to a network's input: scaling, cropping, normalising.

PyTorch is imported only where a tensor is made: importing it takes seconds, and predictions with
other engines do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Interpolation = Literal["bilinear", "bicubic"]
Box = tuple[float, float, float, float]
"""Left, top, right and bottom in an image's pixels."""

# Mean and standard deviation of ImageNet's training pixels, as torchvision's weights expect them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_SIDE = 4096
"""Of a network's input in pixels. Larger ones are taken for a mistake: they need gigabytes each."""
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def scaled_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height of an image whose shorter side is scaled to `shorter` pixels."""
    if width <= height:
        return shorter, max(shorter, int(shorter * height / width))
    return max(shorter, int(shorter * width / height)), shorter


def resize_shorter(
    image: Image.Image, shorter: int, interpolation: Interpolation = "bilinear"
) -> Image.Image:
    """Scale a whole image so that its shorter side has `shorter` pixels."""
    size = scaled_size(*image.size, shorter)
    return image if image.size == size else image.resize(size, _FILTERS[interpolation])


def resized_crop(
    image: Image.Image, box: Box, size: int, interpolation: Interpolation = "bilinear"
) -> Image.Image:
    """Cut a box out of an image and scale it to a square of `size` pixels."""
    return image.resize((size, size), _FILTERS[interpolation], box)


@dataclass(frozen=True)
class CentralCrop:
    """The square in the middle of an image after its shorter side was scaled.

    Args:
        size: side in pixels of the square.
        resize: pixels to which the image's shorter side is scaled.
        interpolation: how the image is scaled.
    """

    size: int
    resize: int
    interpolation: Interpolation = "bilinear"

    def crop(self, image: Image.Image) -> Image.Image:
        """The central square of an image."""
        return resized_crop(image, self.box(*image.size), self.size, self.interpolation)

    def crop_at(self, image: Image.Image, left: int, top: int) -> Image.Image:
        """The square that begins at column `left` and row `top` of the scaled image.

        Only the pixels of the square are computed.
        """
        box = self.box_at(*image.size, left, top)
        return resized_crop(image, box, self.size, self.interpolation)

    def box(self, width: int, height: int) -> Box:
        """Which part of an image of this size `crop` shows."""
        scaled_width, scaled_height = scaled_size(width, height, self.resize)
        left, top = round((scaled_width - self.size) / 2), round((scaled_height - self.size) / 2)
        return self.box_at(width, height, left, top)

    def box_at(self, width: int, height: int, left: int, top: int) -> Box:
        """Which part of an image of this size `crop_at` shows."""
        scaled_width, scaled_height = scaled_size(width, height, self.resize)
        x, y = width / scaled_width, height / scaled_height
        right, bottom = (left + self.size) * x, (top + self.size) * y
        return left * x, top * y, min(right, width), min(bottom, height)


@dataclass(frozen=True)
class Preprocessing(CentralCrop):
    """How an image becomes a network's input: a central crop, normalised.

    Args:
        size, resize, interpolation: as for `CentralCrop`.
        mean: float32 (3, size, size) or (3, 1, 1), RGB, subtracted from pixels in 0..1.
        std: float32 (3, 1, 1), by which the difference is divided; None for no division.

    Raises:
        ValueError: if the sizes and shapes do not fit, a side has more than `MAX_SIDE` pixels, the
            mean is not finite, or `std` cannot be divided by.
    """

    mean: Tensor = field(kw_only=True)
    std: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.size < 1 or self.resize < self.size:
            raise ValueError(f"cannot crop {self.size} pixels out of {self.resize}")
        if self.size > MAX_SIDE:
            raise ValueError(f"crops of {self.size:,} pixels, more than {MAX_SIDE:,}")
        if not bool(self.mean.isfinite().all()):
            raise ValueError("the mean is not finite numbers")
        if self.mean.shape not in ((3, 1, 1), (3, self.size, self.size)):
            raise ValueError(f"the mean image is not {self.size} pixels a side")
        if self.std is not None and self.std.shape != (3, 1, 1):
            raise ValueError("the standard deviation is not one number for each of three channels")
        if self.std is not None and not bool(((self.std > 0) & self.std.isfinite()).all()):
            deviations = self.std.flatten().tolist()
            raise ValueError(f"cannot divide by the standard deviation {deviations}")
        if self.interpolation not in _FILTERS:
            raise ValueError(f"unknown interpolation {self.interpolation!r}")

    def normalize(self, device: torch.device) -> Normalize:
        """The step from uint8 pixels to the network's input, on `device`."""
        std = None if self.std is None else self.std.to(device)
        return Normalize(self.mean.to(device), std)

    def resized_to(self, size: int) -> Preprocessing:
        """The same for inputs of another size; the margin around the crop scales with it."""
        if size == self.size:
            return self
        resize = round(size * self.resize / self.size)
        return replace(self, size=size, resize=resize, mean=self.mean.mean((1, 2), keepdim=True))


def imagenet() -> Preprocessing:
    """What torchvision's ImageNet weights expect: 224 pixels from the centre of 256."""
    import torch

    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return Preprocessing(size=224, resize=256, mean=mean, std=std)


class Normalize:
    """Scales pixels to 0..1, subtracts a mean, and divides by a standard deviation.

    The paper subtracts the mean only; then `std` is None. Other weights were trained with a
    deviation, or on pixels of 0..255, which is a deviation of 1/255.

    Args:
        mean: float32 (3, H, W), the mean image, or (3, 1, 1), the mean of each channel.
        std: float32 (3, 1, 1).
    """

    def __init__(self, mean: Tensor, std: Tensor | None = None) -> None:
        self.mean, self.std = mean, std
        self._channel_mean = mean.mean((1, 2), keepdim=True)

    def __call__(self, images: Tensor, shift: Tensor | None = None) -> Tensor:
        """Normalise uint8 RGB images (N, 3, H, W) to float32 (N, 3, H, W).

        For images of another size than the mean image the channels' means are subtracted: a
        mean image fits only the crops that it was made from (section 3.4 and dense testing).

        Args:
            images: the pixels.
            shift: (N, 3), added to every pixel's red, green and blue on the scale 0..1.
        """
        mean = self.mean if self.mean.shape[1:] == images.shape[2:] else self._channel_mean
        channels_last = images.permute(0, 2, 3, 1)
        if channels_last.is_contiguous():
            return self._by_rows(channels_last, mean, shift).permute(0, 3, 1, 2)
        pixels = images.float().mul_(1 / 255)
        if shift is not None:
            pixels += shift[:, :, None, None]
        pixels -= mean
        return pixels if self.std is None else pixels.div_(self.std)

    def _by_rows(self, images: Tensor, mean: Tensor, shift: Tensor | None) -> Tensor:
        """The same for images (N, H, W, 3), as one product and one sum of whole rows.

        Operations with three numbers for the last dimension would take ten times as long.
        """
        count, height, width, _ = images.shape
        divisor = mean.new_ones(3) if self.std is None else self.std.flatten()
        offset = -mean.permute(1, 2, 0)[None]  # (1, H or 1, W or 1, 3)
        if shift is not None:
            offset = offset + shift[:, None, None, :]
        offset = (offset / divisor).expand(-1, -1, width, -1).flatten(2)
        scale = (1 / (255 * divisor)).repeat(width)
        pixels = images.reshape(count, height, width * 3).float().mul_(scale).add_(offset)
        return pixels.view(count, height, width, 3)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """RGB pixels as uint8 (3, H, W)."""
    # NumPy copies: PyTorch would start threads for so little, which then spin for more work.
    return np.array(np.asarray(image).transpose(2, 0, 1), order="C")


def to_tensor(image: Image.Image) -> Tensor:
    """RGB pixels as uint8 (3, H, W)."""
    import torch

    return torch.from_numpy(to_array(image))


def stack(pixels: Sequence[Tensor]) -> Tensor:
    """Images uint8 (3, H, W) as a batch (N, 3, H, W)."""
    import torch

    return torch.from_numpy(np.stack([image.numpy() for image in pixels]))  # as in `to_array`
