"""Multiply-adds of a detector: of the parts that see the image once, and of each region."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from resnets.detection import model
from resnets.detection.detector import BINS, Detector
from resnets.models.complexity import counted
from resnets.training.recipe import Detection

SHAPES = ((300, 400), (400, 533), (600, 800))
"""Heights and widths that are reported: a photograph at usual shorter sides."""


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of convolutions and classifiers.

    Args:
        height, width: of the image, without the padding to a multiple of the stride.
        trunk: the stem and the shared stages.
        rpn: the RPN's 3x3 convolution.
        rpn_outputs: its two 1x1 convolutions.
        region: the last stage for one region, without the two layers after it.
    """

    height: int
    width: int
    trunk: int
    rpn: int
    rpn_outputs: int
    region: int


def costs(network: str, settings: Detection, height: int, width: int) -> Cost:
    """The cost of one image of this size, counted on the built detector.

    Raises:
        UserError: if there is no such network.
    """
    detector = _built(network, settings)
    images = torch.empty(0, 3, height, width)
    with torch.no_grad():
        maps = detector.maps(images)
    pooled = torch.empty(0, maps.shape[1], *[-(-BINS // detector.every)] * 2)

    last = detector.network.get_submodule(detector.last)
    outputs = nn.ModuleList([detector.rpn.objectness, detector.rpn.codes])
    return Cost(
        height,
        width,
        trunk=counted(detector.network, lambda: detector.maps(images)),
        rpn=counted(detector.rpn.conv, lambda: detector.rpn(maps)),
        rpn_outputs=counted(outputs, lambda: detector.rpn(maps)),
        region=counted(last, lambda: last(pooled)),
    )


def _built(network: str, settings: Detection) -> Detector:
    """A detector whose weights have no values."""
    with torch.device("meta"):
        detector = model.build(network, 1, settings).eval()
    # On the meta device PyTorch would import its compiler; this memory is never accessed.
    empty = {k: torch.empty(t.shape, dtype=t.dtype) for k, t in detector.state_dict().items()}
    detector.load_state_dict(empty, assign=True)
    return detector
