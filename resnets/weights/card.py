"""The card of a model file: what it says about its network, readable without torch.

A model file is a safetensors file whose metadata holds the card as JSON under `card`: network,
class names, preprocessing, provenance and measured errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

from resnets.data.preprocessing import CentralCrop
from resnets.support.errors import UserError, one_line

FORMAT = "resnets-model-2"
CLASSIFIER = "fc.weight"
"""The tensor of a residual network that has a row for each class."""
RUN_MODEL = "model.safetensors"
"""Name of the model file in a run folder."""


def check_card(card: dict[str, Any]) -> None:
    """Check a card's format, network and classes.

    Raises:
        ValueError, KeyError, TypeError: if they are missing or malformed.
    """
    if card["format"] != FORMAT:
        raise ValueError(f"format {card['format']!r} is not {FORMAT!r}")
    if not isinstance(card["network"], str):
        raise ValueError(f"network {card['network']!r} is not a name")
    classes, ids = card["classes"], card.get("class_ids")
    for names in (classes, classes if ids is None else ids):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("classes and class_ids must be lists of names")
    if not classes:
        raise ValueError("it has no classes")
    if ids is not None and len(ids) != len(classes):
        raise ValueError(f"it has {len(classes)} classes but {len(ids)} class_ids")


def read_card(path: Path) -> tuple[dict[str, Any], CentralCrop]:
    """Read the card of a model file, and the crop of an image that its network expects.

    Raises:
        UserError: if the file is missing, damaged, or without a valid card.
    """
    with open_model_file(path, "np") as file:
        card = card_in(file)
        facts = card["preprocessing"]
        return card, CentralCrop(int(facts["size"]), int(facts["resize"]), facts["interpolation"])


def card_in(file: Any) -> dict[str, Any]:
    """The checked card of an open model file; raises like `check_card`."""
    card: dict[str, Any] = json.loads((file.metadata() or {})["card"])
    check_card(card)
    if CLASSIFIER in file.keys():  # noqa: SIM118 - not a dictionary
        check_outputs(file.get_slice(CLASSIFIER).get_shape()[0], card["classes"])
    return card


def check_outputs(outputs: int, classes: Sequence[str]) -> None:
    """Raise `ValueError` unless a network has an output for each class that its card names."""
    if outputs != len(classes):
        raise ValueError(
            f"its card names {len(classes)} classes, but its network has {outputs} outputs"
        )


@contextmanager
def open_model_file(path: Path, framework: str) -> Iterator[Any]:
    """Open a safetensors file; errors inside the `with` block become a `UserError` about it.

    Args:
        path: the file.
        framework: `pt` or `np`, the type of the tensors that it returns.

    Raises:
        UserError: if the file is missing, damaged, or not a model file.
    """
    hint = f"if another program wrote it: resnets convert {path} mine.safetensors"
    try:
        file: Any = safetensors.safe_open(path, framework=framework)
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"not a readable model file ({error})", str(path), hint) from error
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
        has_card = "card" in (file.metadata() or {})
        raise UserError(
            "not a valid model file of resnets "
            + (f"({one_line(error)})" if has_card else "(it has no card)"),
            str(path),
            "" if has_card else hint,
        ) from error


def provenance_of(card: dict[str, Any]) -> dict[str, Any]:
    """A card's provenance; empty if it has none or, in others' files, something else there."""
    found = card.get("provenance")
    return found if isinstance(found, dict) else {}


def measurements_of(card: dict[str, Any]) -> list[dict[str, Any]]:
    """A card's test results; entries that are not objects are left out."""
    found = card.get("measured")
    return [test for test in found if isinstance(test, dict)] if isinstance(found, list) else []
