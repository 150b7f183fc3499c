"""The chunks of a PNG: which of them decoding needs, and whether they are as they were written."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"})
_XMP = b"XML:com.adobe.xmp\0\0"  # may have the orientation, as eXIf does
_MAX_METADATA = 1_000_000  # bytes of a chunk
_MAX_CHUNKS = 100_000


def without_metadata(content: bytes) -> bytes | None:
    """A PNG without texts, colour profiles and damaged metadata; None if it has none of them.

    Pillow refuses files whose metadata are large or damaged, although their pixels are sound. Kept
    is what may turn the image upright.
    """
    if not content.startswith(_SIGNATURE):
        return None
    kept, at = [_SIGNATURE], len(_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(content):
            kept.append(content[at:])
            break
        length, name = struct.unpack_from(">I4s", content, at)
        chunk = content[at : at + 12 + length]
        if name in _PIXELS or _turns(name, chunk):
            kept.append(chunk)
        at += 12 + length
        if name == b"IEND":
            break
    else:
        return None
    sound = b"".join(kept)
    return sound if len(sound) < min(at, len(content)) else None


def _turns(name: bytes, chunk: bytes) -> bool:
    """Whether a chunk is whole and may have the image's orientation."""
    usable = name == b"eXIf" or (name == b"iTXt" and chunk[8:].startswith(_XMP))
    if not usable or len(chunk) > _MAX_METADATA:
        return False
    return chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))


def checksums_match(content: bytes) -> bool:
    """Whether a PNG's checksums fit its content; decoding does not check all of them."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, LookupError, TypeError):
        return False
    return True
