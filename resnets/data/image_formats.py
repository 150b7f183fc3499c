"""What kind of file something is, by its first bytes; and which endings image files have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

ENDINGS: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "BMP": (".bmp", ".dib"),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
}
"""The usual endings of each format that is read, by Pillow's name of it."""
EXTENSIONS = frozenset(ending for endings in ENDINGS.values() for ending in endings)
OTHER_ENDINGS = frozenset({
    ".bak", ".cls", ".crdownload", ".csv", ".db", ".download", ".htm", ".html", ".ini", ".ipynb",
    ".js", ".json", ".jsonl", ".log", ".mat", ".md", ".npy", ".npz", ".part", ".partial", ".pdf",
    ".pt", ".pth", ".py", ".rst", ".safetensors", ".tar", ".tmp", ".toml", ".tsv", ".txt", ".xml",
    ".yaml", ".yml", ".zip",
})  # fmt: skip
"""Endings of files that usually lie in folders of images, or are not whole yet."""
HEAD = 512
"""Bytes that `identify` needs of a file."""


class Kind(NamedTuple):
    """A kind of file.

    Args:
        name: Pillow's name of a format that is read; else the kind's own, with an article.
        hint: what to do with a file that is not read.
        readable: whether its format is one of `ENDINGS`.
        picture: whether it is a picture at all.
    """

    name: str
    hint: str = ""
    readable: bool = False
    picture: bool = True


_LFS_POINTER = b"version https://git-lfs"
CONVERT = "convert it to JPEG or PNG"
_EXPORT = "export it as JPEG or PNG"
_AGAIN = "download it again"
_UNPACK = "unpack it"
_FRAMES = "extract its frames, for example with ffmpeg"


def _read(name: str) -> Kind:
    return Kind(name, readable=True)


def _other(name: str, hint: str) -> Kind:
    return Kind(name, hint, picture=False)


