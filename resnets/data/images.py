"""Image files of any kind as the uint8 pixels that a network looks at."""

from __future__ import annotations

import contextlib
import io
import math
import re
import struct
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from resnets.support.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor  # not at run time: it takes seconds, and predictions need none

Interpolation = Literal["bilinear", "bicubic"]
MOST_PIXELS = 100_000_000
MOST_SCANS = 100
"""Passes over the pixels of a JPEG: usual ones have up to a dozen, traps many thousands."""
MOST_PIECES = 100_000
"""Strips or tiles of a TIFF: Pillow makes an object of each as it opens the file. Segments of a
JPEG that are looked at."""
EXTENSIONS = frozenset({
    ".avif", ".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif",
    ".tiff", ".webp",
})  # fmt: skip
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")
"""What is read. Of Pillow's other formats some start programs (EPS) or read further files."""
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
ORIENTATION = 0x0112  # EXIF's tag
_SCAN, _END = b"\xda", b"\xd9"  # JPEG's markers
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xdd\xe0-\xef\xfe])", re.DOTALL)
"""Of JPEG segments that tell their length, and of the end; decoders skip what lies between."""
_OFFSETS = (273, 324)  # TIFF's tags of strips and tiles
_TIFFS = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# For good: `warnings.catch_warnings` is not safe in threads. What Pillow warns of (broken EXIF
# data, sizes below our own limit) leaves the pixels usable.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\b")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_BROKEN = (  # what Pillow raises for files that are damaged in one way or another
    OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error, TypeError, LookupError,
    AttributeError, ArithmeticError,
)  # fmt: skip


def read_image(path: Path, shorter: int | None = None) -> Image.Image:
    """An image file as upright RGB.

    Args:
        shorter: as for `decode`.

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
    return decode(content, str(path), shorter)


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
    with _opened(content, name) as image:
        width, height = image.size
        if shorter is not None and min(width, height) >= 2 * shorter:
            scale = shorter / min(width, height)
            image.draft(None, (math.ceil(width * scale), math.ceil(height * scale)))
        image.load()  # before EXIF data are read, whose faults are overlooked
        return _as_rgb(_upright(image))


def to_rgb(image: Image.Image, name: str = "") -> Image.Image:
    """An open PIL image of any mode as upright RGB, converted as `decode` does.

    Raises:
        UserError: if its pixels cannot be read.
    """
    try:
        image.load()  # before EXIF data are read, whose faults are overlooked
        return _as_rgb(_upright(image))
    except _BROKEN as error:
        raise UserError(f"the image cannot be read ({error})", name) from error


@dataclass(frozen=True)
class Header:
    """What an image file says about itself.

    Args:
        format: `JPEG`, `PNG`, `WEBP`, ...
        mode: Pillow's word for the kind of pixels: `RGB`, `L`, `CMYK`, `I;16`, ...
        codec: Pillow's word for how the pixels are packed: `jpeg`, `zip`, `raw`, `bmp_rle`, ...
        width: pixels as stored, before any turning.
        height: likewise.
        orientation: EXIF's number; 1 is upright.
    """

    format: str
    mode: str
    codec: str
    width: int
    height: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height once the image is turned upright."""
        turned = self.orientation >= 5
        return (self.height, self.width) if turned else (self.width, self.height)


def read_header(content: bytes, name: str) -> Header:
    """What the file says about itself, without its pixels; raises like `decode`."""
    with _opened(content, name) as image:
        turn = _orientation(image)
        tiles: Any = getattr(image, "tile", None)
        codec = str(tiles[0][0]) if tiles else ""
        return Header(image.format or "", image.mode, codec, image.width, image.height, turn)


