"""Image files of any kind as upright RGB pixels, within bounds of time and memory.

Files come from users and from the network. A file that is damaged, or built to cost minutes or
gigabytes, raises an `ImageError` that names the fault.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError, features

from resnets.data import png_chunks, tiff_tags
from resnets.data.image_formats import (
    CONVERT,
    ENDINGS,
    EXTENSIONS,
    HEAD,
    OTHER_ENDINGS,
    RAW,
    identify,
)
from resnets.data.wide_pixels import is_wide, to_eight_bits
from resnets.support.errors import UserError, one_line

MAX_PIXELS = 100_000_000
MAX_SCANS = 100
"""Passes over the pixels of a JPEG: usual ones have up to a dozen, malicious ones thousands."""
MAX_PIECES = 100_000
"""Strips or tiles of a TIFF, for each of which Pillow makes an object when it opens the file.
Also the number of a JPEG's segments that are examined."""
FORMATS = tuple(name for name in ENDINGS if name != "MPO")  # which Pillow's JPEG reader covers
"""What is read. Some of Pillow's other formats start programs (EPS) or read further files."""
ORIENTATION = ExifTags.Base.Orientation
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of each EXIF orientation upright."""
# For good: `warnings.catch_warnings` is not safe in threads. What Pillow warns of (broken EXIF
# data, sizes below our own limit) leaves the pixels usable.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\b")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
_DAMAGE = (  # what Pillow raises for files that are damaged in one way or another
    OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error, TypeError, LookupError,
    AttributeError, ArithmeticError,
)  # fmt: skip

ImageFault = Literal[
    "unreadable",
    "empty-file",
    "not-an-image",
    "unsupported",
    "truncated",
    "corrupt",
    "too-large",
]
"""Why an image file cannot be used: the system refuses to read it; it has no bytes; it is no
image; its format is not read; it ends too early; it cannot be decoded; or decoding would cost too
much."""
T = TypeVar("T")


class ImageError(UserError):
    """An image file that cannot be used.

    Args:
        kind: the kind of fault.
        message, location, hint: as for `UserError`.
    """

    def __init__(self, kind: ImageFault, message: str, location: str = "", hint: str = "") -> None:
        super().__init__(message, location, hint)
        self.kind: ImageFault = kind

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, ...]]:
        return ImageError, (self.kind, self.message, self.location, self.hint)


def has_image_ending(name: str) -> bool:
    """Whether a file's name ends like that of an image."""
    return _ending(name) in EXTENSIONS


def is_candidate(path: str | os.PathLike[str]) -> bool:
    """Whether a file may be an image: by its ending, else by its first bytes.

    Only files without one of `EXTENSIONS` and `OTHER_ENDINGS` are opened, so that a folder of a
    million images is listed fast. False if such a file is missing, no regular file, or
    unreadable; never raises.
    """
    ending = _ending(path)
    if ending in EXTENSIONS:
        return True
    if ending in OTHER_ENDINGS:
        return False
    try:
        if not os.path.isfile(path):  # noqa: PTH113 (a pipe would block)
            return False
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 (fast)
            kind = identify(file.read(HEAD))
    except (OSError, ValueError):
        return False
    return kind is not None and kind.readable


def _ending(path: str | os.PathLike[str]) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 (fast)


def read_image(path: Path, shorter: int | None = None) -> Image.Image:
    """Read an image file as upright RGB; `shorter` as for `decode`.

    Raises:
        ImageError: if it is missing, or as `decode` does.
    """
    return decode(read_content(path), str(path), shorter)


