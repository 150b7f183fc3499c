"""The chunks of a PNG: which of them decoding needs, and whether they are as they were written."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"})
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_KEYWORDS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
"""Of texts that may have the image's orientation, as the chunk eXIf does."""
_MAX_METADATA = 1_000_000  # bytes of a chunk
_MAX_CHUNKS = 100_000


def without_metadata(content: bytes) -> bytes | None:
    """A PNG without texts, colour profiles and damaged metadata; None if it has none of them.

    Pillow refuses files whose metadata are large or damaged, although their pixels are sound. Kept
    is what may turn the image upright.
    """
    if not content.startswith(_SIGNATURE):
        return None
    kept = [chunk for name, chunk in _chunks(content) if name in _PIXELS or _is_sound(name, chunk)]
    sound = _SIGNATURE + b"".join(kept)
    return sound if len(sound) < len(content) else None


def orientation_first(content: bytes) -> bytes:
    """A PNG with what may turn it upright before its pixels, where reading the header finds it.

    Any other content is returned as it is.
    """
    if not content.startswith(_SIGNATURE):
        return content
    chunks = list(_chunks(content))
    turning = [chunk for name, chunk in chunks if _turns(name, chunk)]
    if not turning:
        return content
    others = [chunk for name, chunk in chunks if not _turns(name, chunk)]
    return _SIGNATURE + b"".join([*others[:1], *turning, *others[1:]])


def checksums_match(content: bytes) -> bool:
    """Whether a PNG's checksums fit its content; decoding does not check all of them."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, LookupError, TypeError):
        return False
    return True


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and bytes of each chunk to the end of the image; what follows has the name IEND."""
    at = len(_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(content):
            break
        length, name = struct.unpack_from(">I4s", content, at)
        yield name, content[at : at + 12 + length]
        at += 12 + length
        if name == b"IEND":
            return
    yield b"IEND", content[at:]


def _turns(name: bytes, chunk: bytes) -> bool:
    """Whether a chunk may have the image's orientation."""
    return name == b"eXIf" or (name in _TEXTS and chunk[8:].startswith(_KEYWORDS))


def _is_sound(name: bytes, chunk: bytes) -> bool:
    """Whether a chunk may have the orientation, is whole, and is not packed."""
    packed = name == b"zTXt" or (name == b"iTXt" and b"\0\1" in chunk[8:40])
    if packed or not _turns(name, chunk) or len(chunk) > _MAX_METADATA:
        return False
    return chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
