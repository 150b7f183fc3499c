"""From an image file's pixels to a network's input, as a model's card records it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from resnets.data.images import Interpolation

# Mean and deviation of ImageNet's training pixels, as torchvision's weights expect them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalize:
    """Subtracts a mean from pixels scaled to 0..1, then divides by a deviation.

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
        """uint8 (N, 3, H, W), RGB, to float32 (N, 3, H, W).

        A mean image of another size than the images' gives way to its channels' means: it
        fits only the crops that it was made from (section 3.4 and dense testing).

        Args:
            images: the pixels.
            shift: (N, 3), added to every pixel's red, green and blue on the scale 0..1.
        """
        mean = self.mean if self.mean.shape[1:] == images.shape[2:] else self._channel_mean
        rows = images.permute(0, 2, 3, 1)
        if rows.is_contiguous():
            return self._by_rows(rows, mean, shift).permute(0, 3, 1, 2)
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
        divisor = torch.ones(3, device=images.device) if self.std is None else self.std.flatten()
        offset = -mean.permute(1, 2, 0)[None]  # (1, H or 1, W or 1, 3)
        if shift is not None:
            offset = offset + shift[:, None, None, :]
        offset = (offset / divisor).expand(-1, -1, width, -1).flatten(2)
        scale = (1 / (255 * divisor)).repeat(width)
        pixels = images.reshape(count, height, width * 3).float().mul_(scale).add_(offset)
        return pixels.view(count, height, width, 3)


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input.

    Args:
        size: side in pixels of the network's input.
        resize: shorter side in pixels to which an image is scaled before its centre is cut out.
        mean: float32 (3, size, size) or (3, 1, 1), RGB, for pixels in 0..1.
        std: float32 (3, 1, 1), or None where nothing is divided.
        interpolation: how images are scaled.
    """

    size: int
    resize: int
    mean: Tensor
    std: Tensor | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.size < 1 or self.resize < self.size:
            raise ValueError(f"cannot cut {self.size} pixels out of {self.resize}")
        if self.mean.shape not in ((3, 1, 1), (3, self.size, self.size)):
            raise ValueError(f"the mean image is not {self.size} pixels a side")
        if self.std is not None and self.std.shape != (3, 1, 1):
            raise ValueError("the deviation is not one number for each of three channels")
        if self.std is not None and not bool(((self.std > 0) & self.std.isfinite()).all()):
            raise ValueError(f"cannot divide by the deviation {self.std.flatten().tolist()}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"unknown interpolation {self.interpolation!r}")

    def normalize(self, device: torch.device) -> Normalize:
        """From uint8 images to the network's input, on `device`."""
        std = None if self.std is None else self.std.to(device)
        return Normalize(self.mean.to(device), std)

    def resized_to(self, size: int) -> Preprocessing:
        """The same for inputs of another size; margins around the centre scale with it."""
        if size == self.size:
            return self
        mean = self.mean.mean((1, 2), keepdim=True)
        resize = round(size * self.resize / self.size)
        return Preprocessing(size, resize, mean, self.std, self.interpolation)


def imagenet() -> Preprocessing:
    """What torchvision's ImageNet weights expect: 224 pixels from the centre of 256."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return Preprocessing(224, 256, mean, std)