def read_content(path: Path) -> bytes:
    """The bytes of an image file; raises `ImageError` if it is missing or unreadable."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError("unreadable", "no such image", str(path)) from error
    except (OSError, ValueError) as error:  # of names with a zero byte
        message = f"the image cannot be read ({one_line(error)})"
        raise ImageError("unreadable", message, str(path)) from error


def decode(content: bytes, name: str, shorter: int | None = None) -> Image.Image:
    """Decode the content of an image file to upright RGB.

    Images of all kinds of pixels are converted (transparency over white, more than 8 bits by the
    rule of `wide_pixels`), and turned upright by their EXIF orientation. Of several images in a
    file, the first is read.

    Args:
        content: the whole file.
        name: for messages.
        shorter: JPEGs may be decoded at a smaller scale (a half, quarter or eighth) as long
            as their shorter side keeps this many pixels, which saves time.

    Raises:
        ImageError: if it is empty, truncated, not an image, or larger than `MAX_PIXELS`.
    """

    def pixels(image: Image.Image) -> Image.Image:
        width, height = image.size
        if shorter is not None and min(width, height) >= 2 * shorter:
            scale = shorter / min(width, height)
            image.draft(None, (math.ceil(width * scale), math.ceil(height * scale)))
        return _upright_rgb(image)

    return _with_image(content, name, pixels)


def to_rgb(image: Image.Image, name: str = "") -> Image.Image:
    """Convert an open PIL image of any mode to upright RGB, as `decode` does.

    Raises:
        ImageError: if its pixels cannot be read, or it has none.
    """
    if not all(image.size):
        size = f"{image.width} x {image.height}"
        raise ImageError("corrupt", f"the image has no pixels ({size})", name)
    try:
        return _upright_rgb(image)
    except _DAMAGE as error:
        raise ImageError("corrupt", f"the image cannot be read ({error})", name) from error


@dataclass(frozen=True)
class Header:
    """What an image file's header says.

    Args:
        format: `JPEG`, `PNG`, `WEBP`, ...
        mode: Pillow's name of the kind of pixels: `RGB`, `L`, `CMYK`, `I;16`, ...
        codec: Pillow's name of how the pixels are packed: `jpeg`, `zip`, `raw`, `bmp_rle`, ...
        width: columns of pixels as stored, before the image is turned upright.
        height: rows, likewise.
        orientation: EXIF's number, 1 to 8; 1 is upright.
    """

    format: str
    mode: str
    codec: str
    width: int
    height: int
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the upright image."""
        sideways = self.orientation >= 5
        return (self.height, self.width) if sideways else (self.width, self.height)


def read_header(content: bytes, name: str) -> Header:
    """Read the header of an image file, not its pixels; raises like `decode`."""
    return _with_image(png_chunks.orientation_first(content), name, _header)


def _header(image: Image.Image) -> Header:
    orientation = _orientation(image)
    width, height = image.size
    tags: Any = getattr(image, "tag_v2", None)
    if tags is not None:  # of a TIFF, whose `size` is the upright one in newer Pillows
        width = int(tags[ExifTags.Base.ImageWidth])
        height = int(tags[ExifTags.Base.ImageLength])
    tiles: Any = getattr(image, "tile", None)
    codec = str(tiles[0][0]) if tiles else ""
    return Header(image.format or "", image.mode, codec, width, height, orientation)


def upright_size(content: bytes, name: str) -> tuple[int, int]:
    """Width and height of the upright image, by the header alone; raises like `decode`."""
    return read_header(content, name).upright_size


class _Content(io.BytesIO):
    """The bytes of an image file, which remember whether a decoder needed more than there are."""

    ended_early = False

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        # Decoders fill buffers of MAXBLOCK bytes: a buffer that is partly filled is no fault.
        if size and size > 0 and len(found) < (1 if size == ImageFile.MAXBLOCK else size):
            self.ended_early = True
        return found


def _with_image(content: bytes, name: str, use: Callable[[Image.Image], T]) -> T:
    """What `use` returns for the image, whose pixels are not yet decoded.

    Raises:
        ImageError: if the image cannot be opened, or `use` fails for its content.
    """
    try:
        return _with_content(content, name, use)
    except ImageError:
        sound = png_chunks.without_metadata(content)
        if sound is None:
            raise
        with contextlib.suppress(ImageError):
            return _with_content(sound, name, use)
        raise


def _with_content(content: bytes, name: str, use: Callable[[Image.Image], T]) -> T:
    file = _Content(content)
    try:
        _refuse_by_structure(content, name)
        with Image.open(file, formats=_formats()) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _too_large(f"{width} x {height} pixels", name)
            return use(image)
    except Image.DecompressionBombError as error:
        raise _too_large("over 178 million pixels", name) from error
    except _DAMAGE as error:
        unidentified = isinstance(error, UnidentifiedImageError)
        known = _unread(content, name, unidentified)
        if known is not None:
            raise known from error
        truncated = file.ended_early or _shorter_than_declared(content)
        kind: ImageFault = "truncated" if truncated else "corrupt"
        reason = "its header is damaged" if unidentified else str(error)
        raise ImageError(kind, f"the image cannot be read ({reason})", name) from error


