"""The tags of a TIFF's first directory, read before any decoder sees the file."""

from __future__ import annotations

import struct
from typing import NamedTuple

from PIL import TiffImagePlugin
from PIL.TiffTags import lookup

_ORDERS = {  # first bytes: byte order, whether offsets have 64 bits
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
_MAX_ENTRIES = 4096
_NUMBERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q"}
_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _FORMAT = 254, 258, 259, 262, 277, 339
_WIDTH, _HEIGHT, _PLANAR, _SUBSAMPLING = 256, 257, 284, 530
_YCBCR, _SEPARATE = 6, 2  # values of two tags
_PLACES = (273, 324)  # of strips and of tiles
_SUBDIRECTORIES, _DNG_VERSION = 330, 50706
_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point"}


class Tag(NamedTuple):
    """How many values a tag has, and the first of them; 0 for values that are no whole numbers."""

    values: int
    value: int


def is_tiff(content: bytes) -> bool:
    """Whether a file begins like a TIFF."""
    return content[:4] in _ORDERS


def read_tags(content: bytes) -> dict[int, Tag]:
    """The tags of the first directory, as far as the file is whole."""
    order, big = _ORDERS[content[:4]]
    start, count, entry, value_at = ("Q", "Q", "HHQ", 12) if big else ("I", "H", "HHI", 8)
    tags: dict[int, Tag] = {}
    try:
        (at,) = struct.unpack_from(order + start, content, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count, content, at)
        at += struct.calcsize(order + count)
        for _ in range(min(entries, _MAX_ENTRIES)):
            tag, kind, values = struct.unpack_from(order + entry, content, at)
            place, form = at + value_at, _NUMBERS.get(kind)
            if form and struct.calcsize(form) * values > struct.calcsize(start):
                (place,) = struct.unpack_from(order + start, content, place)
            within = form and place + struct.calcsize(form) <= len(content)
            value = struct.unpack_from(order + form, content, place)[0] if form and within else 0
            if tag not in tags or values > tags[tag].values:
                tags[tag] = Tag(values, value)
            at += value_at + struct.calcsize(start)
    except struct.error:
        pass
    return tags


def pieces(tags: dict[int, Tag]) -> int:
    """The number of strips or tiles."""
    return max(tags[tag].values if tag in tags else 0 for tag in _PLACES)


def is_raw(content: bytes, tags: dict[int, Tag]) -> bool:
    """Whether this is a camera's RAW file, of which Pillow would read a thumbnail at best."""
    thumbnail_first = tags.get(_SUBFILE, Tag(0, 0)).value & 1 and _SUBDIRECTORIES in tags
    return bool(content[8:10] == b"CR" or _DNG_VERSION in tags or thumbnail_first)


def unread_kind(tags: dict[int, Tag]) -> str:
    """Why Pillow would fail to decode this TIFF, or decode it wrongly; empty if it does not."""
    value = {tag: found.value for tag, found in tags.items()}
    compression = value.get(_COMPRESSION, 1)
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        return f"a TIFF with compression {compression}"
    raw = compression == 1
    if raw and value.get(_PHOTOMETRIC) == _YCBCR and value.get(_SUBSAMPLING, 1) > 1:
        return "an uncompressed TIFF with subsampled colours"
    planes = value.get(_SAMPLES, 1) if value.get(_PLANAR) == _SEPARATE else 1
    if raw and planes > 1 and value.get(_BITS, 1) > 8:
        return "an uncompressed TIFF with separate planes of more than 8 bits"
    return ""


def pixel_kind(tags: dict[int, Tag]) -> str:
    """The kind of pixels in a TIFF, in words; empty if it has no size."""
    if _WIDTH not in tags or _HEIGHT not in tags:
        return ""
    value = {tag: found.value for tag, found in tags.items()}
    kind = _FORMATS.get(value.get(_FORMAT, 1), "other")
    colours = {number: name for name, number in lookup(_PHOTOMETRIC).enum.items()}
    samples, bits = value.get(_SAMPLES, 1), value.get(_BITS, 1)
    return (
        f"a TIFF with pixels of {samples} {kind} {'number' if samples == 1 else 'numbers'} of "
        f"{bits} bits ({colours.get(value.get(_PHOTOMETRIC, -1), 'unknown colours')})"
    )
