"""Where a model file is, and the card inside it: what can be told of a model without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors

from resnets.data.preprocessing import CentralCrop
from resnets.support.errors import UserError, nearest

FORMAT = "resnets-model-2"
MEAN = "preprocessing.mean"
"""The mean image, which travels as a tensor beside the weights."""


def shipped() -> dict[str, Path]:
    """Models inside the package, by name."""
    folder = Path(str(resources.files("resnets"))) / "weights" / "shipped"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(name: str) -> Path:
    """The file of a model: a shipped name, a model file, a run folder, or a named source.

    A named source, such as `resnet50@msra`, is fetched and converted if it is not cached.

    Raises:
        UserError: if there is no such model, or its source cannot be had.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "model.safetensors"
        if not path.exists():
            raise UserError(
                "this run has no model yet", name, f"finish it with: resnets resume {name}"
            )
        return path
    if path.exists():
        return path
    models = shipped()
    if name in models:
        return models[name]
    if "@" in name:
        from resnets.weights import hub

        return hub.fetch(name)
    if path.suffix or "/" in name:
        raise UserError("no such model file", name, f"shipped models: {', '.join(models)}")
    raise UserError(f"unknown model {name!r}", hint=nearest(name, models))


def read(path: Path) -> tuple[dict[str, Any], CentralCrop]:
    """The card of a model file, and the part of an image that its network looks at.

    Raises:
        UserError: as `model_file.load` does for what is wrong with the card.
    """
    with opened(path, "np") as file:
        card = card_of(file)
        look = card["preprocessing"]
        return card, CentralCrop(int(look["size"]), int(look["resize"]), look["interpolation"])


def card_of(file: Any) -> dict[str, Any]:
    """The card of an open model file; raises `ValueError` or the like if it is none."""
    card: dict[str, Any] = json.loads((file.metadata() or {})["card"])
    check_card(card)
    return card


def provenance(card: dict[str, Any]) -> dict[str, Any]:
    """Where a card's weights come from, as far as it tells; the files of others tell anything."""
    found = card.get("provenance")
    return found if isinstance(found, dict) else {}


def measured(card: dict[str, Any]) -> list[dict[str, Any]]:
    """The tests that a card tells of, as far as they are none of another shape."""
    found = card.get("measured")
    return [test for test in found if isinstance(test, dict)] if isinstance(found, list) else []


@contextmanager
def opened(path: Path, framework: str) -> Iterator[Any]:
    """An open safetensors file; what is wrong with it becomes a `UserError`.

    Args:
        framework: of the tensors that it gives: `pt` or `np`.
    """
    convert = f"if it is another program's: resnets convert {path} mine.safetensors"
    try:
        file: Any = safetensors.safe_open(path, framework=framework)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"not a readable model file ({error})", str(path), convert) from error
    try:
        yield file
    except (
        safetensors.SafetensorError,
        LookupError,
        AttributeError,
        ValueError,
        TypeError,
        RuntimeError,
        UserError,
    ) as error:
        line = str(error).splitlines()[0]
        raise UserError(
            f"not a model file of this program ({type(error).__name__}: {line})",
            str(path),
            "" if "card" in (file.metadata() or {}) else convert,
        ) from error


def check_card(card: dict[str, Any]) -> None:
    """Raise `ValueError` or the like if a card of this format tells no classes or network."""
    if card["format"] != FORMAT:
        raise ValueError(f"format {card['format']!r} is not {FORMAT!r}")
    if not isinstance(card["network"], str):
        raise ValueError(f"network {card['network']!r} is no name")
    classes, ids = card["classes"], card.get("class_ids")
    for names in (classes, classes if ids is None else ids):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("classes or class_ids are no list of names")
    if not classes or (ids is not None and len(ids) != len(classes)):
        raise ValueError(f"{len(classes)} classes, {len(ids or ())} class_ids")
