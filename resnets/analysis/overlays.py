"""Pictures of maps: heat over a photograph, and sheets of several pictures with captions.

Colours and letters are matplotlib's, which is imported only here.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLOURS = "inferno"
"""From black to pale yellow, ever lighter: the order shows without a legend, in grey too."""
SIDE = 320
"""Pixels a side of a picture on a sheet."""
_GAP, _LETTERS = 12, 15
_PAPER, _INK, _GREY = "#ffffff", "#1a1a1a", "#666666"


@dataclass(frozen=True)
class Panel:
    """A picture of a sheet.

    Args:
        picture: of any size; it is scaled.
        caption: lines below it; what does not fit is cut.
    """

    picture: Image.Image
    caption: Sequence[str]


def overlay(photo: Image.Image, values: Tensor, opacity: float) -> Image.Image:
    """A map over the part of a photograph that it covers.

    The photograph is shown in grey, so that all colour is the map's.

    Args:
        photo: RGB, of any size; the picture gets the same.
        values: (H, W) in 0..1, scaled up bilinearly.
        opacity: of the colours; 0 shows the photograph, 1 the map alone.
    """
    from matplotlib import colormaps

    small = Image.fromarray(values.float().cpu().numpy(), "F")
    large = np.asarray(small.resize(photo.size, Image.Resampling.BILINEAR))
    heat = colormaps[COLOURS](large, bytes=True)[..., :3]
    return Image.blend(photo.convert("L").convert("RGB"), Image.fromarray(heat), opacity)


def sheet(panels: Sequence[Panel], title: str, columns: int = 6) -> Image.Image:
    """Pictures side by side under a title, each with its caption."""
    font = _font(_LETTERS)
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    lines = max(len(panel.caption) for panel in panels)
    line = _LETTERS + 5
    cell = SIDE + lines * line + _GAP
    head = 2 * line + _GAP
    width = columns * (SIDE + _GAP) + _GAP
    paper = Image.new("RGB", (width, head + rows * cell + _GAP // 2), _PAPER)
    draw = ImageDraw.Draw(paper)
    draw.text((_GAP, _GAP), fitting(title, width - 2 * _GAP, _font(18)), _INK, _font(18))
    for number, panel in enumerate(panels):
        left = _GAP + number % columns * (SIDE + _GAP)
        top = head + number // columns * cell
        paper.paste(scaled(panel.picture), (left, top))
        for place, text in enumerate(panel.caption):
            at = (left, top + SIDE + 4 + place * line)
            draw.text(at, fitting(text, SIDE, font), _GREY if place else _INK, font)
    return paper


def scaled(picture: Image.Image) -> Image.Image:
    """A square picture at a sheet's size; what is much smaller keeps its pixels visible."""
    coarse = picture.width * 2 <= SIDE
    return picture.resize(
        (SIDE, SIDE), Image.Resampling.NEAREST if coarse else Image.Resampling.BICUBIC
    )


def fitting(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text in one line, or as much of it as fits, with an ellipsis."""
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def png(picture: Image.Image) -> bytes:
    """As a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: more alphabets than Pillow's own."""
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size)
