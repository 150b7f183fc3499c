"""Grey pixels of more than 8 bits, signed or not, whole or fractional, as 8 bits.

One rule for all of them, whether they come from a file or from a PIL image:

    black is 0, or the smallest value if that is negative;
    white is the largest number of as few bits as hold the largest value, rounded: 255, 511, ...,
        65535, ... (for fractional values also 1, 3, ..., 127); or, if a value is negative, the
        largest value.

So 8 or 12 bits stored in 16 keep their brightness, fractions from 0 to 1 are taken for such, and
signed values (of a CT, in Hounsfield units) spread over the whole range.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

_WIDE = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_SAMPLE_FORMAT, _UNSIGNED, _SIGNED = 339, 1, 2  # a tag of TIFF, and two of its values
_MIN_IS_WHITE = 0  # a value of the tag PhotometricInterpretation
_BAND = 1 << 20  # pixels that are scaled at once


def is_wide(image: Image.Image) -> bool:
    """Whether an image has grey pixels that `to_eight_bits` must scale."""
    signed = image.mode == "L" and _tag(image, _SAMPLE_FORMAT) == _SIGNED
    return image.mode in _WIDE or signed


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale the pixels to 8 bits by the rule above; transparent ones become white.

    Raises:
        ValueError: if no pixel is a finite number.
    """
    values = _values(image)
    black, white = _black_and_white(values)
    inverted = image.mode != "L" and _is_inverted(image)  # which Pillow does for 8 bits only
    transparent = image.info.get("transparency")
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, _BAND // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        band = values[start : start + rows]
        grey = np.nan_to_num((band.astype(np.float64) - black) * (255 / (white - black)), nan=0.0)
        grey = np.rint(grey.clip(0, 255))
        grey = 255 - grey if inverted else grey
        if isinstance(transparent, int):
            grey[band == transparent] = 255
        scaled[start : start + rows] = grey
    return Image.fromarray(scaled)


def _values(image: Image.Image) -> NDArray[Any]:
    values = np.asarray(image)
    sample = _tag(image, _SAMPLE_FORMAT)
    if image.mode == "L":  # Pillow takes signed bytes for unsigned ones
        return values.view(np.int8)
    if image.mode == "I" and sample == _UNSIGNED and _tag(image, ExifTags.Base.BitsPerSample) == 32:
        return values.view(np.uint32)
    return values


def _black_and_white(values: NDArray[Any]) -> tuple[float, float]:
    fractional = values.dtype.kind == "f"
    finite = values[np.isfinite(values)] if fractional else values
    if not finite.size:
        raise ValueError("no pixel is a finite number")
    least, most = float(finite.min()), float(finite.max())
    if least < 0:
        return least, most if most > least else math.inf
    bits = max(1 if fractional else 8, round(most).bit_length())
    return 0.0, float(2**bits - 1)


def _is_inverted(image: Image.Image) -> bool:
    return _tag(image, ExifTags.Base.PhotometricInterpretation) == _MIN_IS_WHITE


def _tag(image: Image.Image, tag: int) -> int | None:
    """The first value of a TIFF's tag; None if it is absent, or the image is no TIFF."""
    tags: Any = getattr(image, "tag_v2", None)
    value = tags.get(tag) if tags is not None else None
    if value is None:
        return _UNSIGNED if tags is not None and tag == _SAMPLE_FORMAT else None
    return int(value[0] if isinstance(value, tuple) else value)
