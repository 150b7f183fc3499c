"""A deployable network in the form of another engine."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from resnets.deploy.graph import Deployable
from resnets.deploy.runtimes import INPUT, OUTPUTS, openvino


def to_openvino(network: Deployable, size: int) -> Any:
    """An OpenVINO model of any batch: uint8 `images` to float32 `logits` and `features`.

    Args:
        size: side in pixels of the images.
    """
    ov = openvino()
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    with torch.no_grad(), _quiet():
        model = ov.convert_model(
            network, example_input=example, input=[ov.PartialShape([-1, 3, size, size])]
        )
    model.inputs[0].set_names({INPUT})
    for output, name in zip(model.outputs, OUTPUTS, strict=True):
        output.set_names({name})
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracer's warnings, which are about this program's own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
