"""How far COCO's AP may be off because the test images are only a sample: the bootstrap."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from resnets.data.boxes.annotations import BoxSet
from resnets.detection.metrics.detections import Detections
from resnets.detection.metrics.matching import match

RESAMPLES = 500
LEVEL = 0.95


def bootstrap(
    boxes: BoxSet, detections: Sequence[Detections], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of AP and AP50, from 0 to 1, by drawing the images anew.

    Each resample draws as many images as there are, with repetition, and averages the categories
    that have objects in it (Efron, 1979: the percentile interval).

    Args:
        boxes: the test images.
        detections: what was found in each, in the order of `boxes`.
        resamples: how often the images are drawn.
        seed: of the draws.

    Returns:
        For `AP` and `AP50` the lower and the upper end; NaN if there is no object.

    Raises:
        ValueError: if the detections do not fit the images.
    """
    matches = [one for one in match(boxes, detections) if one.positives.any()]
    random = np.random.default_rng(seed)
    images = len(boxes)
    drawn = []
    for _ in range(resamples):
        weights = np.bincount(random.integers(0, images, images), minlength=images)
        values = np.array([one.average_precision(weights) for one in matches]).reshape(-1, 10)
        with warnings.catch_warnings():  # a resample may be without any object
            warnings.simplefilter("ignore", RuntimeWarning)
            drawn.append((np.nanmean(values), np.nanmean(values[:, 0])))
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    found = {}
    for name, column in zip(("AP", "AP50"), np.array(drawn).T, strict=True):
        known = column[np.isfinite(column)]
        low, high = np.quantile(known, ends).tolist() if len(known) else (np.nan, np.nan)
        found[name] = (low, high)
    return found
