"""A trained detector: its model file, and images to detections."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from resnets.data.boxes.batches import stack_padded
from resnets.data.boxes.rescaling import Rescaling, scale_boxes
from resnets.data.preprocessing import Normalize
from resnets.detection.detector import Detector
from resnets.detection.ensemble import Member
from resnets.detection.improvements import Improvements
from resnets.detection.metrics.detections import Detections, Thresholds
from resnets.detection.regions import Found
from resnets.detection.search import search
from resnets.models import zoo
from resnets.models.residual import ResidualNetwork
from resnets.support.devices import has_bf16
from resnets.support.errors import UserError
from resnets.training.recipe import Detection
from resnets.weights import hub, model_file
from resnets.weights.card import DETECTION, read_card, refuse_classifier
from resnets.weights.model_file import Model


def build(network: str, categories: int, settings: Detection) -> Detector:
    """A detector with random weights on a network of the zoo.

    Raises:
        UserError: if there is no such network, or the settings do not suit it.
    """
    trunk = zoo.build(network)
    if not isinstance(trunk, ResidualNetwork):
        raise UserError(f"{network} cannot be a detector", hint="use a residual network")
    return Detector(trunk, categories, settings)


def is_detector(name: str) -> bool:
    """Whether a model, as `hub.resolve` finds it, is a detector."""
    return DETECTION in read_card(hub.resolve(name))[0]


def load(name: str) -> Model:
    """The detector that a name stands for, as in `hub.resolve`; its network is a `Detector`.

    Raises:
        UserError: if there is no such model, or it is not a detector.
    """
    path = hub.resolve(name)
    refuse_classifier(read_card(path)[0], str(path))

    def make(card: dict[str, Any]) -> Detector:
        settings = Detection.model_validate_json(json.dumps(card[DETECTION]))
        return build(card["network"], len(card["classes"]), settings)

    return model_file.load_as(path, make)


def with_thresholds(detector: Detector, thresholds: Thresholds) -> Detector:
    """A detector of the same weights, which are shared, with other thresholds."""
    made = copy.copy(detector)
    made.settings = detector.settings.model_copy(
        update={
            "score": thresholds.score, "nms": thresholds.nms, "detections": thresholds.limit,
        }
    )  # fmt: skip
    return made


def rescaling(settings: Detection) -> Rescaling:
    """The size in which a detector with these settings sees images."""
    return Rescaling(settings.size, settings.max_size)


def detect(
    detector: Detector,
    images: Iterable[Image.Image],
    normalize: Normalize,
    device: torch.device,
    precision: str = "auto",
) -> Iterator[Detections]:
    """Detections in images, one after the other.

    Args:
        detector: on `device`.
        images: upright RGB, of any size.
        normalize: from uint8 pixels to the network's input, on `device`.
        device: where to compute.
        precision: `bf16`, `fp32`, or `auto`: bf16 where the device multiplies it.

    Yields:
        Boxes in pixels of the image, best first.
    """
    scale = rescaling(detector.settings)
    for image in images:
        yield detect_scaled(
            detector, np.asarray(scale.apply(image)), image.size, normalize, device, precision
        )


def detect_scaled(
    detector: Detector,
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    normalize: Normalize,
    device: torch.device,
    precision: str = "auto",
) -> Detections:
    """Detections in an image that was scaled already.

    Args:
        pixels: uint8 (H, W, 3), of the scaled image.
        size: width and height of the whole image.
        detector, normalize, device, precision: as for `detect`.
    """
    batch = stack_padded([pixels], normalize, device, detector.stride)
    height, width = pixels.shape[:2]
    with _autocast(device, precision):
        found = detector.detect(batch, [(height, width)])[0]
    return _in_image(found, (width, height), size)


def detect_improved(
    members: Sequence[Member],
    image: Image.Image,
    improvements: Improvements,
    device: torch.device,
    precision: str = "auto",
) -> Detections:
    """Detections in an image by one detector or several, with improvements of appendix B.

    Args:
        members: the detectors, on `device`; the first one's settings say what stays.
        image: upright RGB, of any size.
        improvements: of the search.
        device, precision: as for `detect`.

    Returns:
        Boxes in pixels of the image, best first.
    """
    with _autocast(device, precision):
        found, (height, width) = search(members, image, improvements, device)
    return _in_image(found, (width, height), image.size)


def _in_image(found: Found, scaled: tuple[int, int], size: tuple[int, int]) -> Detections:
    return Detections(
        boxes=scale_boxes(found.boxes.cpu().numpy(), scaled, size),
        scores=found.scores.cpu().numpy(),
        categories=found.categories.cpu().numpy(),
        masks=None if found.masks is None else found.masks.cpu().numpy(),
    )


def _autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    half = has_bf16(device) if precision == "auto" else precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16) if half else nullcontext()
