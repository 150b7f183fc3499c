"""Image files of any kind as the uint8 pixels that a network looks at."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from resnets.support.errors import UserError

MOST_PIXELS = 100_000_000


def read_image(path: Path) -> Image.Image:
    """An image file as upright RGB.

    Raises:
        UserError: if it is missing, empty, truncated, not an image, or larger than
            `MOST_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise _too_large(path, f"{width} x {height} pixels")
                upright = ImageOps.exif_transpose(image)
                return _as_rgb(upright)
    except FileNotFoundError as error:
        raise UserError("no such image", str(path)) from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, "over 178 million pixels") from error
    except UnidentifiedImageError as error:
        empty = path.is_file() and path.stat().st_size == 0
        what = "the file is empty" if empty else "not an image"
        raise UserError(what, str(path)) from error
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:
        raise UserError(f"the image cannot be read ({error})", str(path)) from error


def _too_large(path: Path, size: str) -> UserError:
    return UserError(
        f"the image is too large ({size}; at most {MOST_PIXELS // 1_000_000} million)",
        str(path),
        "scale it down first",
    )


def _as_rgb(image: Image.Image) -> Image.Image:
    """RGB over white where the image is transparent; 16-bit grey scaled to 8."""
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image, np.float64)
        return Image.fromarray((wide / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def to_input(image: Image.Image, size: int) -> Tensor:
    """The centre square of an image, its shorter side resized to `size`: uint8 (3, size, size)."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
