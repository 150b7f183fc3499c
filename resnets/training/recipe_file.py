"""Recipe files: TOML text to a `Recipe`, with errors that name file, line and key."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from resnets.support.errors import UserError, nearest
from resnets.support.files import read_text
from resnets.support.names import counted
from resnets.training.recipe import SWITCHES, Recipe


def shipped() -> dict[str, str]:
    """Names and texts of the recipes inside the package."""
    folder = resources.files("resnets") / "training" / "recipes"
    return {
        Path(file.name).stem: file.read_text(encoding="utf-8")
        for file in sorted(folder.iterdir(), key=lambda f: f.name)
        if file.name.endswith(".toml")
    }


def source(name_or_path: str) -> str:
    """The TOML of a recipe, with its comments.

    Args:
        name_or_path: as for `load`.

    Raises:
        UserError: if there is none, or it is not TOML.
    """
    return _parse(name_or_path)[1]


def load(
    name_or_path: str,
    settings: Iterable[str] = (),
    options: Mapping[str, str | int | None] | None = None,
    image_size: int | None = None,
) -> Recipe:
    """Read a recipe: a shipped name or the path of a TOML file.

    Args:
        name_or_path: for example `cifar10-paper` or `my/recipe.toml`.
        settings: `key=value` or `table.key=value`, in TOML's notation; quotes around
            strings may be left out; `none` unsets an optional table or key.
        options: keys that have a command line option of their own, which errors then name; None
            is an option that was not given.
        image_size: of `--image-size`; see `Recipe.at_size`.

    Raises:
        UserError: naming the file, the line and the key, and the nearest known key; or an option
            and a setting that contradict each other.
    """
    values, text, where = _parse(name_or_path)
    overridden: dict[str, str] = {}
    changed: dict[str, Any] = {}
    for setting in settings:
        key = _apply(values, setting)
        _apply(changed, setting)
        overridden[key] = f"--set {key}"
    for key, value in (options or {}).items():
        if value is not None:
            _refuse_contradiction(changed, key, f"--{key}", value)
            values[key] = value
            overridden[key] = f"--{key}"
    _refuse_two_lengths(values, overridden)
    recipe = _validate(values, text, where, overridden)
    if image_size is None:
        return recipe
    table = "detection" if recipe.dataset == "boxes" else "photos"
    _refuse_contradiction(changed, f"{table}.size", "--image-size", image_size)
    return recipe.at_size(image_size)


def _refuse_contradiction(changed: dict[str, Any], key: str, option: str, value: str | int) -> None:
    """Raise `UserError` if an option gives another value than a setting of the same key.

    Args:
        changed: the values that the settings give.
        key: dotted, of the recipe.
        option: its option.
        value: what that gives.
    """
    given: Any = changed
    for name in key.split("."):
        if not isinstance(given, dict) or name not in given:
            return
        given = given[name]
    if str(given) != str(value):
        other = "none" if given is None else given
        raise UserError(f"contradicts --set {key}={other}", f"{option} {value}", "give one of them")


def _parse(name_or_path: str) -> tuple[dict[str, Any], str, str]:
    """The values of a recipe, its text, and where that is."""
    recipes = shipped()
    if name_or_path in recipes:
        text, where = recipes[name_or_path], name_or_path
    elif name_or_path.endswith(".toml") or "/" in name_or_path:
        hint = f"shipped recipes: {', '.join(recipes)}"
        text, where = read_text(Path(name_or_path), hint=hint), name_or_path
    else:
        raise UserError(f"unknown recipe {name_or_path!r}", hint=nearest(name_or_path, recipes))
    try:
        return tomllib.loads(text), text, where
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"not valid TOML: {error}", where) from error


def refuse_unfit_counts(name_or_path: str, settings: Iterable[str], recipe: Recipe) -> None:
    """Refuse counts of iterations that a changed length leaves behind.

    They are beyond the end of the training, or were iterations where the length is now in epochs.
    `load` accepts them, because runs of earlier versions have such recipes.

    Args:
        name_or_path: as `load` was given it.
        settings: as `load` was given them.
        recipe: what it returned.

    Raises:
        UserError: naming the counts, and those in proportion to the length.
    """
    before, _, where = _parse(name_or_path)
    changed = [_apply({}, setting) for setting in settings]
    unit = "iterations" if recipe.epochs is None else "epochs"
    length = recipe.iterations if recipe.epochs is None else recipe.epochs
    assert length is not None
    old_unit = next((name for name in ("iterations", "epochs") if name in before), unit)
    counts = {
        "schedule.warmup": [recipe.schedule.warmup],
        "schedule.drops": list(recipe.schedule.drops),
        "progressive.until": [recipe.progressive.until] if recipe.progressive else [],
    }
    late = {key: row for key, row in counts.items() if any(_late(key, n, length) for n in row)}
    wrong, why = late, f"beyond the end of the training ({counted(length, unit[:-1])})"
    if unit != old_unit:
        counts["test_every"] = [recipe.test_every]
        kept = {k: row for k, row in counts.items() if any(row) and not _sets(changed, k)}
        if kept:
            wrong, why = kept, f"in {old_unit}, but the length is in {unit} now"
    if not wrong:
        return
    named = ", ".join(f"{key} = {_toml(row, key)}" for key, row in wrong.items())
    hint = f"give smaller ones, or more {unit}"
    if old_length := before.get(old_unit):
        shares = {key: [count / old_length for count in row] for key, row in wrong.items()}
        if max(share for row in shares.values() for share in row) < 1:
            hint = f"in the same proportion: {_in_proportion(shares, length, unit)}"
    raise UserError(f"{named}: {why}", where, hint)


def _sets(changed: list[str], key: str) -> bool:
    """Whether one of these settings sets a key, on its own or with its whole table."""
    return any(key == one or key.startswith(f"{one}.") for one in changed)


def _late(key: str, count: float, length: float) -> bool:
    return count > length if key == "schedule.warmup" else count >= length


def _in_proportion(shares: dict[str, list[float]], length: float, unit: str) -> str:
    """Settings of counts that are these shares of a length."""

    def count(share: float) -> float:
        number = share * length
        return max(1, round(number)) if unit == "iterations" else float(f"{number:.3g}")

    rows = {key: [count(share) for share in row] for key, row in shares.items()}
    return " ".join(f"--set {shlex.quote(f'{k}={_toml(row, k)}')}" for k, row in rows.items())


def _toml(counts: list[float], key: str) -> str:
    texts = [f"{count:g}" if isinstance(count, float) else str(count) for count in counts]
    return f"[{','.join(texts)}]" if key == "schedule.drops" else texts[0]


def _refuse_two_lengths(values: dict[str, Any], overridden: dict[str, str]) -> None:
    """Raise `UserError` if a setting gives the length in another unit than the recipe."""
    for ours, other in (("epochs", "iterations"), ("iterations", "epochs")):
        both = values.get(ours) is not None and values.get(other) is not None
        if both and ours in overridden and other not in overridden:
            raise UserError(
                f"the recipe gives its length in {other}",
                overridden[ours],
                f"add --set {other}=none",
            )


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
    _refuse_below_a_value(tables, f"--set {setting}")
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UserError(f"{name} is not a table", f"--set {setting}")
    table[last] = value
    return key


def _refuse_below_a_value(tables: list[str], location: str) -> None:
    """Raise `UserError` if one of these nested tables is a key of the recipe that holds a value."""
    for depth, name in enumerate(tables):
        parent = _table(tables[:depth])
        field = parent.model_fields.get(name) if parent else None
        if field is None or any(get_origin(kind) is dict for kind in get_args(field.annotation)):
            continue  # an unknown key, or one whose keys are free, such as `class_weights`
        if _table(tables[: depth + 1]) is None:
            key = ".".join(tables[: depth + 1])
            raise UserError(f"{key} has no keys below it", location, f"write --set {key}=...")


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
        return UserError(f"unknown key {key!r}", location, _nearest_key(path, inside=not ours))
    if error["type"] == "missing" and _is_required(path):
        return UserError(f"key {key!r} is missing", location)
    message = _message(error, path)
    if error["type"] == "model_type" and ours and _is_optional(path):
        message = message.replace("a table", "a table, or none")
    named = not key or location.endswith(f" {key}") or location == f"--{key}"
    hint = ""
    given = str(error["input"])
    if ours and error["type"] == "tuple_type" and re.fullmatch(r"[\d.e-]+(,\s*[\d.e-]+)*", given):
        hint = f"write --set {shlex.quote(f'{key}=[{given}]')}"
    return UserError(message if named else f"{key}: {message}", location, hint)


_PLAIN = {
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "bool_type": "should be true or false",
    "string_type": "should be text",
    "tuple_type": "should be a list, such as [1, 2]",
    "model_type": "should be a table",
    "greater_than_equal": "should be at least {ge}",
    "greater_than": "should be above {gt}",
    "less_than_equal": "should be at most {le}",
    "less_than": "should be below {lt}",
    "missing": "has too few numbers",
    "too_long": "has too many numbers",
}
"""What is wrong, by pydantic's type of error."""


