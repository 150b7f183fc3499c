"""Image files of every format, whole and then spoilt, each a pure function of seed and number."""

from __future__ import annotations

import io
import random
import re
import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, PngImagePlugin

Change = Callable[[bytes, random.Random], bytes]
_EXTREMES = (0, 1, 2, 3, 7, 8, 15, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1,
             2**31, 2**32 - 1)  # fmt: skip
_OWN_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"iCCP", b"zTXt", b"eXIf", b"acTL", b"fcTL")


def make(seed: int, number: int) -> tuple[str, bytes]:
    """The malformed file of this number: its kind and changes in words, and its content."""
    chance = random.Random(f"{seed} {number}")
    files = whole_files()
    names = list(files)
    name = names[number % len(names)]
    content, changes = files[name], []
    usable = _CHANGES | _OWN.get(name.split()[0], {})
    own = list(_OWN.get(name.split()[0], {}))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        change = chance.choice(own if own and chance.random() < 0.4 else list(_CHANGES))
        content = usable[change](content, chance)
        changes.append(change)
    return f"{name}: {', '.join(changes)}", content


@cache
def whole_files() -> dict[str, bytes]:
    """A valid file of each kind; the first word of its name is its format."""
    y, x = np.mgrid[0:48, 0:64]
    noise = np.random.default_rng(0).integers(0, 60, (48, 64, 3))
    pixels = (np.stack([x * 3, y * 4, (x + y) * 2], 2) + noise).clip(0, 255).astype(np.uint8)
    rgb = Image.fromarray(pixels)
    grey, palette = rgb.convert("L"), rgb.quantize(32)
    rgba = rgb.copy()
    rgba.putalpha(grey)
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 200)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    text = PngImagePlugin.PngInfo()
    text.add_text("about", "words " * 50, zip=True)

    def frames() -> dict[str, object]:
        return {"save_all": True, "append_images": [grey.convert("RGB"), rgb.rotate(90)]}

    made: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "JPEG": (rgb, "JPEG", {"exif": exif}),
        "JPEG progressive": (rgb, "JPEG", {"progressive": True, "comment": "words"}),
        "JPEG grey": (grey, "JPEG", {}),
        "JPEG CMYK": (rgb.convert("CMYK"), "JPEG", {}),
        "JPEG restarts": (rgb, "JPEG", {"restart_marker_rows": 1, "icc_profile": bytes(300)}),
        "MPO": (rgb, "MPO", frames()),
        "PNG": (rgb, "PNG", {"exif": exif, "pnginfo": text}),
        "PNG palette": (palette, "PNG", {"transparency": bytes(range(32))}),
        "PNG alpha": (rgba, "PNG", {"icc_profile": bytes(300)}),
        "PNG grey": (grey, "PNG", {"transparency": 5}),
        "PNG wide": (wide, "PNG", {}),
        "PNG bits": (rgb.convert("1"), "PNG", {}),
        "PNG animated": (rgb, "PNG", frames()),
        "GIF": (palette, "GIF", {"transparency": 3}),
        "GIF animated": (rgb, "GIF", frames()),
        "WEBP": (rgb, "WEBP", {"exif": exif}),
        "WEBP lossless": (rgba, "WEBP", {"lossless": True}),
        "WEBP animated": (rgb, "WEBP", frames()),
        "TIFF": (rgb, "TIFF", {"exif": exif}),
        "TIFF grey": (grey, "TIFF", {"compression": "tiff_lzw"}),
        "TIFF wide": (wide, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "TIFF fractions": (Image.fromarray(np.asarray(grey) / np.float32(255)), "TIFF", {}),
        "TIFF alpha": (rgba, "TIFF", {"compression": "packbits"}),
        "TIFF JPEG": (rgb, "TIFF", {"compression": "jpeg"}),
        "TIFF fax": (rgb.convert("1"), "TIFF", {"compression": "group4"}),
        "TIFF CMYK": (rgb.convert("CMYK"), "TIFF", {}),
        "TIFF palette": (palette, "TIFF", {}),
        "TIFF pages": (rgb, "TIFF", frames()),
        "BMP": (rgb, "BMP", {}),
        "BMP palette": (palette, "BMP", {}),
        "DIB": (rgb, "DIB", {}),
        "PPM": (rgb, "PPM", {}),
        "PPM grey": (grey, "PPM", {}),
        "PPM bits": (rgb.convert("1"), "PPM", {}),
        "PPM fractions": (Image.fromarray(np.asarray(grey) / np.float32(255)), "PPM", {}),
        "AVIF": (rgb, "AVIF", {"exif": exif}),
        "JP2": (rgb, "JPEG2000", {}),
        "JP2 wide": (wide, "JPEG2000", {"tile_size": (32, 32)}),
        "J2K": (rgba, "JPEG2000", {"no_jp2": True}),
        "ICO": (rgba, "ICO", {"sizes": [(16, 16)]}),
        "TGA": (rgb, "TGA", {}),
        "PCX": (rgb, "PCX", {}),
    }
    Image.init()
    files = {}
    for name, (image, kind, settings) in made.items():
        if kind in Image.SAVE:  # some Pillows lack AVIF
            buffer = io.BytesIO()
            image.copy().save(buffer, kind, **settings)  # some change the image
            files[name] = buffer.getvalue()
    files["PPM words"] = b"P3\n# words\n4 2\n255\n" + b"1 2 3 40 50 60 70 80 90 255 0 9 " * 2
    files["BMP runs"] = _bmp_of_runs()
    return files


