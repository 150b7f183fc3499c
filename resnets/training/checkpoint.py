"""Checkpoints: plain tensors and JSON in one file each, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from resnets.support.errors import UserError
from resnets.support.files import write_bytes

KEEP = 2

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and JSON facts (`step` among them)."""


def save(folder: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Write the checkpoint of `facts["step"]` and delete all but the newest two.

    Raises:
        UserError: if it cannot be written; the checkpoints before it stay.
    """
    path = folder / f"checkpoint-{facts['step']:08d}.safetensors"
    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_bytes(path, safetensors.torch.save(plain, {"facts": json.dumps(facts)}))
    for old in files(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def files(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def read(path: Path) -> State:
    """Read one checkpoint.

    Raises:
        UserError: if it is truncated or altered.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {key: file.get_tensor(key) for key in file.keys()}, facts  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"the checkpoint is truncated or damaged ({error})", str(path)) from error


def latest(folder: Path, note: Callable[[str], None]) -> State | None:
    """The newest readable checkpoint; None if there is none at all.

    Args:
        folder: where the checkpoints lie.
        note: told about each damaged checkpoint that is passed over.

    Raises:
        UserError: if there are checkpoints but none can be read.
    """
    damaged: list[Path] = []
    for path in reversed(files(folder)):
        try:
            state = read(path)
        except UserError as error:
            note(f"{error}; trying the one before")
            last_error = error
            damaged.append(path)
            continue
        for other in damaged:  # it must not count as one of the newest two any more
            other.replace(other.with_suffix(".damaged"))
        return state
    if damaged:
        raise UserError(
            "no checkpoint can be read", str(folder), "delete the run folder and train anew"
        ) from last_error
    return None
