"""Heat maps over photographs, and sheets of captioned pictures.

Colour map and font are matplotlib's, which is imported inside functions.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from resnets.analysis import lettering

COLOURS = "inferno"
"""matplotlib's colour map, from black to pale yellow: lighter is larger, in grey too."""
SIDE = 320
"""Side in pixels of a picture on a sheet."""
_GAP, _LETTERS = 12, 15
_PAPER, _INK, _GREY = "#ffffff", "#1a1a1a", "#666666"


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture of a sheet, with lines of text below it.

    Args:
        picture: of any size; it is scaled.
        caption: lines below it; lines that are too long are cut.
    """

    picture: Image.Image
    caption: Sequence[str]


def overlay(photo: Image.Image, values: Tensor, opacity: float) -> Image.Image:
    """A map in colours over a photograph in grey.

    Args:
        photo: the part of the photograph that the map covers, RGB; the result has its size.
        values: (H, W) in 0..1, scaled up bilinearly.
        opacity: of the map: 0 shows only the photograph, 1 only the map.
    """
    from matplotlib import colormaps

    small = Image.fromarray(values.float().cpu().numpy(), "F")
    large = np.asarray(small.resize(photo.size, Image.Resampling.BILINEAR))
    heat = colormaps[COLOURS](large, bytes=True)[..., :3]
    return Image.blend(photo.convert("L").convert("RGB"), Image.fromarray(heat), opacity)


def sheet(pictures: Sequence[CaptionedPicture], title: str, columns: int = 6) -> Image.Image:
    """Pictures side by side under a title, each with its caption."""
    captions = " ".join(text for one in pictures for text in one.caption)
    font, title_font = _font(_LETTERS, captions), _font(18, title)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    lines = max(len(one.caption) for one in pictures)
    line = _LETTERS + 5
    cell = SIDE + lines * line + _GAP
    head = 2 * line + _GAP
    width = columns * (SIDE + _GAP) + _GAP
    paper = Image.new("RGB", (width, head + rows * cell + _GAP // 2), _PAPER)
    draw = ImageDraw.Draw(paper)
    draw.text((_GAP, _GAP), fitting(title, width - 2 * _GAP, title_font), _INK, title_font)
    for number, one in enumerate(pictures):
        left = _GAP + number % columns * (SIDE + _GAP)
        top = head + number // columns * cell
        paper.paste(scaled(one.picture), (left, top))
        for row, text in enumerate(one.caption):
            at = (left, top + SIDE + 4 + row * line)
            draw.text(at, fitting(text, SIDE, font), _GREY if row else _INK, font)
    return paper


def scaled(picture: Image.Image) -> Image.Image:
    """A square picture scaled to `SIDE`; pixels of much smaller pictures stay visible."""
    coarse = picture.width * 2 <= SIDE
    return picture.resize(
        (SIDE, SIDE), Image.Resampling.NEAREST if coarse else Image.Resampling.BICUBIC
    )


def fitting(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """The text in one line, cut to `width` pixels with an ellipsis if it is longer."""
    text = lettering.lettered(text, Path(str(font.path)))
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def png(picture: Image.Image) -> bytes:
    """The picture as the content of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(lettering.font_file(text), size)
