"""Recipes: everything that defines a training, as typed data read from TOML."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from resnets.data.batches import FlipKind
from resnets.models import zoo
from resnets.support.errors import UserError, nearest

Switch = Literal["auto"] | bool
SWITCHES = ("channels_last", "compile")


class Section(BaseModel):
    """A table of the recipe: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Optimizer(Section):
    """SGD with momentum in Caffe's form: v = momentum * v + gradient, w = w - lr * v."""

    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-4, ge=0, le=1)
    decay: Literal["all", "weights"] = "all"
    """`all` parameters, or only the `weights` of convolutions and classifier."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Optimizer:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class GentleStart(Section):
    """Section 4.2, for 110 layers: a small rate until the training error is below a limit."""

    lr: float = Field(0.01, gt=0)
    until_error: float = Field(0.80, gt=0, lt=1)
    from_depth: int = Field(110, ge=0)
    """Shallower networks start at the full rate."""


class Schedule(Section):
    """The learning rate as a function of the step."""

    kind: Literal["steps", "linear", "cosine"]
    lr: float = Field(gt=0, le=100)
    drops: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """`steps`: the iterations at which the rate is multiplied by `factor`."""
    factor: float = Field(0.1, gt=0, lt=1)
    warmup: int = Field(0, ge=0)
    """Iterations over which the rate rises linearly from zero."""
    gentle_start: GentleStart | None = None

    @field_validator("drops", mode="before")
    @classmethod
    def _array_to_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _drops_rise(self) -> Schedule:
        if list(self.drops) != sorted(set(self.drops)):
            raise ValueError("drops must rise")
        if self.drops and self.kind != "steps":
            raise ValueError(f"drops belong to kind = 'steps', not {self.kind!r}")
        return self


class Augment(Section):
    """Section 4.2: a random crop from the padded image, and its flip."""

    pad: int = Field(4, ge=0, le=16)
    flip: FlipKind = "random"


class Progressive(Section):
    """Train on smaller images at first: `size` pixels a side before iteration `until`."""

    size: int = Field(ge=8, le=32)
    until: int = Field(ge=1)


class Recipe(Section):
    """One training, whole: with the data it decides every weight of the result."""

    dataset: Literal["cifar10"] = "cifar10"
    split: Literal["50k/10k", "45k/5k"] = "50k/10k"
    split_seed: int = Field(0, ge=0, lt=2**32)
    """Which of the ways to part the training images, for `45k/5k`."""
    network: str = "cifar-resnet20"
    seed: int = Field(0, ge=0, lt=2**32)
    iterations: int = Field(ge=1)
    batch: int = Field(128, ge=2, le=50_000)
    schedule: Schedule
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    progressive: Progressive | None = None
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    channels_last: Switch = "auto"
    compile: Switch = "auto"
    deterministic: bool = False
    """On GPUs: only kernels that repeat bit for bit (slower). CPUs always repeat."""
    test_every: int = Field(1000, ge=1)
    """Iterations between tests."""
    log_every: int = Field(50, ge=1)
    """Iterations between lines of metrics, each one reading of the device."""
    checkpoint_seconds: float = Field(60, ge=0)
    """Seconds between checkpoints; changes nothing of the result."""

    @field_validator("network")
    @classmethod
    def _network_exists(cls, value: str) -> str:
        try:
            fits = value not in zoo.VGG_NAMES and zoo.architecture(value).stem == "cifar"
        except UserError as error:
            raise ValueError(str(error)) from error
        if not fits:
            raise ValueError(
                f"{value} is made for 224-pixel photographs; "
                "for CIFAR-10 take a cifar- network, for example cifar-resnet20"
            )
        return value

    def content_hash(self) -> str:
        """Hash of everything that decides the result; run folders are known by it."""
        facts = self.model_dump(mode="json", exclude={"checkpoint_seconds"})
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def shipped() -> dict[str, str]:
    """Names and texts of the recipes inside the package."""
    folder = resources.files("resnets") / "recipes"
    return {
        Path(file.name).stem: file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir(), key=lambda f: f.name)
        if file.name.endswith(".toml")
    }


def load(name_or_path: str, settings: Iterable[str] = ()) -> Recipe:
    """Read a recipe: a shipped name or the path of a TOML file.

    Args:
        name_or_path: for example `cifar10-paper` or `my/recipe.toml`.
        settings: `key=value` or `table.key=value`, in TOML's notation; quotes around
            strings may be left out.

    Raises:
        UserError: naming the file, the line and the key, and the nearest known key.
    """
    recipes = shipped()
    if name_or_path in recipes:
        text, where = recipes[name_or_path], name_or_path
    elif name_or_path.endswith(".toml") or "/" in name_or_path:
        text, where = _read(Path(name_or_path)), name_or_path
    else:
        raise UserError(f"unknown recipe {name_or_path!r}", mend=nearest(name_or_path, recipes))
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"not valid TOML: {error}", where) from error
    overridden = set()
    for setting in settings:
        overridden.add(_apply(values, setting))
    return _validated(values, text, where, overridden)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            "no such recipe file", str(path), f"shipped recipes: {', '.join(shipped())}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", str(path)) from error


def _apply(values: dict[str, Any], setting: str) -> str:
    """Put `table.key=value` into `values`; returns the dotted key."""
    key, equals, text = setting.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise UserError("not of the form key=value", f"--set {setting}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = values
    *tables, last = key.split(".")
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UserError(f"{name} is not a table", f"--set {setting}")
    table[last] = value
    return key


def _validated(values: dict[str, Any], text: str, where: str, overridden: set[str]) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as failure:
        raise _explained(failure.errors()[0], text, where, overridden) from failure


def _explained(error: ErrorDetails, text: str, where: str, overridden: set[str]) -> UserError:
    """One line for the first thing that is wrong: file, line, key, and the nearest key."""
    path = _key_path(error)
    key = ".".join(path)
    if any(key == o or o.startswith(f"{key}.") for o in overridden):
        place = f"--set {key}"
    else:
        line = _line_of(text, path)
        place = f"{where}, line {line}" if line else where
    if error["type"] == "extra_forbidden":
        table = _table(path[:-1])
        known = table.model_fields if table else Recipe.model_fields
        return UserError(f"unknown key {key!r}", place, nearest(path[-1], known))
    if error["type"] == "missing":
        return UserError(f"key {key!r} is missing", place)
    given = f", not {error['input']!r}" if not isinstance(error["input"], dict) else ""
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "value_error":
        given = ""
    if path and path[-1] in SWITCHES:
        message = "should be 'auto', true or false"
    return UserError(f"{key}: {message}{given}", place)


def _key_path(error: ErrorDetails) -> list[str]:
    """The keys that lead to an error, without pydantic's names for parts of a type."""
    path: list[str] = []
    for part in error["loc"]:
        table = _table(path)
        unknown = error["type"] == "extra_forbidden" and part == error["loc"][-1]
        if table is None or not (part in table.model_fields or unknown):
            break
        path.append(str(part))
    return path


def _table(path: list[str]) -> type[BaseModel] | None:
    """The type of the recipe's table at `path`; None where a single value stands."""
    model: type[BaseModel] | None = Recipe
    for name in path:
        field = model.model_fields.get(name) if model else None
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return model


def _line_of(text: str, path: list[str]) -> int | None:
    """Line, from 1, on which a key stands; None where it does not stand."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([\w.-]+)\]", line):
            table = header[1].split(".")
            if table == path:
                return number
        elif (entry := re.match(r"\s*([\w.-]+)\s*=", line)) and [
            *table, *entry[1].split(".")
        ] == path[: len(table) + entry[1].count(".") + 1]:  # fmt: skip
            return number
    return None