RAW = Kind("a camera's RAW file", _EXPORT)
_KINDS: tuple[tuple[bytes, Kind], ...] = (
    (rb"\xff\xd8\xff", _read("JPEG")),
    (rb"\x89PNG\r\n\x1a\n", _read("PNG")),
    (rb"GIF8[79]a", _read("GIF")),
    (rb"RIFF....WEBP", _read("WEBP")),
    (rb"II\*\0\x10\0\0\0CR", RAW),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", _read("TIFF")),
    (rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0", _read("BMP")),
    (rb"P[456]\s+[\d#]|P[123]\s+\d+\s+\d+\s+[\d#]|Pf\s\d", _read("PPM")),
    (rb"PF\s\d", Kind("a PFM image in colour", CONVERT)),
    (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51\0", _read("JPEG2000")),
    (rb"....ftyp(....){0,16}?avi[fs]", _read("AVIF")),
    (rb"....ftyp(....){0,16}?(hei[cxms]|hev[cxms]|mif1|msf1)", Kind("a HEIC image", CONVERT)),
    (rb"....ftypcrx ", RAW),
    (rb"FUJIFILMCCD-RAW|IIU\0|IIR[OS]|MMOR|\0MRM|FOVb", RAW),
    (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", Kind("a JPEG XL image", CONVERT)),
    (rb"II\xbc", Kind("a JPEG XR image", CONVERT)),
    (rb"8BPS", Kind("a Photoshop file", _EXPORT)),
    (rb"gimp xcf", Kind("a GIMP file", _EXPORT)),
    (rb".{128}DICM", Kind("a DICOM file", "export it as PNG, with the window that shows it well")),
    (rb"SIMPLE  =", Kind("a FITS image", CONVERT)),
    (rb"\0\0[\x01\x02]\0[\x01-\x20]\0...\0", Kind("an icon", CONVERT)),
    (rb"icns", Kind("an icon", CONVERT)),
    (rb"qoif", Kind("a QOI image", CONVERT)),
    (rb"DDS ", Kind("a DDS texture", CONVERT)),
    (rb"v/1\x01", Kind("an OpenEXR image", CONVERT)),
    (rb"#\?RADIANCE|#\?RGBE", Kind("a Radiance HDR image", CONVERT)),
    (rb"BPG\xfb", Kind("a BPG image", CONVERT)),
    (rb"\x0a[\0-\x05][\0\x01][\x01\x02\x04\x08]", Kind("a PCX image", CONVERT)),
    (rb"P7\s+(WIDTH|#)", Kind("a PAM image", CONVERT)),
    (rb"AT&TFORM", Kind("a DjVu document", _EXPORT)),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml.{,400}|<!--.{,400}-->\s*)?<(!DOCTYPE )?svg\b",
     Kind("an SVG drawing", "export it as PNG")),
    (rb"%!PS|\xc5\xd0\xd3\xc6", Kind("a PostScript drawing", "export it as PNG")),
    (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", Kind("a Windows metafile", "export it as PNG")),
    (rb"%PDF-", _other("a PDF document", "export its pages as PNG or JPEG")),
    (rb"(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|meta|script|title)\b",
     _other("a web page", f"it was saved instead of an image: {_AGAIN}")),
    (rb"(\xef\xbb\xbf)?\s*<\?xml\b",
     _other("an XML file", f"if it is the error message of a server, {_AGAIN}")),
    (re.escape(_LFS_POINTER),
     _other("a Git LFS pointer", "run `git lfs pull` to get the image")),
    (rb"(\.\./)*\.git/annex/objects/|/annex/objects/",
     _other("a git-annex pointer", "run `git annex get` to get the image")),
    (rb"PK\x03\x04|PK\x05\x06", _other("a ZIP archive", _UNPACK)),
    (rb"\x1f\x8b|BZh\d|\xfd7zXZ\0|\x28\xb5\x2f\xfd", _other("a compressed file", _UNPACK)),
    (rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|.{257}ustar", _other("an archive", _UNPACK)),
    (rb"....(ftyp|moov|mdat|wide)|\x1a\x45\xdf\xa3|RIFF....AVI |\0\0\x01[\xb3\xba]|FLV\x01"
     rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11", _other("a video", _FRAMES)),
    (rb"ID3|RIFF....WAVE|OggS|fLaC", _other("a sound file", "remove it")),
    (rb"\x93NUMPY", _other("a NumPy array", "save its pixels as PNG")),
    (rb"\x89HDF\r\n", _other("an HDF5 file", "save its pixels as PNG")),
    (rb"\0\x05\x16\x07", _other("the side file of a Mac (AppleDouble)", "remove it")),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _other("a Microsoft Office file", "remove it")),
    (rb"\x7fELF|MZ.{58}", _other("a program", "remove it")),
)  # fmt: skip
_PATTERNS = [(re.compile(pattern, re.DOTALL | re.IGNORECASE if b"<" in pattern else re.DOTALL), k)
             for pattern, k in _KINDS]  # fmt: skip


def is_lfs_pointer(start: bytes) -> bool:
    """Whether a file that begins so is Git LFS's note about a file that was not fetched."""
    return start.startswith(_LFS_POINTER)


def identify(content: bytes) -> Kind | None:
    """The kind of a file by its first `HEAD` bytes (of a TGA image: its last); None if unknown."""
    head = content[:HEAD]
    for pattern, kind in _PATTERNS:
        if pattern.match(head):
            return kind
    if content.endswith(b"TRUEVISION-XFILE.\0"):
        return Kind("a TGA image", CONVERT)
    if head and not head.strip(b"\0"):
        return _other("a file that begins with zero bytes", f"its content was lost: {_AGAIN}")
    return _text(head)


def _text(head: bytes) -> Kind | None:
    """A text file, with its first words."""
    try:
        text = head.decode("ascii").strip()
    except UnicodeDecodeError:
        return None
    if not text or not text.replace("\n", "").replace("\r", "").replace("\t", "").isprintable():
        return None
    words = " ".join(text[:60].split())
    return _other(f'a text file that begins "{words}"', "remove it, or get the image again")
