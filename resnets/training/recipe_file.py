"""Recipe files: TOML text to a `Recipe`, with errors that name file, line and key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from resnets.support.errors import UserError, nearest
from resnets.support.files import read_text
from resnets.training.recipe import SWITCHES, Recipe


def shipped() -> dict[str, str]:
    """Names and texts of the recipes inside the package."""
    folder = resources.files("resnets") / "training" / "recipes"
    return {
        Path(file.name).stem: file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir(), key=lambda f: f.name)
        if file.name.endswith(".toml")
    }


def load(
    name_or_path: str, settings: Iterable[str] = (), options: Mapping[str, str | int] | None = None
) -> Recipe:
    """Read a recipe: a shipped name or the path of a TOML file.

    Args:
        name_or_path: for example `cifar10-paper` or `my/recipe.toml`.
        settings: `key=value` or `table.key=value`, in TOML's notation; quotes around
            strings may be left out; `none` unsets an optional table or key.
        options: keys that have a command line option of their own, which errors then name.

    Raises:
        UserError: naming the file, the line and the key, and the nearest known key.
    """
    recipes = shipped()
    if name_or_path in recipes:
        text, where = recipes[name_or_path], name_or_path
    elif name_or_path.endswith(".toml") or "/" in name_or_path:
        hint = f"shipped recipes: {', '.join(recipes)}"
        text, where = read_text(Path(name_or_path), hint=hint), name_or_path
    else:
        raise UserError(f"unknown recipe {name_or_path!r}", hint=nearest(name_or_path, recipes))
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"not valid TOML: {error}", where) from error
    overridden = {}
    for setting in settings:
        key = _apply(values, setting)
        overridden[key] = f"--set {key}"
    for key, value in (options or {}).items():
        values[key] = value
        overridden[key] = f"--{key}"
    return _validate(values, text, where, overridden)


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
        if value == "none" and _is_optional(key.split(".")):  # TOML has no null
            value = None
    table = values
    *tables, last = key.split(".")
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UserError(f"{name} is not a table", f"--set {setting}")
    table[last] = value
    return key


def _validate(values: dict[str, Any], text: str, where: str, overridden: dict[str, str]) -> Recipe:
    try:
        return Recipe.model_validate(values)
    except ValidationError as failure:
        raise _explain(failure.errors()[0], text, where, overridden) from failure


def _explain(error: ErrorDetails, text: str, where: str, overridden: dict[str, str]) -> UserError:
    """One line about the first error: file, line, key, and the nearest known key."""
    path = _key_path(error)
    key = ".".join(path)
    ours = [o for o in overridden if key == o or o.startswith(f"{key}.")]
    if ours:
        location = overridden.get(key, f"--set {ours[0]}")
    else:
        line = _line_of(text, path)
        location = f"{where}, line {line}" if line else where
    if error["type"] == "extra_forbidden":
        table = _table(path[:-1])
        known = table.model_fields if table else Recipe.model_fields
        before = key.removesuffix(path[-1]) if ours else ""  # in a file the table is visible
        return UserError(
            f"unknown key {key!r}", location, nearest(key, [before + k for k in known])
        )
    if error["type"] == "missing":
        return UserError(f"key {key!r} is missing", location)
    given = f", not {error['input']!r}" if not isinstance(error["input"], dict) else ""
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "value_error":
        given = ""
    if path and path[-1] in SWITCHES:
        message = "should be 'auto', true or false"
    if error["type"] == "model_type":
        message = (
            "should be a table, or none" if ours and _is_optional(path) else "should be a table"
        )
    named = not key or location.endswith(f" {key}") or location == f"--{key}"
    return UserError(f"{message}{given}" if named else f"{key}: {message}{given}", location)


def _key_path(error: ErrorDetails) -> list[str]:
    """The path of keys to an error, without pydantic's names for parts of a type."""
    path: list[str] = []
    for part in error["loc"]:
        table = _table(path)
        unknown = error["type"] == "extra_forbidden" and part == error["loc"][-1]
        if table is None or not (part in table.model_fields or unknown):
            break
        path.append(str(part))
    return path


def _table(path: list[str]) -> type[BaseModel] | None:
    """The type of the recipe's table at `path`; None if the key holds a single value."""
    model: type[BaseModel] | None = Recipe
    for name in path:
        field = model.model_fields.get(name) if model else None
        kinds = [field.annotation, *get_args(field.annotation)] if field else []
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
    return model


def _is_optional(path: list[str]) -> bool:
    """Whether the key at `path` may be None."""
    table = _table(path[:-1])
    field = table.model_fields.get(path[-1]) if table else None
    return field is not None and type(None) in get_args(field.annotation)


def _line_of(text: str, path: list[str]) -> int | None:
    """Line number, from 1, of a key in the text; None if it is not there."""
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
