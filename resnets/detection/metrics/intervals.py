"""How far an average precision may be off because the test images are only a sample: the bootstrap.

Efron, 1979: the percentile interval.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from resnets.data.boxes.annotations import BoxSet
from resnets.detection.metrics import voc
from resnets.detection.metrics.detections import Detections, Truth, checked
from resnets.detection.metrics.matching import match

RESAMPLES = 500
LEVEL = 0.95
Weights = NDArray[np.int64]
"""How often each image is drawn."""
Intervals = dict[str, tuple[float, float]]
"""The lower and the upper end by name; NaN if there is no object."""


def bootstrap(
    boxes: BoxSet, detections: Sequence[Detections], resamples: int = RESAMPLES, seed: int = 0
) -> Intervals:
    """The 95 % intervals of COCO's AP and AP50, from 0 to 1, by drawing the images anew.

    Each resample draws as many images as there are, with repetition, and averages the categories
    that have objects in it.

    Args:
        boxes: the test images.
        detections: what was found in each, in the order of `boxes`.
        resamples: how often the images are drawn.
        seed: of the draws.

    Raises:
        ValueError: if the detections do not fit the images.
    """
    matches = [one for one in match(boxes, detections) if one.positives.any()]

    def measure(weights: Weights) -> tuple[float, ...]:
        values = np.array([one.average_precision(weights) for one in matches]).reshape(-1, 10)
        return float(np.nanmean(values)), float(np.nanmean(values[:, 0]))

    return _intervals(("AP", "AP50"), measure, len(boxes), resamples, seed)


def bootstrap_voc(
    boxes: BoxSet,
    detections: Sequence[Detections],
    year: voc.Year = 2007,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """The same for the mean of VOC's average precision, named `mAP`; see `bootstrap`."""
    checked(boxes, detections)
    truths = [Truth.of(image) for image in boxes.images]
    each = [voc.outcomes(truths, detections, number) for number in range(len(boxes.categories))]

    def measure(weights: Weights) -> tuple[float, ...]:
        values = []
        for one in each:
            if positives := int(weights @ one.positives):
                times = weights[one.images]
                values.append(voc.average_precision(one.right, positives, year, times))
        return (float(np.mean(values)),)

    return _intervals(("mAP",), measure, len(boxes), resamples, seed)


def _intervals(
    names: Sequence[str],
    measure: Callable[[Weights], tuple[float, ...]],
    images: int,
    resamples: int,
    seed: int,
) -> Intervals:
    random = np.random.default_rng(seed)
    drawn = []
    with warnings.catch_warnings():  # a resample may be without any object
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(resamples):
            weights = np.bincount(random.integers(0, images, images), minlength=images)
            drawn.append(measure(weights))
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    found = {}
    for name, column in zip(names, np.array(drawn).T, strict=True):
        known = column[np.isfinite(column)]
        low, high = np.quantile(known, ends).tolist() if len(known) else (np.nan, np.nan)
        found[name] = (low, high)
    return found
