"""A trained localizer: its model file, and its answers about an image."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnets.data.preprocessing import Normalize
from resnets.detection.localizer import Localizer
from resnets.detection.metrics.detections import Detections, Thresholds
from resnets.detection.metrics.localization_error import ANSWERS
from resnets.evaluation.protocols import network_scorer
from resnets.models import zoo
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError
from resnets.training.recipe import Localization
from resnets.weights import hub, model_file
from resnets.weights.card import LOCALIZATION, read_card, refuse_classifier
from resnets.weights.model_file import Model


def build(network: str, classes: int, settings: Localization) -> Localizer:
    """A localizer with random weights on a network of the zoo.

    Raises:
        UserError: if there is no such network, or it cannot be one.
    """
    own, classifier = (zoo.build(network, classes) for _ in range(2))
    if not isinstance(own, ResidualNetwork) or not isinstance(classifier, ResidualNetwork):
        raise UserError(f"{network} cannot be a localizer", hint="take a residual network")
    return Localizer(own, classifier, settings)


def load(name: str) -> Model:
    """The localizer that a name stands for, as in `hub.resolve`; its network is a `Localizer`.

    Raises:
        UserError: if there is no such model, or it is not a localizer.
    """
    path = hub.resolve(name)
    refuse_classifier(read_card(path)[0], str(path), LOCALIZATION)

    def make(card: dict[str, Any]) -> Localizer:
        settings = Localization.model_validate_json(json.dumps(card[LOCALIZATION]))
        return build(card["network"], len(card["classes"]), settings)

    return model_file.load_as(path, make)


def detect(
    localizer: Localizer,
    pixels: NDArray[np.uint8],
    normalize: Normalize,
    device: torch.device,
    thresholds: Thresholds,
) -> Detections:
    """The most probable classes of a whole image, each with a box.

    Both networks see the image in its own size, fully convolutional.

    Args:
        localizer: on `device`.
        pixels: uint8 RGB (H, W, 3).
        normalize: from uint8 pixels to the networks' input, on `device`.
        device: where to compute.
        thresholds: the least probability of a class, and how many there are at most.

    Returns:
        Boxes in pixels of the image; scores are the probabilities of the classes.
    """
    images = torch.tensor(pixels, device=device)[None].permute(0, 3, 1, 2)
    scores = network_scorer(localizer.classifier, normalize, device)(images)[0]
    most = min(ANSWERS, thresholds.limit)
    best = scores.argsort(dim=0, descending=True, stable=True)[:most]
    boxes = localizer.locate(normalize(images), best[None])[1][0]
    found = Detections(boxes.cpu().numpy(), scores[best].cpu().numpy(), best.cpu().numpy())
    return found.where(found.scores > thresholds.score)
