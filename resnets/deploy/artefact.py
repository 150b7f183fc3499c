"""The folder of an exported model: the network for an engine, and what explains it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnets.support.errors import UserError

if TYPE_CHECKING:
    from resnets.data.preprocessing import Preprocessing  # at run time where torch is needed

CONFIG = "config.json"
FORMAT = "resnets-export-1"
FILES = {"openvino": "model.xml", "onnx": "model.onnx", "torch-export": "model.pt2"}
"""The file of the network, by engine."""


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


def is_artefact(name: str) -> bool:
    """Whether a name is the folder of an exported model."""
    path = Path(name) / CONFIG
    try:
        return bool(json.loads(path.read_bytes())["format"] == FORMAT)
    except (OSError, ValueError, LookupError, TypeError):
        return False


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
                torch.tensor(look["mean"]).float()[:, None, None],
                torch.tensor(look["std"]).float()[:, None, None] if look["std"] else None,
                look["interpolation"],
            ),
        )
        file = found.file
        if not isinstance(found.card["classes"], list):
            raise ValueError("classes are no list")
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"not the config of an exported model ({error})", str(path)) from error
    if not file.is_file():
        raise UserError("the exported network is missing", str(file), "export it again")
    return found