def _bmp_of_runs() -> bytes:
    runs = b"".join(b"\x10" + bytes([row]) + b"\0\0" for row in range(16)) + b"\0\1"
    palette = b"".join(bytes([k, k, k, 0]) for k in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 16, 16, 1, 8, 1, len(runs), 0, 0, 256, 0)
    at = 14 + len(header) + len(palette)
    return struct.pack("<2sIII", b"BM", at + len(runs), 0, at) + header + palette + runs


# Changes of any file.


def _flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 2, 8, 64))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _flip_head(content: bytes, chance: random.Random) -> bytes:
    return _flip(content[:80], chance) + content[80:]


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _cut_little(content: bytes, chance: random.Random) -> bytes:
    return content[: -chance.randrange(1, 20)]


def _span(content: bytes, chance: random.Random) -> tuple[int, int]:
    start = chance.randrange(len(content) + 1)
    return start, min(len(content), start + chance.choice((1, 4, 30, 400)))


def _remove(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    return content[:start] + content[end:]


def _repeat(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    return content[:start] + content[start:end] * chance.choice((2, 3, 200)) + content[end:]


def _zeros(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    return content[:start] + bytes([chance.choice((0, 255))]) * (end - start) + content[end:]


def _noise(content: bytes, chance: random.Random) -> bytes:
    start, end = _span(content, chance)
    return content[:start] + chance.randbytes(chance.choice((1, 4, 99))) + content[end:]


def _splice(content: bytes, chance: random.Random) -> bytes:
    """A part of another file, of any format, in the place of a part of this one."""
    other = chance.choice(list(whole_files().values()))
    start, end = _span(content, chance)
    from_, to = _span(other, chance)
    return content[:start] + other[from_:to] + content[end:]


def _other_start(content: bytes, chance: random.Random) -> bytes:
    other = chance.choice(list(whole_files().values()))
    size = chance.choice((4, 12, 40))
    return other[:size] + content[size:]


def _append(content: bytes, chance: random.Random) -> bytes:
    return content + chance.choice([*whole_files().values(), bytes(5000), chance.randbytes(500)])


def _extreme(content: bytes, chance: random.Random) -> bytes:
    """A number of the header becomes an extreme one."""
    order, form = chance.choice("<>"), chance.choice("BHI")
    value = chance.choice(_EXTREMES) % 256 ** struct.calcsize(form)
    number = struct.pack(order + form, value)
    at = chance.randrange(max(1, min(len(content), 200)))
    return content[:at] + number + content[at + len(number) :]


_CHANGES: dict[str, Change] = {
    "bits flipped": _flip, "bits of the head flipped": _flip_head, "cut": _cut,
    "end cut": _cut_little, "part removed": _remove, "part repeated": _repeat,
    "zeros": _zeros, "noise": _noise, "spliced": _splice, "another start": _other_start,
    "appended": _append, "extreme number": _extreme,
}  # fmt: skip


# Changes that keep a format's structure, so that decoders go on reading.


def _png(content: bytes, chance: random.Random) -> bytes:
    """Change, drop, repeat or move a chunk, with a fitting checksum."""
    chunks: list[tuple[bytes, bytes]] = []
    at = 8
    while at + 12 <= len(content) and len(chunks) < 200:
        (length,) = struct.unpack_from(">I", content, at)
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return content
    number = chance.choice((0, chance.randrange(len(chunks))))
    name, body = chunks[number]
    match chance.randrange(5):
        case 0:
            body = _extreme(body, chance)
        case 1:
            body = _flip(body, chance)
        case 2:
            name = chance.choice(_OWN_PNG_CHUNKS)
        case 3:
            body = zlib.compress(bytes(chance.choice((100, 3_000_000))))
        case 4:
            chunks.insert(chance.randrange(len(chunks)), chunks.pop(number))
            name, body = chunks[number]
    chunks[number] = name, body
    made = [content[:8]]
    for name, body in chunks:
        checked = name + body
        made.append(struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked)))
    return b"".join(made)


def _jpeg(content: bytes, chance: random.Random) -> bytes:
    """Change the size, the number of colours or the tables in a segment's first bytes."""
    markers = [m.start() for m in re.finditer(rb"\xff[\xc0-\xc4\xda-\xdd\xe0-\xef]", content)]
    if not markers:
        return content
    at = chance.choice(markers) + chance.randrange(1, 20)
    number = chance.choice(_EXTREMES).to_bytes(4)[-chance.choice((1, 2)) :]
    return content[:at] + number + content[at + len(number) :]


def _tiff(content: bytes, chance: random.Random) -> bytes:
    """Change the tag, type, count or value of an entry of the first directory."""
    if content[:2] not in (b"II", b"MM") or len(content) < 8:
        return content
    order = "<" if content[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", content, 4)
    if at + 2 > len(content):
        return content
    (entries,) = struct.unpack_from(order + "H", content, at)
    field, form = chance.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "H")))
    place = at + 2 + 12 * chance.randrange(max(1, entries)) + field
    value = chance.choice((*_EXTREMES, chance.randrange(254, 345), chance.randrange(1, 18)))
    number = struct.pack(order + form, value % 256 ** struct.calcsize(form))
    return content[:place] + number + content[place + len(number) :]


