"""Results of experiments: one small JSON file each, in a folder that can be committed."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resnets.support.errors import UserError
from resnets.support.files import atomic_write, make_folder, write_json, writing

Budget = Literal["full", "short", "smoke"]
BUDGETS: tuple[Budget, ...] = ("full", "short", "smoke")
"""Lengths of training, the paper's own first."""
FORMAT = "resnets-result-1"
LARGEST_WEIGHTS = 10_000_000
"""Bytes up to which a model file is stored with its result."""
Points = list[tuple[float, float]]


LOCALIZATION = "localization"
"""The variant of trainings of localizers."""


@dataclass(frozen=True)
class Group:
    """Results that can be compared with each other: the same images, budget and variant.

    Args:
        dataset: `cifar10`, or the name of a folder of photographs.
        size: pixels a side of photographs; None for CIFAR-10.
        budget: length of the trainings.
        variant: how the trainings differ from the experiment's own, for example `no-warmup`.
    """

    dataset: str
    size: int | None
    budget: Budget
    variant: str = ""

    @property
    def cifar(self) -> bool:
        """Whether the images are CIFAR-10's."""
        return self.dataset == "cifar10"

    @property
    def images(self) -> str:
        """The data set, with the size of its photographs: `cifar10`, `imagenet-224`."""
        return self.dataset if self.size is None else f"{self.dataset}-{self.size}"

    @property
    def base(self) -> Group:
        """The group of which this is a variant."""
        return Group(self.dataset, self.size, self.budget)

    def __str__(self) -> str:
        """The name of its folder: `cifar10-short-deepened`, `imagenet-224-full`."""
        variant = f"-{self.variant}" if self.variant else ""
        return f"{self.images}-{self.budget}{variant}"

    @staticmethod
    def of_folder(name: str) -> Group:
        """The group whose results are in a folder of this name.

        Raises:
            ValueError: if no group's folder is called so.
        """
        parts = re.fullmatch(r"(.+)-(full|short|smoke)(?:-(.+))?", name)
        if parts is None:
            raise ValueError("results belong in DATA-BUDGET/NETWORK-seedN.json")
        images, budget, variant = parts.groups(default="")
        dataset, _, size = images.rpartition("-")
        sized = bool(dataset) and size.isdecimal() and images != "cifar10"
        whole = next(known for known in BUDGETS if known == budget)
        return Group(dataset if sized else images, int(size) if sized else None, whole, variant)


@dataclass(frozen=True)
class Outcome:
    """The result of one job.

    Args:
        group: the results that it can be compared with.
        name: of its file in the group's folder, without ending: `cifar-plain56-seed0`.
        kind: `training`, `test`, `localization`, `ensemble`, `responses`, `signals` or
            `deepened`.
        identity: the arguments of the job, which distinguish it from other jobs.
        values: the measurements; their keys depend on the kind.
        provenance: command, hardware, versions, time.
    """

    group: Group
    name: str
    kind: str
    identity: dict[str, Any]
    values: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def key(self) -> str:
        """Path in the store without ending: `cifar10-short/cifar-plain56-seed0`."""
        return f"{self.group}/{self.name}"

    @property
    def network(self) -> str:
        """The network that was trained or measured."""
        return str(self.identity["network"])

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.identity["seed"])

    @property
    def views(self) -> str:
        """The protocol of a test: `center`, `ten-crop` or `dense`; empty for other kinds."""
        return str(self.identity.get("views", ""))

    @property
    def measurement(self) -> dict[str, Any]:
        """The test result, which a training has among other values."""
        found = self.values.get("measured") if self.kind == "training" else self.values
        return found if isinstance(found, dict) else {}

    @property
    def images(self) -> int | None:
        """Number of images of the test."""
        found = self.measurement.get("images")
        return found if isinstance(found, int) else None

    def damaged(self, where: str) -> UserError:
        """The error to raise if a value is missing or malformed."""
        return UserError(
            f"{where!r} is missing or malformed", f"{self.key}.json", "move it away and run again"
        )

    def number(self, *path: str) -> float:
        """A finite number among the values, by its keys; raises `UserError` if there is none."""
        found: Any = self.values
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        number = isinstance(found, int | float) and not isinstance(found, bool)
        if not number or not math.isfinite(found):
            raise self.damaged(".".join(path))
        return float(found)

    def percent(self, what: str = "error") -> float:
        """`error`, `top5_error` or `train_error`; raises `UserError` if it is missing."""
        nested = self.kind == "training" and what != "train_error"
        return self.number("measured", what) if nested else self.number(what)

    def has(self, what: str) -> bool:
        """Whether a percentage is there: only a top-5 error, of few classes, may be absent."""
        return what != "top5_error" or self.measurement.get(what) is not None

    def curve(self, name: str) -> Points:
        """A curve of a training as (iteration, value), without values that are not finite.

        Raises:
            UserError: if it is missing or malformed.
        """
        try:
            points = [(float(x), math.nan if y is None else float(y)) for x, y in self.values[name]]
        except (KeyError, TypeError, ValueError) as error:
            raise self.damaged(name) from error
        return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]

    def responses(self) -> list[float]:
        """Standard deviations of the layers' responses, in order of the layers.

        Raises:
            UserError: if there are none.
        """
        rows = self._layers(self.values.get("responses"), "responses", "std")
        found = [float(row["std"]) for row in rows if row.get("std") is not None]
        if not found:
            raise self.damaged("responses")
        return found

    def signals(self) -> dict[int, list[dict[str, float | None]]]:
        """For each iteration a row for each layer, with `forward` and `gradient`.

        Raises:
            UserError: if there are none.
        """
        steps = self.values.get("steps")
        if not isinstance(steps, dict) or not steps or not all(str(s).isdigit() for s in steps):
            raise self.damaged("steps")
        ordered = sorted(steps.items(), key=lambda item: int(item[0]))
        return {int(s): self._layers(rows, "steps", "forward", "gradient") for s, rows in ordered}

    def _layers(self, found: Any, name: str, *keys: str) -> list[dict[str, Any]]:
        """A list with a table for each layer, whose `keys` are numbers or absent."""
        if not isinstance(found, list) or not found:
            raise self.damaged(name)
        for row in found:
            if not isinstance(row, dict) or not all(
                row.get(key) is None or isinstance(row[key], int | float) for key in keys
            ):
                raise self.damaged(name)
        return found


