"""Networks that start from the weights of a trained model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

from torch import nn

from resnets.models import zoo
from resnets.models.residual import ResidualNetwork
from resnets.support.errors import UserError
from resnets.weights import hub
from resnets.weights.card import assumptions_of
from resnets.weights.model_file import Model

CLASSIFIER = "fc."
"""How the names of the classifier's tensors begin."""


def copy_weights(network: nn.Module, model: Model, *, classifier: bool) -> None:
    """Copy the weights of a trained model into a network.

    Args:
        network: of the model's architecture; the number of classes may differ.
        model: the trained model.
        classifier: whether to copy the classifier, too; the numbers of classes must be equal.

    Raises:
        UserError: if the architectures differ.
    """
    other = model.network
    assert isinstance(network, ResidualNetwork)
    if not isinstance(other, ResidualNetwork) or (
        other.architecture.with_classes(1) != network.architecture.with_classes(1)
    ):
        name = model.card["network"]
        raise UserError(
            f"the weights are of a {name}, which is another network",
            hint=f"use the network {name}, or other weights",
        )
    weights = other.state_dict()
    if not classifier:
        weights = {key: t for key, t in weights.items() if not key.startswith(CLASSIFIER)}
    network.load_state_dict(weights, strict=False)


def starting_model(
    name: str, network: str | None = None, load: Callable[[str], Model] = hub.load
) -> Model:
    """The model whose weights a training starts from.

    Args:
        name: as for `hub.resolve`, or weights of another program: a file or a folder. These may
            lack a classifier; the model then has no classes.
        network: the network of weights of another program; by default the one that they fit.
        load: loads a model of this package.

    Raises:
        UserError: if there is no such model, or the weights fit another network.
    """
    from resnets.weights.convert import formats  # costs time that other starts need not spend

    if not name.strip():
        hub.resolve(name)  # raises
    path = Path(name)
    weights = path.is_file() or (path.is_dir() and formats.folder_format(path) is not None)
    if weights and formats.detect_format(path) != "resnets":
        return formats.read(path, network or None, classifier=False)
    return load(name)


def build_pretrained(name: str, model: str | None = None, classes: int | None = None) -> nn.Module:
    """Build a network with the weights of a trained model.

    Args:
        name: of the network.
        model: the trained model, as `starting_model` takes it; by default the one that
            comes with this package for the network, or a named source such as `NAME@msra`.
        classes: number of classes; the model's by default. Of another number the classifier has
            new weights. Of a model without a classifier, those of the paper by default, of which
            a warning tells.

    Raises:
        UserError: if there is no such network or model, or they do not fit.
    """
    model = _model_of(name) if model is None else model
    trained = starting_model(model, name)
    if assumed := assumptions_of(trained.card):
        warnings.warn(f"{model}: assumed: {assumed}; see convert", stacklevel=3)
    classes = classes or len(trained.classes) or None
    network = zoo.build(name, classes)
    if classes is None:
        count = zoo.architecture(name).classes
        new = f"the weights have no classifier: that of {count:,} classes is new, and untrained"
        warnings.warn(f"{model}: {new}; give classes, and train it", stacklevel=3)
    copy_weights(network, trained, classifier=classes == len(trained.classes))
    return network


def _model_of(name: str) -> str:
    """The name of the trained model that a network has."""
    zoo.architecture(name)
    shipped, sources = hub.shipped(), hub.sources()
    if name in shipped:
        return name
    fitting = [source for source, row in sources.items() if row["network"] == name]
    return fitting[0] if fitting else str(hub.resolve(name))  # raises