def _unread(content: bytes, name: str, unidentified: bool) -> ImageError | None:
    """The error for a file of a kind that is not read; None for a damaged file of the others."""
    if not content:
        return ImageError("empty-file", "the file is empty", name)
    kind = identify(content)
    if kind is None:
        return ImageError("not-an-image", "not an image of a known format", name)
    if not kind.picture:
        return ImageError("not-an-image", f"not an image, but {kind.name}", name, kind.hint)
    if not kind.readable:
        return _unsupported(kind.name, name, kind.hint)
    if kind.name not in _formats():
        return _unsupported(f"{kind.name}, which this Pillow lacks", name, "pip install -U pillow")
    if kind.name == "TIFF" and unidentified:
        pixels = tiff_tags.pixel_kind(tiff_tags.read_tags(content))
        return _unsupported(pixels, name, CONVERT) if pixels else None
    return None


def _unsupported(what: str, name: str, hint: str) -> ImageError:
    return ImageError("unsupported", f"the format is not supported: {what}", name, hint)


def _shorter_than_declared(content: bytes) -> bool:
    """Whether a WebP or AVIF file, which Pillow reads whole, ends before the size that it names."""
    if content[:4] == b"RIFF":
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    at = 0
    if content[4:8] == b"ftyp":  # boxes, each of which begins with its size
        while len(content) - at > 0 and (size := int.from_bytes(content[at : at + 4])) >= 8:
            at += size
    return at > len(content)


@cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that the installed Pillow can read."""
    Image.init()
    libraries = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
    return tuple(
        name
        for name in FORMATS
        if name in Image.OPEN and (name not in libraries or features.check(libraries[name]))
    )


def _too_large(size: str, name: str) -> ImageError:
    limit = f"at most {MAX_PIXELS // 1_000_000} million"
    message = f"the image is too large ({size}; {limit})"
    return ImageError("too-large", message, name, "scale it down first")


_SCAN, _END = b"\xda", b"\xd9"  # JPEG's markers
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd9-\xdd\xe0-\xef\xfe])", re.DOTALL)
"""Markers of JPEG segments that begin with their length, and of the end of the image."""


def _refuse_by_structure(content: bytes, name: str) -> None:
    """Refuse small files that would take minutes or gigabytes, and RAW files, unopened."""
    if content.startswith(b"\xff\xd8") and _scans(content) > MAX_SCANS:
        raise ImageError("too-large", f"a JPEG of more than {MAX_SCANS} scans", name)
    if not tiff_tags.is_tiff(content):
        return
    tags = tiff_tags.read_tags(content)
    if tiff_tags.pieces(tags) > MAX_PIECES:
        raise ImageError("too-large", f"a TIFF of more than {MAX_PIECES:,} strips or tiles", name)
    if tiff_tags.is_raw(content, tags):  # Pillow would read a thumbnail
        raise _unsupported(RAW.name, name, RAW.hint)
    unread = tiff_tags.unread_kind(tags)
    if unread:
        raise _unsupported(unread, name, CONVERT)


def _scans(content: bytes) -> int:
    """The scans of a JPEG, or a larger number.

    Bytes after its end do not count: phones append videos there, which no decoder reads.
    """
    at_most = content.count(b"\xff" + _SCAN)
    if at_most <= MAX_SCANS:  # nearly always, and much faster
        return at_most
    found, at = 0, 2
    for _ in range(MAX_PIECES):
        marker = _MARKER.search(content, at)
        if marker is None or marker[1] == _END:
            return found
        found += marker[1] == _SCAN
        at = marker.end()
        at += max(2, int.from_bytes(content[at : at + 2]))  # as libjpeg does for a wrong length
    return at_most


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1, upright, if EXIF data are absent or broken."""
    try:
        # Not PNG's own method, which would decode all pixels for data that follow them.
        orientation = Image.Image.getexif(image).get(ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return orientation if orientation in _TRANSPOSE else 1


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()  # first, so that faults in the pixels are not taken for faults in EXIF data
    orientation = _orientation(image)
    rgb = _as_rgb(image)
    return rgb if orientation == 1 else rgb.transpose(_TRANSPOSE[orientation])


def _as_rgb(image: Image.Image) -> Image.Image:
    """The image as RGB: transparent pixels over white, wide grey pixels scaled to 8 bits."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if is_wide(image):
        return to_eight_bits(image).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if {"A", "a"} & {*image.getbands()} or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
