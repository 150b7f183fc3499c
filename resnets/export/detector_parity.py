"""Detections of an export against those of its source.

Detections are paired greedily: each of the source, best first, with the unpaired one of the export
of the same category that overlaps it most. One that remains alone counts as a difference, unless
rounding explains it: its score is at the limit below which there are no detections, or NMS decided
about it by an overlap that is at the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from resnets.detection.metrics.detections import Detections, overlaps
from resnets.support.errors import UserError
from resnets.training.recipe import Detection


class Tolerance(NamedTuple):
    """The largest acceptable differences of a box's sides, in pixels, of its score, and of a cell
    of its mask."""

    pixels: float
    score: float
    mask: float


SCALED = Tolerance(0.5, 1e-3, 0.01)
"""For images of the size in which the detector sees them."""
OWN_SCALE = Tolerance(1.0, 0.02, 0.1)
"""For images that the export scales itself: its engine may round single pixels otherwise."""
SAME = 0.5
"""IoU above which two detections can be a pair."""
AT_LIMIT = 0.01
"""Difference of an IoU from NMS's limit that rounding may decide about."""


@dataclass(frozen=True)
class DetectorComparison:
    """Detections of an export compared with those of its source.

    Args:
        about: what the images are.
        images: number of images.
        detections: of the source.
        pixels: the largest difference of a box's side, in pixels of the scaled image.
        score: the largest difference of a score.
        mask: the largest difference of a cell of a mask, from 0 to 1; 0 without masks.
        alone: detections of either that have no counterpart and no explanation.
        at_limit: those that rounding explains.
        tolerance: what is acceptable.
    """

    about: str
    images: int
    detections: int
    pixels: float
    score: float
    mask: float
    alone: int
    at_limit: int
    tolerance: Tolerance

    @property
    def passes(self) -> bool:
        """Whether all differences are within the tolerances."""
        within = self.pixels <= self.tolerance.pixels and self.score <= self.tolerance.score
        return within and self.mask <= self.tolerance.mask and not self.alone

    def as_dict(self) -> dict[str, Any]:
        """As JSON, numbers with three digits."""
        values = {
            key: float(f"{value:.3g}") if isinstance(value, float) else value
            for key, value in asdict(self).items()
        }
        return {**values, "tolerance": self.tolerance._asdict()}


def compare(
    about: str,
    source: Sequence[Detections],
    export: Sequence[Detections],
    settings: Detection,
    tolerance: Tolerance = SCALED,
) -> DetectorComparison:
    """Compare the detections in the same images, one list for each image."""
    pixels, scores, masks, alone, explained = [0.0], [0.0], [0.0], 0, 0
    for a, b in zip(source, export, strict=True):
        pairs = pair(a, b)
        for i, j in pairs:
            pixels.append(float(np.abs(a.boxes[i] - b.boxes[j]).max()))
            scores.append(abs(float(a.scores[i] - b.scores[j])))
            if a.masks is not None and b.masks is not None:
                masks.append(float(np.abs(a.masks[i] - b.masks[j]).max()))
        for one, used, other in (
            (a, {i for i, _ in pairs}, b), (b, {j for _, j in pairs}, a)
        ):  # fmt: skip
            for row in set(range(len(one))) - used:
                if _at_limit(one, row, other, settings, tolerance.score):
                    explained += 1
                else:
                    alone += 1
    return DetectorComparison(
        about, len(source), sum(map(len, source)), _largest(pixels), _largest(scores),
        _largest(masks), alone, explained, tolerance,
    )  # fmt: skip


def check(
    comparisons: Sequence[DetectorComparison], name: str, hint: str
) -> list[DetectorComparison]:
    """The comparisons; raises `UserError` if one is beyond the tolerances."""
    for one in comparisons:
        if not one.passes:
            raise UserError(
                f"{name} differs from its source on {one.about}: boxes by {one.pixels:.2g} pixels, "
                f"scores by {one.score:.2g}, masks by {one.mask:.2g}, {one.alone} detections by "
                f"one of them only (tolerated: {', '.join(f'{v:g}' for v in one.tolerance)}, 0)",
                hint=hint,
            )
    return list(comparisons)


def pair(a: Detections, b: Detections) -> list[tuple[int, int]]:
    """Rows of `a` and `b` that are the same object; see this module."""
    overlap = overlaps(a.boxes, b.boxes)
    overlap = np.where(a.categories[:, None] == b.categories, overlap, 0.0)
    pairs, free = [], np.ones(len(b), bool)
    for i in np.argsort(-a.scores, kind="stable").tolist():
        candidates = np.where(free, overlap[i], 0.0)
        if len(b) and candidates.max() >= SAME:
            j = int(candidates.argmax())
            pairs.append((i, j))
            free[j] = False
    return pairs


def _at_limit(
    one: Detections, row: int, other: Detections, settings: Detection, rounding: float
) -> bool:
    """Whether rounding explains that only one side has this detection."""
    score = float(one.scores[row])
    if score <= settings.score + rounding:
        return True
    if len(other) == settings.detections and score <= float(other.scores.min()) + rounding:
        return True
    overlap = overlaps(one.boxes[row : row + 1], other.boxes)[0]
    same = other.categories == one.categories[row]
    return bool((same & (np.abs(overlap - settings.nms) <= AT_LIMIT)).any())


def _largest(values: Sequence[float]) -> float:
    """The largest value; infinite if one is not a number."""
    return max(value if math.isfinite(value) else math.inf for value in values)
