"""The folder of an exported model: its layout, its config, and how to read it.

It holds the network in the format of an engine, `config.json`, `README.md` (the model card) and
`model.safetensors` (the source model, which only `explain` and further exports need).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnets.inference.engines import INPUT, OUTPUTS
from resnets.support.errors import UserError, one_line
from resnets.support.files import file_sha256
from resnets.weights import hub
from resnets.weights.card import DETECTION, check_card, check_outputs, finds_masks

if TYPE_CHECKING:  # importing these would import torch
    import torch

    from resnets.data.preprocessing import Preprocessing
    from resnets.weights.model_file import Model

CONFIG = "config.json"
FORMAT = "resnets-export-1"
FILES = {"openvino": "model.xml", "onnx": "model.onnx", "torch-export": "model.pt2"}
"""The network's file, by engine."""
CARD, SOURCE = "README.md", "model.safetensors"
ENGINE_FILES = (*FILES.values(), "model.bin")
PARTS = {CONFIG, CARD, SOURCE, *ENGINE_FILES}
"""All files that an export may hold; `model.bin` has the weights of OpenVINO's `model.xml`."""
AGAIN = "export it again, to a new folder"
"""Hint about a damaged export."""


@dataclass(frozen=True)
class Export:
    """An exported model, as its config describes it.

    Args:
        folder: the folder.
        engine: `openvino`, `onnx` or `torch-export`.
        precision: `fp32`, `bf16` or `int8`.
        dense: whether the network accepts images of any size and returns logits at every location.
        card: the card of the source model.
        preprocessing: how to crop and scale images; the network itself normalizes pixels.
        sums: SHA-256 of the files, by name; empty for exports of versions before they had sums.
    """

    folder: Path
    engine: str
    precision: str
    dense: bool
    card: dict[str, Any]
    preprocessing: Preprocessing
    sums: dict[str, str] = field(default_factory=dict)

    def check(self, names: Iterable[str] = ENGINE_FILES) -> None:
        """Compare files with their sums; raises `UserError` if one is missing or damaged."""
        for name in self.sums.keys() & set(names):
            path = self.folder / name
            if not path.is_file():
                raise UserError("a file of the export is missing", str(path), AGAIN)
            if file_sha256(path) != self.sums[name]:
                raise UserError("does not match its checksum: it is damaged", str(path), AGAIN)

    def check_options(
        self, runtime: str, precision: str, device: torch.device | None = None
    ) -> None:
        """Raise `UserError` if the export cannot be run as requested; None is the CPU."""
        for requested, own, option in (
            (runtime, self.engine, "--runtime"),
            (precision, self.precision, "--precision"),
        ):
            if requested not in ("auto", own):
                raise UserError(
                    f"this export is for {own}, not {requested}",
                    f"{option} {requested}",
                    "leave the option out, or name the exported model's source",
                )
        if device is not None:
            raise UserError(f"exported models run on CPUs, not on {device}", str(self.folder))

    @property
    def file(self) -> Path:
        """The network's file."""
        return self.folder / FILES[self.engine]

    @property
    def digest(self) -> str:
        """SHA-256 of the network's file, OpenVINO's weights if there are any, and the config."""
        files = (self.file, self.file.with_suffix(".bin"), self.folder / CONFIG)
        digests = "".join(file_sha256(file) for file in files if file.exists())
        return hashlib.sha256(digests.encode()).hexdigest()


def describe_detector(model: Model, engine: str, precision: str) -> dict[str, Any]:
    """How to use an exported detector: JSON for its file and its config.

    Args:
        model: the source, a detector.
    """
    settings, preprocessing = model.card[DETECTION], model.preprocessing
    masks = {}
    if finds_masks(model.card):  # probabilities in the cells of each box
        masks = {"masks": {"type": "float32", "shape": ["detections", 14, 14]}}
    std = preprocessing.std
    return {
        "format": FORMAT,
        "task": "detection",
        "network": model.card["network"],
        "engine": engine,
        "precision": precision,
        "dense": False,
        "classes": model.classes,
        "preprocessing": {
            "size": preprocessing.size,
            "resize": preprocessing.resize,
            "interpolation": preprocessing.interpolation,
            "mean": preprocessing.mean.mean((1, 2)).tolist(),
            "std": None if std is None else std.flatten().tolist(),
            "shorter_side": settings["size"],
            "longest_side": settings["max_size"],
            "about": "give RGB bytes of any size; scaling, mean, deviation and non-maximum "
            "suppression are applied inside the network",
        },
        "score": settings["score"],
        "nms": settings["nms"],
        "detections": settings["detections"],
        "input": {"name": INPUT, "type": "uint8", "shape": [1, 3, "height", "width"]},
        "outputs": {
            "boxes": {"type": "float32", "shape": ["detections", 4]},
            "scores": {"type": "float32", "shape": ["detections"]},
            "categories": {"type": "int64", "shape": ["detections"]},
            **masks,
        },
    }


