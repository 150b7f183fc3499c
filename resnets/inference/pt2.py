"""Load `.pt2` files of `torch.export` without running code that a file may contain.

torch's own loader unpickles some entries, evaluates expressions, and accepts operators by any name
in the module `torch`. Here the archive is checked first: all that is not a plain network of tensors
is refused, and torch gets only the entries that were checked.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from resnets.support.errors import UserError

_SAFE_ENTRIES = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|data/weights/weight_\d+"
)
_GRAPH = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_OPERATOR = re.compile(r"torch\.ops\.aten\.\w+(\.\w+)?|_operator\.(add|sub|mul|floordiv|neg)")
_WORD = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(
    r"[su]\d+|Symbol|Integer|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CleanDiv|CeilDiv|PythonMod"
    r"|positive|integer|True"
)
_ARITHMETIC = re.compile(r"[\w\s'(),=+*/-]*")


class Unreadable(Exception):
    """A file is damaged, or of another version of torch."""


def load(path: Path) -> torch.nn.Module:
    """The network of a `.pt2` file.

    Raises:
        Unreadable: if the file is damaged.
        UserError: if it holds more than tensors and operators on them.
    """
    try:
        program = torch.export.load(io.BytesIO(_checked(path)))
        return program.module()
    except UserError:
        raise
    except Exception as error:  # torch's loader raises exceptions of any type
        raise Unreadable(f"torch.export cannot read {path}") from error


def _checked(path: Path) -> bytes:
    """The archive without pickles, guards and extra files; raises `UserError` if unsafe."""
    content = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(content, "w") as safe:
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise _unsafe("two entries with the same name", path)
        for full_name in names:
            name = full_name.partition("/")[2]
            entry = archive.read(full_name)
            if name == _GRAPH:
                entry = _checked_graph(json.loads(entry), path)
            elif name in _CONFIGS:
                _refuse_pickles(json.loads(entry)["config"], path)
            elif name == _SAMPLE_INPUTS:
                entry = b""
            elif name.startswith("extra/"):
                continue
            elif not _SAFE_ENTRIES.fullmatch(name):
                raise _unsafe(f"an unknown entry {name!r}", path)
            safe.writestr(f"model/{name}", entry)
    return content.getvalue()


def _refuse_pickles(config: dict[str, Any], path: Path) -> None:
    for tensor in config.values():
        if tensor["use_pickle"] or not re.fullmatch(r"weight_\d+", tensor["path_name"]):
            raise _unsafe("a pickle", path)


def _checked_graph(program: dict[str, Any], path: Path) -> bytes:
    """The graph as JSON without guards; raises `UserError` if it has unknown operators."""
    for key, value in _items(program):
        if key == "expr_str" and not _is_arithmetic(value):
            raise _unsafe(f"an expression {value!r}", path)
        if key == "target" and not (isinstance(value, str) and _OPERATOR.fullmatch(value)):
            raise _unsafe(f"an operator {value!r}", path)
        if key.startswith(("as_custom_obj", "as_graph", "as_operator")) and value is not None:
            raise _unsafe("an object other than a tensor", path)
    return json.dumps({**program, "guards_code": []}).encode()


def _is_arithmetic(text: Any) -> bool:
    """Whether an expression consists of numbers, symbols for sizes, and arithmetic."""
    return (
        isinstance(text, str)
        and bool(_ARITHMETIC.fullmatch(text))
        and all(_SYMBOL.fullmatch(word) for word in _WORD.findall(text))
    )


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values in nested dictionaries and lists."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _items(item)
    elif isinstance(value, list):
        for item in value:
            yield from _items(item)


def _unsafe(what: str, path: Path) -> UserError:
    return UserError(
        f"the file holds {what}, which could run code", str(path), "export the network again"
    )
