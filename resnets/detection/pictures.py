"""Detections drawn into images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from resnets.analysis import lettering
from resnets.detection import mask_pixels
from resnets.detection.metrics.detections import Detections
from resnets.detection.metrics.pairing import Paired

Colour: TypeAlias = tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
TILE = 320
"""Pixels a side of an image on a sheet."""
RIGHT, FALSE, MISSED = (0, 140, 60), (205, 30, 30), (20, 90, 220)
"""Colours of detections that are right or false, and of objects that were missed."""
COLUMNS = 4
MASK_OPACITY = 0.45
GOLDEN = 0.618034
"""Steps of the hue between categories, which keep neighbours apart."""


@dataclass(frozen=True)
class LabelledBox:
    """A box to be drawn.

    Args:
        box: x1, y1, x2, y2 in pixels of the image.
        label: its text; may be empty.
        colour: of box, label and mask.
        cells: the mask, (14, 14), as in `mask_pixels`; None without.
    """

    box: tuple[float, ...]
    label: str
    colour: Colour
    cells: NDArray[Any] | None = None


def draw(
    image: Image.Image, found: Detections, categories: Sequence[str], least: float = 0.5
) -> Image.Image:
    """A copy of an image with its detections: boxes and masks.

    Args:
        image: upright RGB.
        found: its detections, in its pixels.
        categories: names.
        least: score below which a detection is not drawn.
    """
    shown = found.where(found.scores >= least)
    rows = zip(
        shown.boxes.tolist(), shown.scores.tolist(), shown.categories.tolist(),
        [None] * len(shown) if shown.masks is None else shown.masks, strict=True,
    )  # fmt: skip
    boxes = [
        LabelledBox(
            tuple(box), f"{categories[category]} {score:.2f}", category_colour(category), cells
        )
        for box, score, category, cells in rows
    ]
    return draw_boxes(image, boxes[::-1])


def draw_boxes(image: Image.Image, boxes: Sequence[LabelledBox]) -> Image.Image:
    """A copy of an image with boxes, their masks and labels, the last ones on top.

    Lines and letters grow with the image. A label is above its box, or inside where the image
    ends, and moves left to be whole.

    Args:
        image: upright RGB.
        boxes: in its pixels.
    """
    picture = image.copy()
    if not boxes:
        return picture
    side = min(picture.size)
    font = _font(max(10, side // 30), " ".join(one.label for one in boxes))
    width = max(2, side // 150)
    for one in boxes:
        _fill_mask(picture, one)
    pen = ImageDraw.Draw(picture)
    for one in boxes:
        pen.rectangle(one.box, outline=one.colour, width=width)
    for one in boxes:
        _draw_label(pen, one, font, picture.size)
    return picture


def draw_errors(image: Image.Image, paired: Paired, categories: Sequence[str]) -> Image.Image:
    """A copy of an image with what a detector found, and what it should have.

    Found objects are green; detections of a wrong category, or of nothing, are red; missed objects
    are blue.

    Args:
        image: upright RGB.
        paired: its detections and objects.
        categories: names.
    """
    found, truth = paired.found, paired.truth
    wrong = {at: f" (is {categories[truth.categories[of]]})" for at, of in paired.confused}
    wrong |= dict.fromkeys(paired.false, " (false)")
    boxes = [
        LabelledBox(tuple(truth.boxes[of]), f"{categories[truth.categories[of]]} (missed)", MISSED)
        for of in paired.missed
    ]
    for at in sorted({at for at, _ in paired.pairs} | set(paired.false)):
        text = f"{categories[found.categories[at]]} {found.scores[at]:.2f}{wrong.get(at, '')}"
        boxes.append(LabelledBox(tuple(found.boxes[at]), text, FALSE if at in wrong else RIGHT))
    return draw_boxes(image, boxes)


def _fill_mask(picture: Image.Image, one: LabelledBox) -> None:
    if one.cells is None:
        return
    mask, window = mask_pixels.in_window(one.cells, one.box, *picture.size)
    if mask.size:
        part = picture.crop(window)
        tinted = Image.blend(part, Image.new("RGB", part.size, one.colour), MASK_OPACITY)
        picture.paste(tinted, window[:2], Image.fromarray(mask))


def _draw_label(
    pen: ImageDraw.ImageDraw, one: LabelledBox, font: Font, size: tuple[int, int]
) -> None:
    text = _lettered(one.label, font)
    if not text:
        return
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    gap = max(1, (bottom - top) // 6)
    width, height = right - left + 2 * gap, bottom - top + 2 * gap
    x = max(0.0, min(one.box[0], size[0] - width))
    y = one.box[1] - height if one.box[1] >= height else one.box[1]
    y = max(0.0, min(y, size[1] - height))
    pen.rectangle((x, y, x + width, y + height), fill=one.colour)
    pen.text((x + gap - left, y + gap - top), text, fill=_ink(one.colour), font=font)


def _font(size: int, text: str) -> Font:
    """A font with the letters of a text; Pillow's own where matplotlib is not installed."""
    try:
        return ImageFont.truetype(lettering.font_file(text), size)
    except ImportError:
        return ImageFont.load_default(size)


def _lettered(text: str, font: Font) -> str:
    """The text on one line, with escapes for letters that the font lacks."""
    path = getattr(font, "path", None)
    if not isinstance(path, str | Path):
        return " ".join(text.split())
    return lettering.lettered(text, Path(path))


def _ink(colour: Colour) -> str:
    """Black or white, whichever is easier to read on a colour."""
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def category_colour(category: int) -> Colour:
    """A colour for each category, the same everywhere."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + GOLDEN * category) % 1, 0.85, 0.75)
    return round(255 * red), round(255 * green), round(255 * blue)


def contact_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures side by side, each scaled into a square tile."""
    columns = min(COLUMNS, max(1, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    sheet = Image.new("RGB", (columns * TILE, rows * TILE), "white")
    for number, picture in enumerate(pictures):
        tile = picture.copy()
        tile.thumbnail((TILE, TILE))
        row, column = divmod(number, columns)
        left = column * TILE + (TILE - tile.width) // 2
        sheet.paste(tile, (left, row * TILE + (TILE - tile.height) // 2))
    return sheet
