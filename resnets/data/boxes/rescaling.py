"""The size in which a detector sees an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.boxes.annotations import AnnotatedImage, Box
from resnets.data.images import decode
from resnets.support.errors import UserError


@dataclass(frozen=True)
class Rescaling:
    """Scales the whole image: its shorter side to `size` pixels, its longer one to `longest` at
    most (Faster R-CNN, section 3.3).

    Args:
        size: of the shorter side.
        longest: limit of the longer side; long images get a shorter side below `size`.
    """

    size: int
    longest: int

    def times(self, factor: float) -> Rescaling:
        """The same for images that are larger by a factor."""
        return Rescaling(max(1, round(factor * self.size)), max(1, round(factor * self.longest)))

    def at_side(self, side: int) -> Rescaling:
        """The same to another shorter side; the limit of the longer one scales, too."""
        return Rescaling(side, round(self.longest * side / self.size))

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of an image of this size after scaling, each at least one pixel."""
        scale = min(self.size / min(width, height), self.longest / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def apply(self, image: Image.Image) -> Image.Image:
        """The scaled image."""
        size = self.scaled(*image.size)
        return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def load_scaled(image: AnnotatedImage, rescaling: Rescaling) -> NDArray[np.uint8]:
    """Read an image file: upright, scaled, uint8 (H, W, 3).

    Raises:
        UserError: if it cannot be read.
    """
    try:
        content = image.path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"the image cannot be read ({reason})", str(image.path)) from error
    size = rescaling.scaled(image.width, image.height)
    upright = decode(content, str(image.path), min(size))
    if upright.size != size:
        upright = upright.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(upright)


def scale_boxes(
    boxes: Sequence[Box] | NDArray[np.float32], old: tuple[int, int], new: tuple[int, int]
) -> NDArray[np.float32]:
    """Boxes (k, 4) of an image of width and height `old` in the same image of size `new`."""
    factors = np.array([new[0] / old[0], new[1] / old[1]] * 2)
    scaled: NDArray[np.float32] = (np.array(boxes).reshape(-1, 4) * factors).astype(np.float32)
    return scaled