def _message(error: ErrorDetails, path: list[str]) -> str:
    """What is wrong with a value, in plain words, and the value."""
    kind, message = error["type"], error["msg"]
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind in _PLAIN:
        message = _PLAIN[kind].format(**error.get("ctx", {}))
    if kind == "int_type" and error["loc"][-1] == "int":  # of `int | float`
        message = _PLAIN["float_type"]
    if path and path[-1] in SWITCHES:
        message = "should be 'auto', true or false"
    given = "" if isinstance(error["input"], dict) else f", not {error['input']!r}"
    return message.removeprefix("Input ") + given


def describe(failure: ValidationError) -> str:
    """The first error of a recipe that a program wrote, such as `batch: should be at least 2`."""
    error = failure.errors()[0]
    if error["type"] == "json_invalid":
        return error["msg"]
    key = ".".join(map(str, error["loc"]))
    known = {"extra_forbidden": "unknown key", "missing": "is missing"}
    message = known.get(error["type"]) or _message(error, _key_path(error))
    return f"{key}: {message}" if key else message


def _nearest_key(path: list[str], *, inside: bool) -> str:
    """A hint to the known key that is most similar to the one at `path`.

    Args:
        inside: whether the user sees the table that the key is in, and needs not its name.
    """
    elsewhere = [key for key in _keys(Recipe) if key.rpartition(".")[2] == path[-1]]
    if elsewhere:
        return f"did you mean {min(elsewhere, key=lambda key: key.count('.'))}?"
    table = _table(path[:-1])
    before = "" if inside else "".join(f"{name}." for name in path[:-1])
    known = table.model_fields if table else Recipe.model_fields
    return nearest(before + path[-1], [before + name for name in known])


def _keys(table: type[BaseModel], before: str = "") -> Iterator[str]:
    """All keys of a table and of its tables, dotted."""
    for name in table.model_fields:
        yield before + name
        inner = _table([*before.split(".")[:-1], name])
        if inner:
            yield from _keys(inner, f"{before}{name}.")


def _is_required(path: list[str]) -> bool:
    """Whether the key at `path` has no default."""
    table = _table(path[:-1])
    field = table.model_fields.get(path[-1]) if table else None
    return field is not None and field.is_required()


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
