"""Files of `torch.export` read without running what a stranger may have put into them.

torch's own loader unpickles some entries, evaluates expressions, and takes operators by any name in
the module `torch`. Here an archive is read first, everything that is not a plain network of
tensors is refused, and only what was looked at is given to torch.
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

EXTRA = "resnets.json"
"""The extra file that tells classes, preprocessing and the rest."""
_PLAIN = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|data/weights/weight_\d+"
)
_GRAPH = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_INPUTS = "data/sample_inputs/model.pt"
_OPERATOR = re.compile(r"torch\.ops\.aten\.\w+(\.\w+)?|_operator\.(add|sub|mul|floordiv|neg)")
_WORD = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(
    r"[su]\d+|Symbol|Integer|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CleanDiv|CeilDiv|PythonMod"
    r"|positive|integer|True"
)
_ARITHMETIC = re.compile(r"[\w\s'(),=+*/-]*")


def save(program: torch.export.ExportedProgram, path: Path, facts: dict[str, Any]) -> None:
    """Write a program with an extra file of facts."""
    whole = io.BytesIO()  # a full disk is then Python's error, not a trace of torch's
    torch.export.save(program, whole, extra_files={EXTRA: json.dumps(facts)})
    path.write_bytes(whole.getbuffer())


def load(path: Path) -> torch.nn.Module:
    """The network of a file.

    Raises:
        UserError: if it is damaged, or holds more than tensors and operators on them.
    """
    try:
        program = torch.export.load(io.BytesIO(_looked_at(path)))
        return program.module()
    except UserError:
        raise
    except Exception as error:  # torch's loader raises whatever its parts do
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"not a readable file of torch.export ({reason})", str(path)) from error


def _looked_at(path: Path) -> bytes:
    """The archive again, without pickles, guards and extras; raises `UserError`."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(made, "w") as clean:
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise _refused("two entries of one name", path)
        for whole in names:
            name = whole.partition("/")[2]
            content = archive.read(whole)
            if name == _GRAPH:
                content = _graph(json.loads(content), path)
            elif name in _CONFIGS:
                _refuse_pickles(json.loads(content)["config"], path)
            elif name == _INPUTS:
                content = b""
            elif name.startswith("extra/"):
                continue
            elif not _PLAIN.fullmatch(name):
                raise _refused(f"an unknown entry {name!r}", path)
            clean.writestr(f"model/{name}", content)
    return made.getvalue()


def _refuse_pickles(config: dict[str, Any], path: Path) -> None:
    for facts in config.values():
        if facts["use_pickle"] or not re.fullmatch(r"weight_\d+", facts["path_name"]):
            raise _refused("a pickle", path)


def _graph(program: dict[str, Any], path: Path) -> bytes:
    """The graph as JSON without guards, if it is made of known operators."""
    for key, value in _pairs(program):
        if key == "expr_str" and not _is_arithmetic(value):
            raise _refused(f"an expression {value!r}", path)
        if key == "target" and not (isinstance(value, str) and _OPERATOR.fullmatch(value)):
            raise _refused(f"an operator {value!r}", path)
        if key.startswith(("as_custom_obj", "as_graph", "as_operator")) and value is not None:
            raise _refused("an object that is no tensor", path)
    return json.dumps({**program, "guards_code": []}).encode()


def _is_arithmetic(text: Any) -> bool:
    """Whether an expression has numbers, symbols of sizes and arithmetic only."""
    return (
        isinstance(text, str)
        and bool(_ARITHMETIC.fullmatch(text))
        and all(_SYMBOL.fullmatch(word) for word in _WORD.findall(text))
    )


def _pairs(thing: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from _pairs(value)


def _refused(what: str, path: Path) -> UserError:
    return UserError(
        f"holds {what}, which could run foreign code", str(path), "export the network again"
    )
