"""The card of a model file: what it says about its network, readable without torch.

A model file is a safetensors file whose metadata holds the card as JSON under `card`: network,
class names, preprocessing, provenance and measured errors.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors

from resnets.data.image_formats import is_lfs_pointer
from resnets.data.preprocessing import CentralCrop
from resnets.support import tensor_files
from resnets.support.errors import UserError, one_line

FORMAT = "resnets-model-2"
CLASSIFIER = "fc.weight"
"""The tensor of a residual network that has a row for each class."""
DETECTION = "detection"
"""Entry of a card that only detectors have: their settings."""
MASKS = "masks"
"""Of these settings, whether a detector finds masks; older cards lack it."""
PRECISIONS = ("AP50", "AP", "VOC07", "mask_AP50", "mask_AP")
"""What a card says of a detector's tests, in percent."""
LOCALIZATION = "localization"
"""Entry of a card that only localizers have: their settings."""
RUN_MODEL = "model.safetensors"
"""Name of the model file in a run folder."""
DAMAGED_HINT = "take a copy of it, or write it again"
LFS_POINTER = ("is a pointer of Git LFS, not the file itself", "fetch it: git lfs pull")
"""Message and hint about the note that Git LFS leaves in the place of a file."""


def refuse_detector(card: dict[str, Any], location: str) -> None:
    """Raise `UserError` if a card is not a classifier's, where only a classifier will do."""
    kinds = {DETECTION: "a detector", LOCALIZATION: "a localizer"}
    for entry, kind in kinds.items():
        if entry in card:
            hint = f"find objects with: resnets detect {shlex.quote(location)} IMAGE"
            raise UserError(f"is {kind}, not a classifier", location, hint)


def refuse_classifier(card: dict[str, Any], location: str, entry: str = DETECTION) -> None:
    """Raise `UserError` unless a card is a detector's, or has another such entry."""
    if entry in card:
        return
    wanted = "a localizer" if entry == LOCALIZATION else "a detector"
    if DETECTION in card or LOCALIZATION in card:
        found = "a detector" if DETECTION in card else "a localizer"
        raise UserError(f"is {found}, not {wanted}", location)
    hint = f"name what is on an image with: resnets predict {shlex.quote(location)} IMAGE"
    raise UserError(f"is a classifier, not {wanted}", location, hint)


def check_card(card: dict[str, Any]) -> dict[str, Any]:
    """Check a card's format, network and classes.

    Returns:
        The card.

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
    return card


def read_card(path: Path) -> tuple[dict[str, Any], CentralCrop]:
    """Read the card of a model file, and the crop of an image that its network expects.

    Raises:
        UserError: if the file is missing, damaged, or without a valid card.
    """
    with open_model_file(path, "np", header_only=True) as file:
        card = card_in(file)
        facts = card["preprocessing"]
        return card, CentralCrop(int(facts["size"]), int(facts["resize"]), facts["interpolation"])


def card_in(file: Any) -> dict[str, Any]:
    """The checked card of an open model file; raises like `check_card`."""
    card: dict[str, Any] = json.loads((file.metadata() or {})["card"])
    card = check_card(card)
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
def open_model_file(path: Path, framework: str, *, header_only: bool = False) -> Iterator[Any]:
    """Open a safetensors file; errors inside the `with` block become a `UserError` about it.

    Args:
        path: the file.
        framework: `pt` or `np`, the type of the tensors that it returns.
        header_only: check the header's sum only, for readers of the card.

    Raises:
        UserError: if the file is missing, damaged, or not a model file.
    """
    try:
        tensor_files.check(path, header_only=header_only)
        file: Any = tensor_files.open_file(path, framework)
    except tensor_files.Damaged as error:
        raise UserError(f"not a readable model file: {error}", str(path), DAMAGED_HINT) from error
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(*_unreadable(path, error)) from error
    if "card" not in (file.metadata() or {}):
        message = "not a model file of resnets: it has no card"
        raise UserError(message, str(path), convert_hint(path))
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
        message = f"not a valid model file of resnets ({one_line(error)})"
        raise UserError(message, str(path)) from error


def _unreadable(path: Path, error: Exception) -> tuple[str, str, str]:
    """Message, location and hint about a file that is no safetensors file."""
    if isinstance(error, OSError):
        return f"not a readable model file: {one_line(error)}", str(path), ""
    with path.open("rb") as file:
        start = file.read(64)
    if is_lfs_pointer(start):
        return LFS_POINTER[0], str(path), LFS_POINTER[1]
    if not start:
        return "not a readable model file: it is empty", str(path), DAMAGED_HINT
    if start[8:9] == b"{":
        return "not a readable model file: it is cut off or damaged", str(path), DAMAGED_HINT
    return (
        "not a readable model file: not in the safetensors format",
        str(path),
        convert_hint(path),
    )


def convert_hint(path: Path) -> str:
    """What to do with a file or folder that may be another program's."""
    if path.name == RUN_MODEL and path.with_name("config.json").exists():
        path = path.parent  # of timm or transformers, whose config has classes and preprocessing
    return f"if another program wrote it: resnets convert {shlex.quote(str(path))} mine.safetensors"


def provenance_of(card: dict[str, Any]) -> dict[str, Any]:
    """A card's provenance; empty if it has none or, in others' files, something else there."""
    found = card.get("provenance")
    return found if isinstance(found, dict) else {}


def assumptions_of(card: dict[str, Any]) -> str:
    """What was assumed of weights that another program's file does not say; empty if nothing."""
    imported = provenance_of(card).get("converted_from")
    return ", ".join(imported.get("assumed", [])) if isinstance(imported, dict) else ""


def measurements_of(card: dict[str, Any]) -> list[dict[str, Any]]:
    """A card's test results; entries that are not objects are left out."""
    found = card.get("measured")
    return [test for test in found if isinstance(test, dict)] if isinstance(found, list) else []


def precisions_of(test: Mapping[str, Any]) -> str:
    """A detector's test result in words, such as `AP50 84.6 %, AP 41.2 %, mask AP50 80.1 %`."""
    known = (key for key in PRECISIONS if key in test)
    return ", ".join(f"{key.replace('_', ' ')} {test[key]:.1f} %" for key in known)


def finds_masks(card: dict[str, Any]) -> bool:
    """Whether a card is that of a detector that also finds masks."""
    return bool(card.get(DETECTION, {}).get(MASKS))
