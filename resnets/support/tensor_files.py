"""Safetensors files with checksums: a changed bit is found when the file is read.

The metadata hold two SHA-256 sums: `tensors_sha256`, of the bytes of all tensors, and
`header_sha256`, of the header with zeros in the place of this sum. So the header, which has names,
shapes and the metadata, can be checked without reading the tensors. Files of earlier versions have
no sums and are read unchecked.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from resnets.support.errors import UserError, valid_utf8
from resnets.support.files import atomic_write

_TENSORS, _HEADER = "tensors_sha256", "header_sha256"
_ZEROS = "0" * 64
_SUMS = {name: re.compile(rf'"{name}":"([0-9a-f]{{64}})"'.encode()) for name in (_TENSORS, _HEADER)}
_LARGEST_HEADER = 100_000_000
"""safetensors refuses larger ones."""


class Damaged(ValueError):
    """The content of a file does not match its checksum."""


def write(path: Path, content: bytes, metadata: dict[str, str]) -> None:
    """Atomically write a safetensors file with checksums.

    Args:
        path: the file.
        content: the tensors, as `safetensors.torch.save` or `safetensors.numpy.save` gives them.
        metadata: what the file's metadata are to hold besides the sums.

    Raises:
        UserError: if the file cannot be written; nothing is left behind.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = memoryview(content)[start:]
    sums = {_TENSORS: hashlib.sha256(tensors).hexdigest(), _HEADER: _ZEROS}
    entries = json.loads(content[8:start]) | {"__metadata__": {**metadata, **sums}}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8 bytes
    own = hashlib.sha256(header).hexdigest()
    header = _SUMS[_HEADER].sub(f'"{_HEADER}":"{own}"'.encode(), header, count=1)
    size = len(header).to_bytes(8, "little")
    atomic_write(path, lambda file: file.writelines((size, header, tensors)))


def check(path: Path, *, header_only: bool = False) -> None:
    """Compare a file with its checksums, if it has any.

    Args:
        path: the file.
        header_only: leave out the tensors, which take 0.06 to 0.3 s for 100 MB.

    Raises:
        Damaged: if they differ.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size) if size <= _LARGEST_HEADER else b""
        own, tensors = _SUMS[_HEADER].search(header), _SUMS[_TENSORS].search(header)
        if own is None and tensors is None:
            return
        if own is None or tensors is None or own[1] != _sum_of_header(header, own.span(1)):
            raise Damaged("it is damaged: its header does not match its checksum")
        if header_only:
            return
        if hashlib.file_digest(file, "sha256").hexdigest().encode() != tensors[1]:
            raise Damaged("it is damaged: its tensors do not match their checksum")


def open_file(path: Path, framework: str) -> Any:
    """An open safetensors file, whose tensors are read when they are needed.

    Args:
        path: the file.
        framework: `pt` or `np`, the type of the tensors that it returns.

    Raises:
        UserError: if its path is not UTF-8, which safetensors needs.
        safetensors.SafetensorError, OSError: if it is damaged or cannot be read.
    """
    import safetensors

    if valid_utf8(str(path)) != str(path):
        raise UserError("safetensors needs a path of UTF-8", str(path), "rename the file or folder")
    return safetensors.safe_open(path, framework=framework)


def _sum_of_header(header: bytes, span: tuple[int, int]) -> bytes:
    """The checksum of a header, whose own sum is at `span`."""
    blank = header[: span[0]] + _ZEROS.encode() + header[span[1] :]
    return hashlib.sha256(blank).hexdigest().encode()