def describe(
    model: Model, engine: str, precision: str, dense: bool, preprocessing: Preprocessing
) -> dict[str, Any]:
    """How to use an exported network: JSON for its file and its config.

    Args:
        model: the source.
        preprocessing: the export's, which differs from the model's if dense.
    """
    from resnets.models.residual import ResidualNetwork

    size: str | int = "any" if dense else preprocessing.size
    axes = ["height", "width"] if dense else []
    network = model.network
    channels = network.fc.in_features if isinstance(network, ResidualNetwork) else 0
    ids = {} if model.class_ids is None else {"class_ids": model.class_ids}
    std = preprocessing.std
    return {
        "format": FORMAT,
        "network": model.card["network"],
        "engine": engine,
        "precision": precision,
        "dense": dense,
        "classes": model.classes,
        **ids,
        "preprocessing": {
            "size": preprocessing.size,
            "resize": preprocessing.resize,
            "interpolation": preprocessing.interpolation,
            "mean": preprocessing.mean.mean((1, 2)).tolist(),
            "std": None if std is None else std.flatten().tolist(),
            "about": "scale the shorter side to `resize`, cut out the centre of `size`, give RGB "
            "bytes; mean and deviation are applied inside the network",
        },
        "input": {"name": INPUT, "type": "uint8", "shape": ["batch", 3, size, size]},
        "outputs": {
            name: {"type": "float32", "shape": ["batch", count, *axes]}
            for name, count in zip(OUTPUTS, (len(model.classes), channels), strict=True)
        },
    }


def seal(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A config with the checksums of the files in `folder`, and with its own."""
    sums = {name: file_sha256(folder / name) for name in sorted(PARTS - {CONFIG, CARD})
            if (folder / name).exists()}  # fmt: skip
    sealed = {**config, "files": sums}
    return {**sealed, "sha256": _sum(sealed)}


def _sum(config: dict[str, Any]) -> str:
    """SHA-256 of a config without its own sum."""
    text = json.dumps({key: config[key] for key in config if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_export(name: str) -> bool:
    """Whether `name` is the folder of an exported model, be it damaged."""
    folder = Path(name)
    if not name:  # which would be the folder that this process is in
        return False
    try:
        if json.loads((folder / CONFIG).read_bytes())["format"] == FORMAT:
            return True
    except (OSError, ValueError, LookupError, TypeError):
        pass
    is_run = (folder / "recipe.json").exists()  # in which a user may have put such a file
    return not is_run and any((folder / file).is_file() for file in FILES.values())


def source_of(name: str) -> Path:
    """The model file of a model; for an export, that of its source.

    Raises:
        UserError: if there is no such model, or the export is damaged or has lost its source.
    """
    if not is_export(name):
        return hub.resolve(name)
    source = Path(name) / SOURCE
    if not source.exists():
        raise UserError(
            "the weights that the export was made from are missing",
            str(source),
            "put them there, or name the model file itself",
        )
    read(Path(name)).check((SOURCE,))
    return source


def read(folder: Path) -> Export:
    """Read the config of an exported model.

    Raises:
        UserError: if the config is missing or damaged, or the network's file is missing.
    """
    import torch

    from resnets.data.preprocessing import Preprocessing

    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
        if config["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        if "sha256" in config and config["sha256"] != _sum(config):
            raise ValueError("it does not match its checksum: it is damaged, or was edited")
        steps = config["preprocessing"]
        export = Export(
            folder=folder,
            engine=config["engine"],
            precision=config["precision"],
            dense=bool(config["dense"]),
            card=check_card(config["card"]),
            preprocessing=Preprocessing(
                int(steps["size"]),
                int(steps["resize"]),
                steps["interpolation"],
                mean=torch.tensor(steps["mean"]).float()[:, None, None],
                std=torch.tensor(steps["std"]).float()[:, None, None] if steps["std"] else None,
            ),
            sums=dict(config.get("files", {})),
        )
        file = export.file
        if DETECTION not in export.card:
            check_outputs(config["outputs"]["logits"]["shape"][1], export.card["classes"])
    except FileNotFoundError as error:
        raise UserError("the export has lost its config", str(path), AGAIN) from error
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        message = f"not the config of an exported model ({one_line(error)})"
        raise UserError(message, str(path), AGAIN) from error
    if not file.is_file():
        raise UserError("the exported network is missing", str(file), AGAIN)
    return export
