"""The folder of an exported model: the network for an engine, and what explains it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnets.inference.engines import INPUT, OUTPUTS
from resnets.support.errors import UserError
from resnets.weights import hub
from resnets.weights.card import check_card

if TYPE_CHECKING:  # at run time where torch is needed
    from resnets.data.preprocessing import Preprocessing
    from resnets.weights.model_file import Model

CONFIG = "config.json"
FORMAT = "resnets-export-1"
FILES = {"openvino": "model.xml", "onnx": "model.onnx", "torch-export": "model.pt2"}
"""The file of the network, by engine."""
CARD, SOURCE = "README.md", "model.safetensors"
PARTS = {CONFIG, CARD, SOURCE, *FILES.values(), "model.bin"}
"""Names of what a folder may hold; `model.bin` has OpenVINO's weights."""


@dataclass(frozen=True)
class Artefact:
    """What the config of an exported model's folder tells.

    The folder holds, beside it, the network's file, `README.md` (the model card) and
    `model.safetensors` (the source, which only other engines and explanations need).

    Args:
        folder: the folder.
        engine: `openvino`, `onnx` or `torch-export`.
        precision: `fp32`, `bf16` or `int8`.
        dense: whether the network takes images of any size and gives logits everywhere.
        card: of the source's model file.
        preprocessing: the image's part of it counts; scaling is inside the network.
    """

    folder: Path
    engine: str
    precision: str
    dense: bool
    card: dict[str, Any]
    preprocessing: Preprocessing

    @property
    def file(self) -> Path:
        """The network."""
        return self.folder / FILES[self.engine]


def facts(
    model: Model, engine: str, precision: str, dense: bool, look: Preprocessing
) -> dict[str, Any]:
    """What the network's file and the config tell alike: how to use the network.

    Args:
        look: the preprocessing, which may differ from the model's where dense.
    """
    size: str | int = "any" if dense else look.size
    ids = {} if model.class_ids is None else {"class_ids": model.class_ids}
    return {
        "format": FORMAT,
        "network": model.card["network"],
        "engine": engine,
        "precision": precision,
        "dense": dense,
        "classes": model.classes,
        **ids,
        "preprocessing": {
            "size": look.size,
            "resize": look.resize,
            "interpolation": look.interpolation,
            "mean": look.mean.mean((1, 2)).tolist(),
            "std": None if look.std is None else look.std.flatten().tolist(),
            "about": "scale the shorter side to `resize`, cut out the centre of `size`, give RGB "
            "bytes; mean and deviation are applied inside the network",
        },
        "input": {"name": INPUT, "type": "uint8", "shape": ["batch", 3, size, size]},
        "outputs": _outputs(model, dense),
    }


def _outputs(model: Model, dense: bool) -> dict[str, Any]:
    from resnets.models.residual import ResidualNetwork

    places = ["height", "width"] if dense else []
    network = model.network
    channels = network.fc.in_features if isinstance(network, ResidualNetwork) else 0
    return {
        name: {"type": "float32", "shape": ["batch", count, *places]}
        for name, count in zip(OUTPUTS, (len(model.classes), channels), strict=True)
    }


def is_artefact(name: str) -> bool:
    """Whether a name is the folder of an exported model."""
    path = Path(name) / CONFIG
    try:
        return bool(json.loads(path.read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def source_of(name: str) -> Path:
    """The model file that a name means; of an export that which it was made from.

    Raises:
        UserError: if there is none, or the export lies there without it.
    """
    if not is_artefact(name):
        return hub.resolve(name)
    source = Path(name) / SOURCE
    if not source.exists():
        raise UserError(
            "the weights that the export was made from are missing",
            str(source),
            "put them there, or name the model file itself",
        )
    return source


def read(folder: Path) -> Artefact:
    """What the config of a folder tells.

    Raises:
        UserError: if it is none, or the network's file is missing.
    """
    import torch

    from resnets.data.preprocessing import Preprocessing

    path = folder / CONFIG
    try:
        facts = json.loads(path.read_bytes())
        look = facts["preprocessing"]
        found = Artefact(
            folder=folder,
            engine=facts["engine"],
            precision=facts["precision"],
            dense=bool(facts["dense"]),
            card=facts["card"],
            preprocessing=Preprocessing(
                int(look["size"]),
                int(look["resize"]),
                look["interpolation"],
                mean=torch.tensor(look["mean"]).float()[:, None, None],
                std=torch.tensor(look["std"]).float()[:, None, None] if look["std"] else None,
            ),
        )
        file = found.file
        check_card(found.card)
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"not the config of an exported model ({error})", str(path)) from error
    if not file.is_file():
        raise UserError("the exported network is missing", str(file), "export it again")
    return found