class Store:
    """A folder of results, which need not exist until one is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """The result file of a job."""
        return self.folder / f"{key}.json"

    def weights(self, key: str) -> Path:
        """The model file that may accompany the result of a training."""
        return self.folder / f"{key}.safetensors"

    def read(self, key: str) -> Outcome | None:
        """The result of a job, if there is one.

        Raises:
            UserError: if the file is not the result of this job.
        """
        path = self.path(key)
        try:
            return _outcome(json.loads(path.read_text(encoding="utf-8")), key)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"is not a valid result file ({error})", str(path), "move it away and run again"
            ) from error

    def prepare(self) -> None:
        """Create the folder and check that it is writable, before hours of work.

        Raises:
            UserError: if it is not.
        """
        make_folder(self.folder)
        with writing(self.folder), tempfile.TemporaryFile(dir=self.folder):
            pass

    def write(self, outcome: Outcome) -> None:
        """Write a result; raises `UserError` if the disk refuses, with nothing half-written."""
        path = self.path(outcome.key)
        make_folder(path.parent)
        facts = {name: getattr(outcome, name) for name in ("key", "kind", *TABLES)}
        write_json(path, {"format": FORMAT, **facts})

    def keep_weights(self, key: str, model: Path) -> None:
        """Copy a model file into the store, next to its result, if it is small."""
        if model.exists() and model.stat().st_size <= LARGEST_WEIGHTS:
            make_folder(self.weights(key).parent)
            with model.open("rb") as source:
                atomic_write(self.weights(key), lambda file: shutil.copyfileobj(source, file))

    def everything(self) -> Iterator[Outcome]:
        """All results, in the order of their paths.

        Raises:
            UserError: if a JSON file in the folder is not a result.
        """
        for path in sorted(self.folder.rglob("*.json")):
            outcome = self.read(path.relative_to(self.folder).with_suffix("").as_posix())
            if outcome is not None:
                yield outcome


TABLES = ("identity", "values", "provenance")


def _outcome(content: Any, key: str) -> Outcome:
    """A result from the content of its file; raises `ValueError`, `KeyError` or `TypeError`."""
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r} is not {FORMAT!r}")
    if content["key"] != key:
        raise ValueError(f"it is the result of {content['key']}")
    identity, values, provenance = (content[name] for name in TABLES)
    if not all(isinstance(table, dict) for table in (identity, values, provenance)):
        raise TypeError(f"{', '.join(TABLES)} must be tables")
    if not {"network", "budget", "seed"} <= identity.keys():
        raise ValueError("its identity is incomplete")
    folder, _, name = key.partition("/")
    group = Group.of_folder(folder)
    return Outcome(group, name, content["kind"], identity, values, provenance)
