"""What a detector found in images, as data, JSON, text, HTML and pictures."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnets.inference.image_inputs import ImageInput, open_image
from resnets.inference.predictions import DIGITS
from resnets.support.errors import valid_utf8

if TYPE_CHECKING:
    from PIL import Image

    from resnets.detection.metrics.detections import Detections

SHOWN = 5
"""Objects in the text of a result."""


@dataclass(frozen=True)
class DetectedObject:
    """An object that a detector found.

    Args:
        name: of its category.
        score: the category's probability, in [0, 1].
        box: x1, y1, x2, y2 in pixels of the upright image; the first pixel reaches from 0 to 1.
        index: of the category, from 0.
        cells: of a detector of masks, the probabilities of the object in the 14 x 14 cells of its
            box, float32.
        size: width and height of the image.
    """

    name: str
    score: float
    box: tuple[float, float, float, float]
    index: int
    cells: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)
    size: tuple[int, int] = field(default=(0, 0), repr=False, compare=False)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """The pixels of the object, bool (height, width) of the image; None if no masks are found.

        It is computed anew each time: the masks of large images take much memory.
        """
        if self.cells is None:
            return None
        from resnets.detection import mask_pixels

        return mask_pixels.pixels(self.cells, self.box, *self.size)

    @property
    def polygons(self) -> list[list[float]] | None:
        """The outlines of the object as x, y, x, y, ..., the largest first, with those of holes;
        None if no masks are found."""
        if self.cells is None:
            return None
        from resnets.detection import mask_pixels

        return mask_pixels.polygons(self.cells, self.box)

    def as_dict(self) -> dict[str, Any]:
        """Category, score and box as JSON, rounded; the mask as polygons and in run lengths."""
        facts = {
            "category": valid_utf8(self.name),
            "score": round(self.score, DIGITS),
            "box": [round(side, 2) for side in self.box],
        }
        if self.cells is None:
            return facts
        from resnets.detection import mask_pixels

        polygons = rounded(self.polygons or [])
        segmentation = mask_pixels.encoded(self.cells, self.box, *self.size)
        return {**facts, "polygons": polygons, "segmentation": segmentation}

    def __str__(self) -> str:
        """Such as `raccoon 98.7 %`."""
        return f"{self.name} {100 * self.score:.1f} %"


@dataclass(frozen=True, repr=False)
class ImageDetections:
    """The objects in one image or video frame, or the reason why there are none.

    Args:
        image: its file as it was named, `images[0]` for the first image without a file, or
            `clip.mp4#25` for a frame.
        width, height: of the upright image, in pixels; 0 where there is an error.
        objects: the objects, those of the highest score first.
        frame, seconds: of a video's frame, its number from 0 and its time.
        error: why the image could not be read.
    """

    image: str
    width: int = 0
    height: int = 0
    objects: list[DetectedObject] = field(default_factory=list)
    frame: int | None = None
    seconds: float | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        facts: dict[str, Any] = {"image": valid_utf8(self.image)}
        if self.error is not None:
            return {**facts, "error": valid_utf8(self.error)}
        if self.frame is not None and self.seconds is not None:
            facts |= {"frame": self.frame, "seconds": round(self.seconds, 3)}
        objects = [one.as_dict() for one in self.objects]
        return {**facts, "width": self.width, "height": self.height, "objects": objects}

    def draw(self, image: ImageInput) -> Image.Image:
        """A copy of the image with boxes, masks, categories and scores.

        Args:
            image: the same image again.

        Raises:
            UserError: if it cannot be read.
        """
        from resnets.detection.pictures import LabelledBox, category_colour, draw_boxes

        boxes = [
            LabelledBox(
                one.box, f"{one.name} {one.score:.2f}", category_colour(one.index), one.cells
            )
            for one in reversed(self.objects)  # the best on top
        ]
        return draw_boxes(open_image(image), boxes)

    def __repr__(self) -> str:
        """Such as `<ImageDetections of a.jpg: raccoon 98.7 %, raccoon 61.2 %>`."""
        names = [*map(str, self.objects[:SHOWN])]
        if len(self.objects) > SHOWN:
            names.append(f"{len(self.objects) - SHOWN:,} more")
        text = self.error if self.error is not None else ", ".join(names) or "no objects"
        return f"<ImageDetections of {self.image}: {text}>"

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        title = f"<b>{html.escape(valid_utf8(self.image))}</b>"
        if self.error is not None:
            return f"<div>{title}: {html.escape(valid_utf8(self.error))}</div>"
        rows = "".join(map(_html_row, self.objects))
        return f"<div>{title} ({self.width} x {self.height})<table>{rows}</table></div>"


def _html_row(one: DetectedObject) -> str:
    corners = ", ".join(f"{side:.0f}" for side in one.box)
    return (
        f'<tr><td style="text-align:left">{html.escape(valid_utf8(one.name))}</td>'
        f"<td>{100 * one.score:.1f} %</td><td>{corners}</td></tr>"
    )


def rounded(polygons: list[list[float]]) -> list[list[float]]:
    """Polygons with two digits."""
    return [[round(value, 2) for value in outline] for outline in polygons]


def as_objects(
    found: Detections, categories: list[str], size: tuple[int, int]
) -> list[DetectedObject]:
    """Detections with the names of their categories, in an image of this width and height."""
    rows: Iterable[Any] = zip(
        found.categories.tolist(),
        found.scores.tolist(),
        found.boxes.astype(np.float64).tolist(),
        [None] * len(found) if found.masks is None else found.masks,
        strict=True,
    )
    return [
        DetectedObject(categories[index], score, tuple(box), index, cells, size)
        for index, score, box, cells in rows
    ]
