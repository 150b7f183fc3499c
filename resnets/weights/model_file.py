"""Model files: safetensors with a card inside. Loading one runs no code from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from resnets.data.preprocessing import Normalize, Preprocessing
from resnets.models import zoo
from resnets.support import tensor_files
from resnets.weights.card import (
    FORMAT,
    card_in,
    open_model_file,
    read_card,
    refuse_detector,
)

MEAN = "preprocessing.mean"
"""Name of the tensor that holds the mean image, among the weights."""


@dataclass(frozen=True)
class Model:
    """A network with trained weights and its card.

    Args:
        network: in evaluation mode.
        card: network, classes, preprocessing, provenance and measured error.
        preprocessing: from an image's pixels to the network's input.
    """

    network: nn.Module
    card: dict[str, Any]
    preprocessing: Preprocessing

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits."""
        return list(self.card["classes"])

    @property
    def class_ids(self) -> list[str] | None:
        """Identifiers of the classes, such as WordNet's, if the card has them."""
        ids = self.card.get("class_ids")
        return None if ids is None else list(ids)

    def normalize(self, device: torch.device) -> Normalize:
        """The transform from uint8 images to the network's input, on `device`."""
        return self.preprocessing.normalize(device)


def make_card(
    network: str,
    classes: list[str],
    provenance: dict[str, Any],
    measured: list[dict[str, Any]],
    class_ids: list[str] | None = None,
) -> dict[str, Any]:
    """A card without preprocessing, which `save` adds.

    Args:
        network: a name of the zoo table.
        classes: class names, in the order of the logits.
        provenance: where the weights come from: recipe, source, licence, or the like.
        measured: test results.
        class_ids: identifiers of the classes, such as WordNet's.
    """
    ids = {} if class_ids is None else {"class_ids": class_ids}
    return {
        "format": FORMAT,
        "network": network,
        "classes": classes,
        **ids,
        "measured": measured,
        "provenance": provenance,
    }


def save(
    path: Path, weights: dict[str, Tensor], preprocessing: Preprocessing, card: dict[str, Any]
) -> None:
    """Write a model file atomically.

    Args:
        path: the file.
        weights: the network's state dict.
        preprocessing: added to the card; its mean is stored as a tensor.
        card: as from `make_card`.

    Raises:
        UserError: if the file cannot be written; nothing is left behind.
    """
    whole = {**weights, MEAN: preprocessing.mean}
    tensors = {name: t.detach().cpu().contiguous() for name, t in whole.items()}
    whole_card = {**card, "preprocessing": preprocessing_facts(preprocessing)}
    content = safetensors.torch.save(tensors)
    tensor_files.write(path, content, {"card": json.dumps(whole_card)})


def load(path: str | Path) -> Model:
    """Read a model file. `hub.load` takes shipped names, run folders and named sources too.

    Weights stored in half precision become float32.

    Raises:
        UserError: if the file is missing, damaged, not a model file, or a detector's.
    """
    refuse_detector(read_card(Path(path))[0], str(path))
    return load_as(path, lambda card: zoo.build(card["network"], len(card["classes"])))


def load_as(path: str | Path, build: Callable[[dict[str, Any]], nn.Module]) -> Model:
    """Read a model file whose network is made by `build`, from the card.

    Raises:
        UserError: as `load`.
    """
    with open_model_file(Path(path), "pt") as file:
        card = card_in(file)
        mean = file.get_tensor(MEAN)
        preprocessing = read_preprocessing(card["preprocessing"], mean)
        names = [key for key in file.keys() if key != MEAN]  # noqa: SIM118
        tensors = {key: file.get_tensor(key) for key in names}
        with torch.device("meta"):
            network = build(card)
        try:
            network.load_state_dict(tensors, assign=True)
        except RuntimeError as error:
            what = str(error).splitlines()[1].strip()
            raise ValueError(f"not weights of {card['network']}: {what}") from error
        network.float()
        if fault := fault_of(network.state_dict()):
            raise ValueError(fault)
    return Model(network.requires_grad_(False).eval(), card, preprocessing)


def fault_of(state: Mapping[str, Tensor]) -> str:
    """Why no network can compute with these weights; empty if one can."""
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            return "weights are not finite numbers"
        if name.endswith("running_var") and bool((tensor < 0).any()):
            return f"{name} has negative variances"
    return ""


def preprocessing_facts(preprocessing: Preprocessing) -> dict[str, Any]:
    """A card's entry about the preprocessing; the mean itself is stored as the tensor `MEAN`."""
    std = preprocessing.std
    return {
        "size": preprocessing.size,
        "resize": preprocessing.resize,
        "interpolation": preprocessing.interpolation,
        "colours": "RGB, pixels / 255",
        "mean": f"tensor {MEAN}, subtracted",
        "std": None if std is None else std.flatten().tolist(),
    }


def read_preprocessing(facts: dict[str, Any], mean: Tensor) -> Preprocessing:
    """The preprocessing that a card's entry describes.

    Args:
        facts: as from `preprocessing_facts`.
        mean: (3, 1, 1) or (3, size, size), RGB, for pixels in 0..1.

    Raises:
        ValueError, KeyError, TypeError: if the entry is malformed.
    """
    std = None if facts["std"] is None else torch.tensor(facts["std"])[:, None, None]
    size, resize = int(facts["size"]), int(facts["resize"])
    return Preprocessing(size, resize, facts["interpolation"], mean=mean.float(), std=std)
