"""File formats of weights: detecting a file's format, and reading and writing all of them.

A file for another program is written together with a JSON card, FILE.card.json: the card of a
model file, with the SHA-256 of the file that it describes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import safetensors
import torch

from resnets.data.image_formats import is_lfs_pointer
from resnets.models import zoo
from resnets.models.residual import ResidualNetwork
from resnets.support import tensor_files
from resnets.support.errors import UserError, nearest, one_line
from resnets.support.files import (
    file_sha256,
    make_folder,
    refuse_device,
    refuse_replacing,
    write_json,
)
from resnets.weights import model_file
from resnets.weights.card import LFS_POINTER, RUN_MODEL, check_card
from resnets.weights.convert import caffe, keras, pytorch, transformers
from resnets.weights.convert.identify import ImportedWeights, Statement, to_model
from resnets.weights.convert.zero_padding import Zeros
from resnets.weights.model_file import Model, read_preprocessing

FORMATS = ("resnets", "torchvision", "timm", "transformers", "keras-h5", "tfjs", "caffe")
_SUFFIXES = {
    ".safetensors": "resnets", ".pth": "torchvision", ".pt": "torchvision", ".h5": "keras-h5",
    ".json": "tfjs", ".caffemodel": "caffe",
}  # fmt: skip
_FIRST_BYTES = {
    b"\x89HDF\r\n\x1a\n": "keras-h5", b"PK\x03\x04": "torchvision", b"\x80\x02": "torchvision",
    b"{": "tfjs",
}  # fmt: skip


def detect_format(path: Path) -> str:
    """The format of a file or folder, one of `FORMATS`, by its content.

    Raises:
        UserError: if it is missing, or in none of them.
    """
    if path.is_dir():
        kind = folder_format(path)
        if kind is None:
            raise UserError("no weights in this folder", str(path), "name the file of the weights")
        return kind
    start = _first_bytes(path)
    if path.suffix in (caffe.MODEL, caffe.GRAPH):
        return "caffe"
    if path.suffix == ".keras":
        raise UserError(
            "Keras archives (.keras) are not supported",
            str(path),
            "save the model as H5: model.save('model.h5')",
        )
    if start[8:9] == b"{":
        return "resnets" if _has_card(path) else "torchvision"
    for known, kind in _FIRST_BYTES.items():
        if start.startswith(known):
            return kind
    if is_lfs_pointer(start):
        raise UserError(LFS_POINTER[0], str(path), LFS_POINTER[1])
    message = "unknown format of weights" if start else "the file is empty"
    raise UserError(message, str(path), f"known formats: {', '.join(FORMATS)}")


def _first_bytes(path: Path) -> bytes:
    refuse_device(path)
    try:
        with path.open("rb") as file:
            return file.read(64)
    except FileNotFoundError as error:
        raise UserError("no such file", str(path)) from error
    except OSError as error:
        raise UserError(f"cannot be read ({one_line(error)})", str(path)) from error


def _has_card(path: Path) -> bool:
    try:
        with tensor_files.open_file(path, "pt") as file:
            return "card" in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError("not a safetensors file, or cut off or damaged", str(path)) from error


def folder_format(folder: Path) -> str | None:
    """The format of a folder, one of `FORMATS`; None if no weights are in it.

    Raises:
        UserError: if its config says that it is something else.
    """
    if (folder / keras.MODEL_JSON).exists():
        return "tfjs"
    if (folder / pytorch.TIMM_CONFIG).exists() and not (folder / "recipe.json").exists():
        return _kind_of_config(folder / pytorch.TIMM_CONFIG)
    if any(folder.glob(f"*{caffe.MODEL}")):
        return "caffe"
    return "resnets" if (folder / RUN_MODEL).exists() else None


def _kind_of_config(config: Path) -> str:
    """The program whose folder has this config.json."""
    try:
        document = json.loads(config.read_bytes())
        if "pretrained_cfg" in document:
            return "timm"
        if str(document.get("format", "")).startswith("resnets-export"):
            if config.with_name(RUN_MODEL).exists():
                return "resnets"  # the model that it was made from
            hint = "name the model that it was made from"
            raise UserError("is an export without its source", str(config.parent), hint)
        if (kind := document.get("model_type")) not in ("resnet", None):
            message = f"weights of a network of another kind: {kind}"
            raise UserError(message, str(config), "only resnet is supported")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"cannot be read ({one_line(error)})", str(config)) from error
    if kind == "resnet":
        return "transformers"
    hint = "name the file of the weights"
    raise UserError("not a config of timm or transformers", str(config), hint)


def read(
    path: Path,
    network: str | None = None,
    stated: Statement | None = None,
    *,
    classifier: bool = True,
) -> Model:
    """Read a model from a file or folder of any format.

    Args:
        path: what to read.
        network: a name of the zoo table; by default the network that the weights fit.
        stated: what a user says about weights of another program.
        classifier: whether the model must have a classifier, as for `to_model`.

    Raises:
        UserError: if it is missing, damaged, of unknown format, or of another network.
    """
    if detect_format(path) != "resnets":
        found = read_imported(path, entry=stated.state if stated else None)
        return to_model(found, network, stated, classifier=classifier)
    for option, value in vars(stated or Statement()).items():
        if value is not None:
            hint = "leave it out"
            raise UserError("a model file already contains this", f"--{option}", hint)
    model = model_file.load(_files(path, "resnets")[0])
    if network is not None and network != model.card["network"]:
        raise UserError(f"is a {model.card['network']}, not a {network}", str(path))
    return model


def read_imported(
    path: Path, bn_eps: float | None = None, entry: str | None = None
) -> ImportedWeights:
    """Read weights of another program, and the card next to them if there is one.

    Args:
        path: a file or folder.
        bn_eps: eps of every BN; overrides the one of a Keras file.
        entry: of a PyTorch checkpoint, which of its weights.

    Raises:
        UserError: if they are missing, damaged or of unknown format.
    """
    kind = detect_format(path)
    if entry is not None and kind != "torchvision":
        raise UserError("applies to checkpoints of PyTorch", f"--state {entry}", "leave it out")
    if kind == "timm":
        found = pytorch.read_timm(path)
    elif kind == "transformers":
        found = transformers.read(path)
    elif kind == "keras-h5":
        found = keras.read_h5(path, bn_eps)
    elif kind == "tfjs":
        found = keras.read_tfjs(path / keras.MODEL_JSON if path.is_dir() else path, bn_eps)
    elif kind == "caffe":
        found = caffe.read(path)
    else:
        found = pytorch.read(path, entry)
    return _with_card(found)


def output_format(out: Path, to: str | None) -> str:
    """The format to write: `to`, or else the one of `out`'s suffix.

    Raises:
        UserError: if there is no such format, or the suffix belongs to none.
    """
    if to is None and out.suffix in _SUFFIXES:
        return _SUFFIXES[out.suffix]
    if to is None:
        hint = f"give --to {' or '.join(FORMATS)}"
        raise UserError("the file name does not say which format to write", str(out), hint)
    if to not in FORMATS:
        raise UserError(f"unknown format {to!r}", "--to", nearest(to, FORMATS))
    return to


def refuse_overwriting(source: Path, out: Path, to: str) -> None:
    """Raise `UserError` if writing `out` in the format `to` would replace a file of `source`."""
    kind = detect_format(source)
    files = caffe.source_files(source) if kind == "caffe" else _files(source, kind)
    sources = {path.resolve() for path in (*files, _card_path(files[0]))}
    outputs = _files(out, to)
    for path in (*outputs, _card_path(outputs[0])):
        if path.resolve() in sources:
            raise UserError("would overwrite its source", str(path), "give another name or folder")


def _files(path: Path, kind: str) -> list[Path]:
    """The files of a model at `path`, the main file first; of shards, the existing ones."""
    if kind == "timm":
        return [path / pytorch.TIMM_WEIGHTS, path / pytorch.TIMM_CONFIG]
    if kind == "transformers":
        names = (transformers.WEIGHTS, transformers.CONFIG, transformers.PROCESSOR)
        return [path / name for name in names]
    if kind == "tfjs":
        main = path if path.suffix == ".json" else path / keras.MODEL_JSON
        return [main, *main.parent.glob("*.bin")]
    if kind == "caffe":
        return caffe.output_files(path)
    return [path / RUN_MODEL if path.is_dir() else path]


def refuse_existing(out: Path, to: str) -> None:
    """Raise `UserError` if writing `out` in the format `to` would replace a file."""
    main, *others = _files(out, to)
    others = [path for path in others if path.suffix != ".bin"]  # shards, which tfjs numbers
    for path in (main, *others, *([] if to == "resnets" else [_card_path(main)])):
        refuse_replacing(path)


def has_option_a(model: Model) -> bool:
    """Whether a model has shortcuts of option A, whose zeros may be in two places."""
    network = model.network
    return isinstance(network, ResidualNetwork) and network.architecture.shortcut == "A"


def write(model: Model, out: Path, to: str, zeros: Zeros = "behind") -> list[Path]:
    """Write a model in a format, and for other programs than this one a card next to it.

    Args:
        model: any network for `resnets`; CIFAR networks for `torchvision`; else a residual or
            plain network for ImageNet.
        out: a file, or a folder for `timm`, `transformers` and `tfjs`.
        to: one of `FORMATS`.
        zeros: where the reading network has the zeros of option A, for `torchvision`.

    Returns:
        The written files, the main file first.

    Raises:
        UserError: if the format does not support the network, or a file cannot be written.
    """
    network, preprocessing = model.network, model.preprocessing
    make_folder(out.parent)
    if to == "resnets":
        model_file.save(out, network.state_dict(), preprocessing, model.card)
        return [out]
    if not isinstance(network, ResidualNetwork):
        name = model.card["network"]
        raise UserError(f"{name} is not a residual network", hint="use --to resnets")
    files, more = _files(out, to), {}
    if to == "torchvision":
        pytorch.write(out, network, zeros)
        more = {"zeros": zeros} if has_option_a(model) else {}
    elif to == "timm":
        pytorch.write_timm(out, network, preprocessing, model.card)
    elif to == "transformers":
        transformers.write(out, network, preprocessing, model.card)
    elif to == "keras-h5":
        keras.write_h5(out, network, preprocessing)
    elif to == "tfjs":
        files = files[:1]
        keras.write_tfjs(files[0], network, preprocessing)
    else:
        caffe.write(out, network, preprocessing)
    card = _card_path(files[0])
    write_json(card, {**_card(model, files[0], to), **more})
    return [*files, card]


def _card_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.card.json")


def _card(model: Model, file: Path, to: str) -> dict[str, Any]:
    """The card next to another program's file: the model's, with the preprocessing of the file."""
    preprocessing = model.preprocessing
    bgr = to in ("keras-h5", "tfjs", "caffe")
    std = torch.full((3,), 1 / 255) if bgr else preprocessing.std
    facts = {
        "size": preprocessing.size,
        "resize": preprocessing.resize,
        "interpolation": preprocessing.interpolation,
        "input": "BGR, pixels of 0..255 less 255 * mean" if bgr else "RGB, pixels / 255, less mean",
        "mean": preprocessing.mean.tolist(),
        "std": None if std is None else std.flatten().tolist(),
    }
    return {**model.card, "file": file.name, "sha256": file_sha256(file), "preprocessing": facts}


def _with_card(found: ImportedWeights) -> ImportedWeights:
    """The weights with what the card next to their file says, if there is one."""
    path = _card_path(Path(found.location))
    if not path.exists():
        return found
    try:
        card = json.loads(path.read_bytes())
        if card["sha256"] != file_sha256(Path(found.location)):
            raise UserError("the card describes another file", str(path), "remove the card")
        card = check_card(card)
        facts, zeros = card["preprocessing"], card.get("zeros")
        if zeros not in (None, *get_args(Zeros)):
            raise ValueError(f"zeros {zeros!r} is not one of {', '.join(get_args(Zeros))}")
        kept = ("classes", "class_ids", "measured", "provenance")
        return replace(
            found,
            network=_known_network(card),
            preprocessing=read_preprocessing(facts, torch.tensor(facts["mean"])),
            zeros=zeros,
            card={key: card[key] for key in kept if key in card},
            notes={**found.notes, "preprocessing": f"of {path.name}"},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"not a readable card ({one_line(error)})", str(path)) from error


def _known_network(card: dict[str, Any]) -> str:
    """The name of a card's network; raises `ValueError` if there is none of this name."""
    try:
        zoo.architecture(card["network"])
    except UserError as error:
        raise ValueError(str(error)) from error
    return str(card["network"])
