"""Masks of detections in their images: as pixels, run lengths and polygons.

A mask is given in 14 x 14 cells that divide its box evenly. Between the cells' centres it is
bilinear, and beyond the outermost ones it falls to 0 within a cell. The object is where it is at
least 0.5, which is never outside the box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnets.data.boxes import run_lengths

LEAST = 0.5
"""Probability from which a pixel belongs to the object."""
Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in pixels of an image."""
Cells = NDArray[np.floating[Any]]


def sampled(cells: Cells, box: Sequence[float], window: Window) -> NDArray[np.float32]:
    """Probabilities at the centres of the pixels of a window, (height, width).

    Args:
        cells: the mask, (14, 14).
        box: x1, y1, x2, y2, which the cells divide.
        window: part of the image.
    """
    across = _weights(box[0], box[2], window[0], window[2], cells.shape[1])
    down = _weights(box[1], box[3], window[1], window[3], cells.shape[0])
    found: NDArray[np.float32] = down @ cells.astype(np.float32) @ across.T
    return found


def _weights(begin: float, end: float, first: int, last: int, cells: int) -> NDArray[np.float32]:
    """Weights (pixels, cells) of the cells along one side."""
    length = max(end - begin, 1e-6)
    places = (np.arange(first, last)[:, None] + 0.5 - begin) / length * cells - 0.5
    near: NDArray[np.float64] = 1 - np.abs(places - np.arange(cells))
    return np.maximum(near, 0).astype(np.float32)


def window_of(box: Sequence[float], width: int, height: int) -> Window:
    """The pixels of an image that a box touches."""
    x1, y1, x2, y2 = box
    return (
        min(max(math.floor(x1), 0), width), min(max(math.floor(y1), 0), height),
        max(min(math.ceil(x2), width), 0), max(min(math.ceil(y2), height), 0),
    )  # fmt: skip


def in_window(
    cells: Cells, box: Sequence[float], width: int, height: int
) -> tuple[NDArray[np.bool_], Window]:
    """The pixels of an object in the window of its box, and this window.

    Args:
        cells, box: as for `sampled`.
        width, height: of the image.
    """
    window = window_of(box, width, height)
    return sampled(cells, box, window) >= LEAST, window


def pixels(cells: Cells, box: Sequence[float], width: int, height: int) -> NDArray[np.bool_]:
    """The pixels of an object in the whole image, bool (height, width); see `in_window`."""
    part, (x1, y1, x2, y2) = in_window(cells, box, width, height)
    whole = np.zeros((height, width), bool)
    whole[y1:y2, x1:x2] = part
    return whole


def encoded(cells: Cells, box: Sequence[float], width: int, height: int) -> dict[str, Any]:
    """The same in COCO's run-length encoding."""
    part, (x1, y1, _, _) = in_window(cells, box, width, height)
    return run_lengths.encode(part, (x1, y1), (height, width))


def polygons(cells: Cells, box: Sequence[float]) -> list[list[float]]:
    """The outlines of an object as x, y, x, y, ..., the largest first; holes are among them.

    Args:
        cells, box: as for `sampled`.
    """
    from contourpy import contour_generator  # of matplotlib

    count = len(cells)
    places = (np.arange(-1, count + 1) + 0.5) / count
    x, y = (begin + places * (end - begin) for begin, end in zip(box[:2], box[2:], strict=True))
    lines: Any = contour_generator(x, y, np.pad(cells, 1)).lines(LEAST)
    closed = [line[:-1] for line in lines if len(line) > 3]
    return [line.ravel().tolist() for line in sorted(closed, key=_area, reverse=True)]


def _area(outline: NDArray[np.float64]) -> float:
    x, y = outline.T
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2
