"""COCO's run-length encoding of masks: the lengths of runs of 0 and 1, down the columns.

https://cocodataset.org/#format-data: `{"size": [height, width], "counts": ...}` with the lengths as
a list, or compressed into a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def decode(rle: dict[str, Any]) -> NDArray[np.uint8]:
    """The mask (height, width) of a run-length encoding, compressed or not.

    Raises:
        ValueError, TypeError, LookupError: if it is malformed.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    if isinstance(counts, str):
        counts = _decompressed(counts)
    if not isinstance(counts, list):
        raise TypeError("its counts are neither a list nor a text")
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError("its runs do not fill the image")
    values = np.arange(len(counts), dtype=np.uint8) % 2
    return np.repeat(values, counts).reshape(width, height).T


def encode(
    window: NDArray[Any], corner: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """The compressed encoding of a mask, of which only a window need be given.

    Args:
        window: bool or 0 and 1, (h, w); all else of the mask is 0.
        corner: x and y of the window's upper left pixel.
        size: height and width of the mask; those of the window by default.
    """
    height, width = size or window.shape
    return {"size": [height, width], "counts": _compressed(_counts(window, corner, height, width))}


def _counts(window: NDArray[Any], corner: tuple[int, int], height: int, width: int) -> list[int]:
    columns = np.zeros((window.shape[1], window.shape[0] + 2), np.int8)
    columns[:, 1:-1] = window.T != 0
    change = np.diff(columns, axis=1)
    edges = np.empty((int((change == 1).sum()), 2), np.int64)
    for side, sign in enumerate((1, -1)):  # where a run of 1 begins, and where it has ended
        column, row = np.nonzero(change == sign)
        edges[:, side] = (corner[0] + column) * height + corner[1] + row
    flat = edges.ravel()
    same = flat[1:] == flat[:-1]  # a run that goes on in the next column
    flat = flat[~(np.append(same, False) | np.append(False, same))[: len(flat)]]
    total = height * width
    counts = np.diff(flat, prepend=0, append=total)
    last = len(counts) - 1 if len(counts) > 1 and counts[-1] == 0 else len(counts)
    lengths: list[int] = counts[:last].tolist()
    return lengths


def _compressed(counts: Sequence[int]) -> str:
    """5 bits a character, from the third length on as differences to the one before the last."""
    text = bytearray()
    for index, count in enumerate(counts):
        value, more = count - counts[index - 2] if index > 2 else count, True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(48 + (bits | 32 if more else bits))
    return text.decode("ascii")


def _decompressed(text: str) -> list[int]:
    """The lengths in the text of `_compressed`."""
    counts: list[int] = []
    value = shift = 0
    for character in text.encode():
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if shift > 60:
            raise ValueError("a run is too long")
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