def intact_png(content: bytes) -> bool:
    """Whether a PNG's checksums fit; decoding does not look at them."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()
    except _BROKEN:
        return False
    return True


@contextlib.contextmanager
def _opened(content: bytes, name: str) -> Iterator[Image.Image]:
    """The image with its pixels not yet read; what goes wrong inside is a `UserError`."""
    try:
        _check_structure(content, name)
        with Image.open(io.BytesIO(content), formats=_formats()) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise _too_large(name, f"{width} x {height} pixels")
            yield image
    except Image.DecompressionBombError as error:
        raise _too_large(name, "over 178 million pixels") from error
    except UnidentifiedImageError as error:
        raise UserError("not an image" if content else "the file is empty", name) from error
    except _BROKEN as error:
        raise UserError(f"the image cannot be read ({error})", name) from error


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _check_structure(content: bytes, name: str) -> None:
    """Refuse small files that would take minutes or gigabytes, before Pillow looks at them."""
    if content.startswith(b"\xff\xd8") and _scans(content) > MOST_SCANS:
        raise UserError(f"a JPEG of more than {MOST_SCANS} scans", name)
    if content[:4] in _TIFFS and _pieces(content) > MOST_PIECES:
        raise UserError(f"a TIFF of more than {MOST_PIECES:,} strips or tiles", name)


def _scans(content: bytes) -> int:
    """The scans of a JPEG, or more: phones append films behind its end, which nobody decodes."""
    most = content.count(b"\xff" + _SCAN)
    if most <= MOST_SCANS:  # nearly always, and much faster
        return most
    found, at = 0, 2
    for _ in range(MOST_PIECES):
        marker = _MARKER.search(content, at)
        if marker is None or marker[1] == _END:
            return found
        found += marker[1] == _SCAN
        at = marker.end()
        at += max(2, int.from_bytes(content[at : at + 2]))  # as libjpeg does where it is wrong
    return most


def _pieces(content: bytes) -> int:
    """The longest list of strips or tiles in a TIFF's first directory; 0 if it is damaged."""
    order, big = _TIFFS[content[:4]]
    start, count, entry, length = ("Q", "Q", 20, "Q") if big else ("I", "H", 12, "I")
    most = 0
    try:
        (at,) = struct.unpack_from(order + start, content, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count, content, at)
        at += struct.calcsize(order + count)
        for _ in range(min(entries, 4096)):
            tag, _, pieces = struct.unpack_from(f"{order}HH{length}", content, at)
            if tag in _OFFSETS:
                most = max(most, pieces)
            at += entry
    except struct.error:
        pass
    return most


def upright_size(content: bytes, name: str) -> tuple[int, int]:
    """Width and height once the image is turned upright, by its header; raises like `decode`.

    A PNG whose orientation stands behind its pixels is taken as it lies.
    """
    return read_header(content, name).upright


def _too_large(name: str, size: str) -> UserError:
    return UserError(
        f"the image is too large ({size}; at most {MOST_PIXELS // 1_000_000} million)",
        name,
        "scale it down first",
    )


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; upright where EXIF data are absent or broken."""
    try:
        # Not PNG's own method, which would read all pixels for data that stand behind them.
        turn = Image.Image.getexif(image).get(ORIENTATION, 1)
    except _BROKEN:
        return 1
    return turn if turn in _TURNS else 1


def _upright(image: Image.Image) -> Image.Image:
    turn = _orientation(image)
    return image if turn == 1 else image.transpose(_TURNS[turn])


def _as_rgb(image: Image.Image) -> Image.Image:
    """RGB over white where the image is transparent; 16-bit grey scaled to 8."""
    if image.mode == "RGB" and "transparency" not in image.info:
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


def central_box(
    width: int, height: int, resize: int, size: int
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in an image of `centre(image, resize, size)`."""
    left, top = central(*scaled_size(width, height, resize), size)
    return square(width, height, resize, left, top, size)


@dataclass(frozen=True)
class CentralCrop:
    """Which part of an image a network looks at, and at which scale.

    Args:
        size: side in pixels of the square.
        resize: shorter side in pixels to which an image is scaled before its centre is cut out.
        interpolation: how images are scaled.
    """

    size: int
    resize: int
    interpolation: Interpolation = "bilinear"


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """RGB pixels as uint8 (3, H, W)."""
    # By NumPy: torch would start a team of threads for so little, which then spins for more.
    return np.array(np.asarray(image).transpose(2, 0, 1), order="C")


def stack(pixels: Sequence[Tensor]) -> Tensor:
    """Images uint8 (3, H, W) as a batch (N, 3, H, W)."""
    import torch

    return torch.from_numpy(np.stack([image.numpy() for image in pixels]))  # as in `to_array`


def to_tensor(image: Image.Image) -> Tensor:
    """RGB pixels as uint8 (3, H, W)."""
    import torch

    return torch.from_numpy(to_array(image))