def _boxes(content: bytes, chance: random.Random) -> bytes:
    """Change the size or the first fields of a box or chunk with a name of four letters."""
    names = [m.start() for m in re.finditer(rb"[A-Za-z][A-Za-z0-9]{2}[A-Za-z0-9 ]", content[:3000])]
    if not names:
        return content
    at = max(0, chance.choice(names) + chance.choice((-4, 4, 6, 8, 12)))
    number = struct.pack(chance.choice("<>") + "I", chance.choice(_EXTREMES))
    return content[:at] + number + content[at + 4 :]


def _codestream(content: bytes, chance: random.Random) -> bytes:
    """Change a field of JPEG 2000's markers SIZ, COD and QCD."""
    places = [m.start() for m in re.finditer(rb"\xff[\x51\x52\x5c\x90]", content)]
    if not places:
        return content
    at = chance.choice(places) + chance.randrange(2, 44)
    number = chance.choice(_EXTREMES).to_bytes(4)[-chance.choice((1, 2, 4)) :]
    return content[:at] + number + content[at + len(number) :]


def _words(content: bytes, chance: random.Random) -> bytes:
    """Change a number in the text that begins a PPM."""
    numbers = list(re.finditer(rb"\d+", content[2:20]))
    if not numbers:
        return content
    found = chance.choice(numbers)
    value = chance.choice((b"0", b"-1", b"1e9", b"9" * 30, b"65536", b"9999", b"99999999"))
    return content[: 2 + found.start()] + value + content[2 + found.end() :]


_OWN: dict[str, dict[str, Change]] = {
    "PNG": {"chunk changed": _png}, "JPEG": {"segment changed": _jpeg},
    "MPO": {"segment changed": _jpeg}, "TIFF": {"entry changed": _tiff},
    "WEBP": {"box changed": _boxes}, "AVIF": {"box changed": _boxes},
    "JP2": {"box changed": _boxes, "marker changed": _codestream},
    "J2K": {"marker changed": _codestream}, "PPM": {"word changed": _words},
}  # fmt: skip
