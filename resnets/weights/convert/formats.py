"""Which format a file has, by its content; reading and writing all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import torch

from resnets.data.preprocessing import Preprocessing
from resnets.models.residual import ResidualNetwork
from resnets.support.download import digest
from resnets.support.errors import UserError, nearest
from resnets.support.files import make_folder, write_json
from resnets.weights import model_file
from resnets.weights.card import check_card
from resnets.weights.convert import caffe, imported, keras, torch_files
from resnets.weights.convert.imported import Foreign
from resnets.weights.model_file import Model

FORMATS = ("resnets", "torchvision", "timm", "keras-h5", "tfjs", "caffe")
_ENDINGS = {
    ".safetensors": "resnets", ".pth": "torchvision", ".pt": "torchvision", ".h5": "keras-h5",
    ".json": "tfjs", ".caffemodel": "caffe",
}  # fmt: skip
_MARKS = (
    (keras.MODEL_JSON, "tfjs"), (torch_files.TIMM_CONFIG, "timm"), (f"*{caffe.MODEL}", "caffe"),
    ("model.safetensors", "resnets"),
)  # fmt: skip
_STARTS = {
    b"\x89HDF\r\n\x1a\n": "keras-h5", b"PK\x03\x04": "torchvision", b"\x80\x02": "torchvision",
    b"{": "tfjs",
}  # fmt: skip


def recognise(path: Path) -> str:
    """One of `FORMATS`, by what a file or folder holds.

    Raises:
        UserError: if it is missing, or none of them.
    """
    if path.is_dir():
        for pattern, kind in _MARKS:
            if any(path.glob(pattern)):
                return kind
        raise UserError("no weights in this folder", str(path), "give their file")
    head = _head(path)
    if path.suffix in (caffe.MODEL, caffe.GRAPH):
        return "caffe"
    if path.suffix == ".keras":
        raise UserError("archives of Keras are not read here", str(path),
                        "save it as H5: model.save('model.h5')")  # fmt: skip
    if head[8:9] == b"{":
        return "resnets" if _has_card(path) else "torchvision"
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind
    raise UserError("weights of no kind that is read here" if head else "the file is empty",
                    str(path), f"known: {', '.join(FORMATS)}")  # fmt: skip


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except FileNotFoundError as error:
        raise UserError("no such file", str(path)) from error
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(path)) from error


def _has_card(path: Path) -> bool:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return "card" in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"not a readable model file ({error})", str(path)) from error


def read_foreign(path: Path, bn_eps: float | None = None) -> Foreign:
    """Weights of another program, with the card that lies beside them if we wrote them.

    Args:
        path: a file or folder.
        bn_eps: eps of BN, where it is known better than a Keras file says.

    Raises:
        UserError: if they are missing, damaged or of no known kind.
    """
    kind = recognise(path)
    if kind == "timm":
        found = torch_files.read_timm(path)
    elif kind == "keras-h5":
        found = keras.read_h5(path, bn_eps)
    elif kind == "tfjs":
        found = keras.read_tfjs(path / keras.MODEL_JSON if path.is_dir() else path, bn_eps)
    elif kind == "caffe":
        found = caffe.read(path)
    else:
        found = torch_files.read(path)
    return _with_card(found)


def read(path: Path, network: str | None = None) -> Model:
    """A model of ours from a file or folder of any known format.

    Args:
        path: what to read.
        network: a name of the table; by default what the weights fit.

    Raises:
        UserError: if it is missing, damaged, of no known kind or of another network.
    """
    if recognise(path) != "resnets":
        return imported.to_model(read_foreign(path), network)
    model = model_file.load(_files(path, "resnets")[0])
    if network is not None and network != model.card["network"]:
        raise UserError(f"is a {model.card['network']}, not a {network}", str(path))
    return model


def format_of(out: Path, to: str | None) -> str:
    """The format to write: `to`, or what the ending of `out` stands for.

    Raises:
        UserError: if there is no such format, or the ending does not say.
    """
    if to is None and out.suffix in _ENDINGS:
        return _ENDINGS[out.suffix]
    if to is None:
        raise UserError("the name does not say the format", str(out),
                        f"give --to {' or '.join(FORMATS)}")  # fmt: skip
    if to not in FORMATS:
        raise UserError(f"unknown format {to!r}", "--to", nearest(to, FORMATS))
    return to


def refuse_overwriting(source: Path, out: Path, to: str) -> None:
    """Raise `UserError` if writing `out` in the format `to` would replace a file of `source`."""
    kind = recognise(source)
    there = caffe.found(source) if kind == "caffe" else _files(source, kind)
    read = {path.resolve() for path in (*there, _card_of(there[0]))}
    written = _files(out, to)
    for path in (*written, _card_of(written[0])):
        if path.resolve() in read:
            raise UserError("would overwrite its source", str(path), "give another name or folder")


def _files(path: Path, kind: str) -> list[Path]:
    """The files of a model at `path`, the main file first; of shards, those there already."""
    if kind == "timm":
        return [path / torch_files.TIMM_WEIGHTS, path / torch_files.TIMM_CONFIG]
    if kind == "tfjs":
        main = path if path.suffix == ".json" else path / keras.MODEL_JSON
        return [main, *main.parent.glob("*.bin")]
    if kind == "caffe":
        return caffe.written(path)
    return [path / "model.safetensors" if path.is_dir() else path]


def write(model: Model, out: Path, to: str) -> list[Path]:
    """Write a model in a format; other programs' files get our card beside them.

    Args:
        model: of the ImageNet or CIFAR family.
        out: a file, or a folder for `timm` and `tfjs`.
        to: one of `FORMATS`.

    Returns:
        What was written, the main file first.

    Raises:
        UserError: if the format has no such network, or a file cannot be written.
    """
    network, look = model.network, model.preprocessing
    make_folder(out.parent)
    if to == "resnets":
        model_file.save(out, network.state_dict(), look, model.card)
        return [out]
    if not isinstance(network, ResidualNetwork):
        raise UserError(f"{model.card['network']} is no residual network", hint="use --to resnets")
    files = [out]
    if to == "torchvision":
        torch_files.write(out, network)
    elif to == "timm":
        torch_files.write_timm(out, network, look, model.card)
        files = _files(out, to)
    elif to == "keras-h5":
        keras.write_h5(out, network, look)
    elif to == "tfjs":
        files = _files(out, to)[:1]
        keras.write_tfjs(files[0], network, look)
    else:
        files = _files(out, to)
        caffe.write(out, network, look)
    card = _card_of(files[0])
    write_json(card, _card(model, files[0], to))
    return [*files, card]


def _card_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.card.json")


def _card(model: Model, file: Path, to: str) -> dict[str, Any]:
    """Our card for another program's file: how to feed it, classes, provenance."""
    look = model.preprocessing
    bgr = to in ("keras-h5", "tfjs", "caffe")
    std = torch.full((3,), 1 / 255) if bgr else look.std
    facts = {
        "size": look.size,
        "resize": look.resize,
        "interpolation": look.interpolation,
        "input": "BGR, pixels of 0..255 less 255 * mean" if bgr else "RGB, pixels / 255, less mean",
        "mean": look.mean.tolist(),
        "std": None if std is None else std.flatten().tolist(),
    }
    return {**model.card, "file": file.name, "sha256": digest(file), "preprocessing": facts}


def _with_card(found: Foreign) -> Foreign:
    """What our card beside a file says about it."""
    path = _card_of(Path(found.where))
    if not path.exists():
        return found
    try:
        card = json.loads(path.read_bytes())
        if card["sha256"] != digest(Path(found.where)):
            raise UserError("describes another file", str(path), "remove it")
        check_card(card)
        facts = card["preprocessing"]
        std = None if facts["std"] is None else imported.channels(facts["std"])
        look = Preprocessing(
            facts["size"], facts["resize"], torch.tensor(facts["mean"]), std, facts["interpolation"]
        )
        kept = {key: card[key] for key in ("classes", "class_ids", "measured", "provenance")
                if key in card}  # fmt: skip
        return Foreign(
            found.state, found.origin, found.where, found.stride_in, found.pool, look, kept,
            {**found.notes, "preprocessing": f"of {path.name}"},
        )  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"not a readable card ({line})", str(path)) from error
