"""Model files: safetensors with a card inside; loading runs no code of theirs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from resnets.data.preprocessing import Normalize, Preprocessing
from resnets.models import zoo
from resnets.support.files import write_bytes
from resnets.weights import cards
from resnets.weights.cards import FORMAT, opened
from resnets.weights.cards import MEAN as MEAN
from resnets.weights.cards import check_card as check_card
from resnets.weights.cards import find as find
from resnets.weights.cards import shipped as shipped

DEFAULT = "cifar-resnet20"


@dataclass(frozen=True)
class Model:
    """A network ready to use, with what its card says.

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
        """Identifiers of the classes, such as WordNet's, where the card has them."""
        ids = self.card.get("class_ids")
        return None if ids is None else list(ids)

    def normalize(self, device: torch.device) -> Normalize:
        """From uint8 images to the network's input, on `device`."""
        return self.preprocessing.normalize(device)


def make_card(
    network: str,
    classes: list[str],
    provenance: dict[str, Any],
    measured: list[dict[str, Any]],
    class_ids: list[str] | None = None,
) -> dict[str, Any]:
    """What travels with weights, so that they explain and use themselves."""
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
    """Write a model file atomically: the weights, and a card that tells the preprocessing too.

    Raises:
        UserError: if it cannot be written; nothing is then left behind.
    """
    whole = {**weights, MEAN: preprocessing.mean}
    tensors = {name: t.detach().cpu().contiguous() for name, t in whole.items()}
    whole_card = {**card, "preprocessing": preprocessing_facts(preprocessing)}
    write_bytes(path, safetensors.torch.save(tensors, {"card": json.dumps(whole_card)}))


def preprocessing_facts(preprocessing: Preprocessing) -> dict[str, Any]:
    """What a card tells of the preprocessing, beside the tensor of the mean."""
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
    """The preprocessing that a card tells; raises `ValueError` or the like if it is none."""
    std = None if facts["std"] is None else torch.tensor(facts["std"])[:, None, None]
    size, resize = int(facts["size"]), int(facts["resize"])
    return Preprocessing(size, resize, facts["interpolation"], mean=mean.float(), std=std)


def load(name: str) -> Model:
    """Read a shipped model, a model file, the model of a run folder, or of a named source.

    Raises:
        UserError: if it is missing, truncated, or not a model file of ours.
    """
    with opened(find(name), "pt") as file:
        card, preprocessing = _read_card(file)
        names = [key for key in file.keys() if key != MEAN]  # noqa: SIM118
        tensors = {key: file.get_tensor(key) for key in names}
        with torch.device("meta"):
            network = zoo.build(card["network"], len(card["classes"]))
        network.load_state_dict(tensors, assign=True)
        network.float()  # weights stored in half precision are used in float32
        if not all(bool(torch.isfinite(t).all()) for t in network.state_dict().values()):
            raise ValueError("weights are not finite numbers")
    return Model(network.requires_grad_(False).eval(), card, preprocessing)


def _read_card(file: Any) -> tuple[dict[str, Any], Preprocessing]:
    card = cards.card_of(file)
    mean = file.get_tensor(MEAN)
    if not bool(torch.isfinite(mean).all()):
        raise ValueError("the mean is not finite numbers")
    return card, read_preprocessing(card["preprocessing"], mean)
