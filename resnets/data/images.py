"""Image files of any kind as the uint8 pixels that a network looks at."""

from __future__ import annotations

import io
import math
import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from resnets.data.preprocessing import Interpolation
from resnets.support.errors import UserError

MOST_PIXELS = 100_000_000
_KINDS = "avif bmp gif jpe jpeg jpg pgm png pnm ppm tif tiff webp"
EXTENSIONS = frozenset(f".{kind}" for kind in _KINDS.split())
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ORIENTATION = 0x0112  # EXIF's tag


def read_image(path: Path) -> Image.Image:
    """An image file as upright RGB.

    Raises:
        UserError: if it is missing, empty, truncated, not an image, or larger than
            `MOST_PIXELS`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError("no such image", str(path)) from error
    except OSError as error:
        raise UserError(f"the image cannot be read ({error})", str(path)) from error
    return decode(content, str(path))


def decode(content: bytes, name: str, shorter: int | None = None) -> Image.Image:
    """The content of an image file as upright RGB.

    Greyscale, CMYK, palette, 16-bit and transparent images are converted (over white), and
    turned as their EXIF data say.

    Args:
        content: the whole file.
        name: for messages.
        shorter: JPEGs may be decoded at a smaller scale (a half, quarter or eighth) as long
            as their shorter side keeps this many pixels, which saves time.

    Raises:
        UserError: if it is empty, truncated, not an image, or larger than `MOST_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise _too_large(name, f"{width} x {height} pixels")
                if shorter is not None and min(width, height) >= 2 * shorter:
                    scale = shorter / min(width, height)
                    image.draft(None, (math.ceil(width * scale), math.ceil(height * scale)))
                return _as_rgb(_upright(image))
    except Image.DecompressionBombError as error:
        raise _too_large(name, "over 178 million pixels") from error
    except UnidentifiedImageError as error:
        raise UserError("not an image" if content else "the file is empty", name) from error
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error) as error:
        raise UserError(f"the image cannot be read ({error})", name) from error


def upright_size(content: bytes, name: str) -> tuple[int, int]:
    """Width and height of an image file once it is turned upright; only its head is read.

    Raises:
        UserError: if it is not an image, or larger than Pillow opens.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                turned = image.getexif().get(ORIENTATION, 1) >= 5
    except Image.DecompressionBombError as error:
        raise _too_large(name, "over 178 million pixels") from error
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error) as error:
        raise UserError("not an image" if content else "the file is empty", name) from error
    return (height, width) if turned else (width, height)


def _too_large(name: str, size: str) -> UserError:
    return UserError(
        f"the image is too large ({size}; at most {MOST_PIXELS // 1_000_000} million)",
        name,
        "scale it down first",
    )


def _upright(image: Image.Image) -> Image.Image:
    # Asked first: `exif_transpose` copies images that need no turning.
    if image.getexif().get(ORIENTATION, 1) == 1:
        return image
    return ImageOps.exif_transpose(image)


def _as_rgb(image: Image.Image) -> Image.Image:
    """RGB over white where the image is transparent; 16-bit grey scaled to 8."""
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image, np.float64)
        return Image.fromarray((wide / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def resize_shorter(
    image: Image.Image, shorter: int, interpolation: Interpolation = "bilinear"
) -> Image.Image:
    """The whole image with its shorter side scaled to `shorter` pixels."""
    size = scaled_size(*image.size, shorter)
    return image if image.size == size else image.resize(size, _FILTERS[interpolation])


def scaled_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """Width and height after the shorter side is scaled to `shorter` pixels."""
    if width <= height:
        return shorter, max(shorter, int(shorter * height / width))
    return max(shorter, int(shorter * width / height)), shorter


def cut(
    image: Image.Image,
    shorter: int,
    left: int,
    top: int,
    size: int,
    interpolation: Interpolation = "bilinear",
) -> Image.Image:
    """A square of an image whose shorter side was scaled to `shorter` pixels.

    Only the pixels of the square are computed.

    Args:
        image: the image, of any scale of its own.
        shorter: pixels of the scaled image's shorter side.
        left: first column of the square in the scaled image.
        top: first row of the square in the scaled image.
        size: side of the square in pixels.
    """
    return cut_box(image, square(*image.size, shorter, left, top, size), size, interpolation)


def square(
    width: int, height: int, shorter: int, left: int, top: int, size: int
) -> tuple[float, float, float, float]:
    """Where `cut` takes its square from: left, top, right, bottom in the image's own pixels."""
    scaled = scaled_size(width, height, shorter)
    x, y = width / scaled[0], height / scaled[1]
    return left * x, top * y, min((left + size) * x, width), min((top + size) * y, height)


def cut_box(
    image: Image.Image,
    box: tuple[float, float, float, float],
    size: int,
    interpolation: Interpolation = "bilinear",
) -> Image.Image:
    """A part of an image (left, top, right, bottom, in its pixels) as a square of `size`."""
    return image.resize((size, size), _FILTERS[interpolation], box)


def centre(
    image: Image.Image, shorter: int, size: int, interpolation: Interpolation = "bilinear"
) -> Image.Image:
    """The central square of an image whose shorter side was scaled to `shorter` pixels."""
    left, top = central(*scaled_size(*image.size, shorter), size)
    return cut(image, shorter, left, top, size, interpolation)


def central(width: int, height: int, size: int) -> tuple[int, int]:
    """Left and top of the central square of `size` pixels."""
    return round((width - size) / 2), round((height - size) / 2)


def to_tensor(image: Image.Image) -> Tensor:
    """RGB pixels as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
