"""Detections drawn into images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from resnets.detection.metrics.detections import Detections

TILE = 320
"""Pixels a side of an image on a sheet."""
COLUMNS = 4
GOLDEN = 0.618034
"""Steps of the hue between categories, which keep neighbours apart."""


def draw(
    image: Image.Image, found: Detections, categories: Sequence[str], least: float = 0.5
) -> Image.Image:
    """A copy of an image with its detections.

    Args:
        image: upright RGB.
        found: its detections, in its pixels.
        categories: names.
        least: score below which a detection is not drawn.
    """
    picture = image.copy()
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, min(picture.size) // 25))
    width = max(2, min(picture.size) // 150)
    for box, score, category in zip(
        found.boxes.tolist(), found.scores.tolist(), found.categories.tolist(), strict=True
    ):
        if score < least:
            continue
        colour = category_colour(category)
        pen.rectangle(box, outline=colour, width=width)
        text = f"{categories[category]} {score:.2f}"
        corner = box[0] + width, box[1] + width
        pen.rectangle(pen.textbbox(corner, text, font=font), fill=colour)
        pen.text(corner, text, fill="white", font=font)
    return picture


def category_colour(category: int) -> tuple[int, int, int]:
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
