"""Deep residual networks and their plain twins (He et al., arXiv 1512.03385).

Three functions are the front door::

    import resnets

    model = resnets.load("resnet50@msra")
    for prediction in model.predict(["a.jpg", "b.jpg"]):
        print(prediction.top[0].name, prediction.top[0].probability)
    network = resnets.create_model("cifar-resnet56", classes=10)  # a torch.nn.Module
    resnets.list_models("*110*")

Importing this module is quick: PyTorch and the engines are imported when a function needs them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from resnets.version import __version__

if TYPE_CHECKING:
    import torch
    from torch import nn

    from resnets.inference.object_detector import ObjectDetector
    from resnets.inference.predictor import Predictor

__all__ = ["__version__", "create_model", "list_models", "load"]


def load(
    name: str,
    *,
    device: str | torch.device = "auto",
    runtime: str = "auto",
    precision: str = "auto",
) -> Predictor | ObjectDetector:
    """Open a trained model, ready to predict, give features and explain; or a detector.

    ::

        model = resnets.load("cifar-resnet20")
        model.predict("ship.png")[0].top[0]      # ClassProbability(name='ship', ...)
        model.features(["a.png", "b.png"])       # pooled features, float32 (2, 64)
        model.features("a.png", stage="layer2")  # a stage's output, float32 (1, 32, 16, 16)
        model.explain("a.png").sheet()           # a picture: where each stage finds evidence

        detector = resnets.load("runs/raccoons")
        detector.predict("a.png")[0].objects[0]  # DetectedObject(name='raccoon', box=...)

    Images are paths, PIL images, uint8 RGB arrays (H, W, 3) or uint8 RGB tensors (3, H, W).

    Args:
        name: a model that comes with this package (`cifar-resnet20`), a named source
            (`resnet50@msra`, downloaded once), a model file, a run folder, or an export.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ..., or a `torch.device`.
        runtime: `torch`, `openvino`, or `auto`: OpenVINO on CPUs, PyTorch on GPUs.
        precision: `fp32`, `bf16`, `int8`, or `auto`: int8 for calibrated models on CPUs, otherwise
            bf16 where the hardware has it.

    Raises:
        UserError: if there is no such model, or it cannot run so.
        TypeError: if an argument is not text.
    """
    from resnets.inference.engine_choice import check_engine
    from resnets.inference.object_detector import is_detector, open_detector
    from resnets.inference.predictor import open_predictor
    from resnets.support.errors import system_error

    name = _text(name, "name", "a model's name or path")
    if not hasattr(device, "type"):  # a torch.device has one
        _text(device, "device", "text such as 'cpu' or 'cuda:0', or a torch.device")
    _text(runtime, "runtime", "text such as 'torch'")
    _text(precision, "precision", "text such as 'bf16'")
    check_engine(name, runtime, precision)  # before a model is downloaded
    try:
        if is_detector(name):
            return open_detector(name, runtime, precision, device)
        return open_predictor(name, runtime, precision, device)
    except OSError as error:  # of a name that is too long, or a folder that cannot be read
        raise system_error(error) from error


def create_model(
    name: str, classes: int | None = None, *, pretrained: bool | str = False
) -> nn.Module:
    """Create a network as a `torch.nn.Module`, with new weights or those of a trained model.

    ::

        resnets.create_model("cifar-plain56")  # new weights (section 3.4)
        resnets.create_model("cifar-resnet20", pretrained=True)  # that come with this package
        resnets.create_model("resnet50", 37, pretrained="resnet50@msra")  # a new classifier for 37

    New weights are drawn from PyTorch's global generator: `torch.manual_seed` repeats them.

    Args:
        name: a network, as `list_models` and `resnets info` list them.
        classes: outputs; those of the paper (10 or 1,000), or of the trained model, by default.
        pretrained: True for the model that this package has of the network, or the name of a
            model as for `load` (not an export). The classifier has new weights if `classes`
            is not the trained model's number; a warning tells if nobody gave `classes`.

    Returns:
        The network in training mode, float32, on the CPU. It takes normalized images
        (N, 3, H, W) and gives logits (N, classes).

    Raises:
        UserError: if there is no such network or model, or they do not fit.
        TypeError: if an argument is of the wrong type.
        ValueError: if `classes` is not positive.
    """
    from resnets.models import zoo

    name = _text(name, "name", "a network's name")
    if classes is not None and (isinstance(classes, bool) or not hasattr(classes, "__index__")):
        raise TypeError(f"classes must be a whole number, not {classes!r}")
    if classes is not None and classes < 1:
        raise ValueError(f"classes must be at least 1, not {classes}")
    if not isinstance(pretrained, bool):
        pretrained = _text(pretrained, "pretrained", "True, False, or a model's name or path")
    if pretrained is False:
        return zoo.build(name, classes)
    from resnets.support.errors import system_error
    from resnets.weights.pretrained import build_pretrained

    try:
        return build_pretrained(name, None if pretrained is True else pretrained, classes)
    except OSError as error:
        raise system_error(error) from error


def _text(value: Any, argument: str, expected: str) -> str:
    """An argument as text; raises `TypeError` if it is neither text nor a path."""
    if isinstance(value, (str, os.PathLike)):
        return str(os.fspath(value))
    raise TypeError(f"{argument} must be {expected}, not {value!r}")


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """List networks, or trained models, whose names match a pattern.

    ::

        resnets.list_models("*110*")             # ['cifar-resnet110', ...]
        resnets.list_models(pretrained=True)     # ['cifar-resnet20', 'resnet50@msra', ...]

    Args:
        pattern: with `*`, `?` and `[...]`, as shells have them.
        pretrained: list trained models, which `load` opens by name, instead of networks.
    """
    from fnmatch import fnmatchcase

    pattern = _text(pattern, "pattern", "text such as '*110*'")
    if pretrained:
        from resnets.weights import hub

        names = [*hub.shipped(), *hub.sources()]
    else:
        from resnets.models import zoo

        names = zoo.names()
    return [name for name in names if fnmatchcase(name, pattern)]
