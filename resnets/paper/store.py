"""Results of experiments: one small JSON file each, in a folder that can be committed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnets.support.errors import UserError
from resnets.support.files import atomic_write, make_folder, write_json, writing

FORMAT = "resnets-result-1"
LARGEST_WEIGHTS = 10_000_000
"""Bytes up to which a model file is kept beside its result."""


@dataclass(frozen=True)
class Outcome:
    """What one job found.

    Args:
        key: where it lies in the store, for example `cifar10-short/cifar-plain56-seed0`.
        kind: `training`, `test`, `ensemble`, `responses`, `signals` or `deepened`.
        identity: everything that was asked for, to tell it from another job's result.
        values: what was measured; its keys depend on the kind.
        provenance: command, hardware, versions, time.
    """

    key: str
    kind: str
    identity: dict[str, Any]
    values: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def network(self) -> str:
        """The network that was trained or measured."""
        return str(self.identity["network"])

    @property
    def budget(self) -> str:
        """`full`, `short` or `smoke`."""
        return str(self.identity["budget"])

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.identity["seed"])


class Store:
    """A folder of results.

    Args:
        folder: need not exist until something is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """The result file of a job."""
        return self.folder / f"{key}.json"

    def weights(self, key: str) -> Path:
        """The model file that may lie beside a training's result."""
        return self.folder / f"{key}.safetensors"

    def read(self, key: str) -> Outcome | None:
        """The result of a job, if there is one.

        Raises:
            UserError: if the file holds something else.
        """
        path = self.path(key)
        try:
            return _outcome(json.loads(path.read_text(encoding="utf-8")), key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"is not a whole result file ({error})", str(path), "move it away and run again"
            ) from error

    def prepare(self) -> None:
        """Make the folder, and see that it can be written to, before hours of work for it.

        Raises:
            UserError: if it cannot.
        """
        make_folder(self.folder)
        with writing(self.folder), tempfile.TemporaryFile(dir=self.folder):
            pass

    def write(self, outcome: Outcome) -> None:
        """Keep a result.

        Raises:
            UserError: if the disk refuses; nothing is then half-written.
        """
        path = self.path(outcome.key)
        make_folder(path.parent)
        write_json(path, {"format": FORMAT, **outcome.__dict__})

    def keep_weights(self, key: str, model: Path) -> None:
        """Copy a model file beside its result, if it is small."""
        if model.exists() and model.stat().st_size <= LARGEST_WEIGHTS:
            make_folder(self.weights(key).parent)
            with model.open("rb") as source:
                atomic_write(self.weights(key), lambda file: shutil.copyfileobj(source, file))

    def everything(self) -> Iterator[Outcome]:
        """All results, by key.

        Raises:
            UserError: if a file is none of ours.
        """
        for path in sorted(self.folder.rglob("*.json")):
            outcome = self.read(path.relative_to(self.folder).with_suffix("").as_posix())
            if outcome is not None:
                yield outcome


def _outcome(content: Any, key: str) -> Outcome:
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r} is not {FORMAT!r}")
    if content["key"] != key:
        raise ValueError(f"it is the result of {content['key']}")
    parts = (content[name] for name in ("identity", "values", "provenance"))
    identity, values, provenance = parts
    for part in (identity, values, provenance):
        if not isinstance(part, dict):
            raise TypeError("its parts are no tables")
    if not {"network", "budget", "seed"} <= identity.keys():
        raise ValueError("its identity is incomplete")
    return Outcome(key, content["kind"], identity, values, provenance)
