"""Segments of objects as masks: polygons and run lengths, in an image of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet, Object
from resnets.data.boxes.run_lengths import decode
from resnets.support.errors import UserError
from resnets.support.names import printable

Mask = NDArray[np.bool_]
FEWEST_POINTS = 3


def has_segment(one: Object) -> bool:
    """Whether an object has polygons or run lengths."""
    return one.polygons is not None or one.rle is not None


def mask_of(one: Object, old: tuple[int, int], new: tuple[int, int]) -> Mask:
    """An object's segment in its image, which was scaled.

    Args:
        one: with polygons or run lengths.
        old: width and height of the image.
        new: those of the scaled image.

    Returns:
        bool (height, width) of the scaled image.

    Raises:
        ValueError, TypeError, LookupError: if the run lengths are malformed.
    """
    if one.rle is not None:
        if [*one.rle["size"]] != [old[1], old[0]]:
            raise ValueError("its size is not the image's")
        whole = decode(one.rle)
        if old == new:
            return whole.astype(bool)
        grey = Image.fromarray(255 * whole).resize(new, Image.Resampling.BILINEAR)
        scaled: Mask = np.asarray(grey) >= 128
        return scaled
    width, height = new
    mask = np.zeros((height, width), bool)
    for polygon in one.polygons or ():
        points = np.array(polygon, np.float64).reshape(-1, 2) * (np.array(new) / np.array(old))
        mask |= filled(points, width, height)
    return mask


def filled(points: NDArray[np.float64], width: int, height: int) -> Mask:
    """The pixels whose centres lie inside a polygon, by the even-odd rule.

    Args:
        points: (n, 2), x and y of the corners; the last is joined to the first.
        width, height: of the image.
    """
    following = np.roll(points, -1, 0)
    upper = np.where((points[:, 1] <= following[:, 1])[:, None], points, following)
    lower = np.where((points[:, 1] <= following[:, 1])[:, None], following, points)
    # The rows whose centres an edge crosses, each with the place where it does.
    first, last = (
        np.clip(np.ceil(end[:, 1] - 0.5), 0, height).astype(int) for end in (upper, lower)
    )
    counts = last - first
    edge = np.repeat(np.arange(len(points)), counts)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    run, rise = (lower - upper)[edge].T
    x = upper[edge, 0] + (rows + 0.5 - upper[edge, 1]) * run / rise
    columns = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
    mask = np.zeros((height, width), bool)
    if not len(rows):
        return mask
    top, left, right = rows.min(), columns.min(), columns.max()
    crossings = np.zeros((rows.max() + 1 - top, right + 1 - left), np.int32)
    np.add.at(crossings, (rows - top, columns - left), 1)
    mask[top : rows.max() + 1, left:right] = crossings.cumsum(1)[:, :-1] % 2 == 1
    return mask


def masks_of(
    image: AnnotatedImage, objects: Sequence[Object], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """The segments of some objects of an image, scaled: 0 and 1, (k, height, width).

    Args:
        image: of the objects.
        objects: each with a segment.
        size: width and height of the scaled image.

    Raises:
        UserError: if run lengths are malformed.
    """
    masks = np.zeros((len(objects), size[1], size[0]), np.uint8)
    for mask, one in zip(masks, objects, strict=True):
        try:
            mask[:] = mask_of(one, (image.width, image.height), size)
        except (ValueError, TypeError, LookupError) as error:
            message = f"the segmentation of an object cannot be decoded ({error})"
            raise UserError(message, str(image.path), "annotate it again") from error
    return masks


def without_segment(boxes: BoxSet, *, ignored: bool) -> Iterator[tuple[AnnotatedImage, Object]]:
    """The objects that have no segment.

    Args:
        boxes: the images.
        ignored: whether crowds and difficult objects count, too.
    """
    for image in boxes.images:
        for one in image.objects:
            if not has_segment(one) and (ignored or not (one.crowd or one.difficult)):
                yield image, one


def require_segments(boxes: BoxSet, *, ignored: bool) -> None:
    """Raise `UserError` unless all objects have a segment that can be decoded.

    Args:
        boxes, ignored: as for `without_segment`.
    """
    missing = [*without_segment(boxes, ignored=ignored)]
    if missing:
        image, one = missing[0]
        total = sum(len(image.objects) for image in boxes.images)
        name = printable(boxes.categories[one.category])
        raise UserError(
            f"{len(missing):,} of {total:,} objects have no segment to train or test masks with, "
            f"the first a {name} in {printable(image.name)}",
            str(boxes.folder),
            "draw polygons, or leave masks out: --set detection.masks=false",
        )
    for image in boxes.images:
        for one in image.objects:
            if one.rle is not None:
                masks_of(image, [one], (1, 1))
