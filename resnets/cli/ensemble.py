"""`resnets ensemble`: several models tested as one."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnets.cli.evaluate import print_result
from resnets.cli.options import JsonOption
from resnets.support.errors import UserError

if TYPE_CHECKING:
    from resnets.evaluation.results import Result


def ensemble(
    files: Annotated[
        list[Path], typer.Argument(help="Files of eval --save-scores.", metavar="FILE...")
    ],
    json: JsonOption = False,
) -> None:
    """Test several models as one: the mean of their probabilities."""
    from resnets.evaluation import scores

    names = [str(file) for file in files]
    for name in names:
        if names.count(name) > 1:
            raise UserError("is given twice", name)
    members = [scores.load(file) for file in files]
    combined = scores.combine(members, names)
    result = combined.result()
    if json:
        single = [
            {"file": file, "model": member.model, **_errors(member.result())}
            for file, member in zip(names, members, strict=True)
        ]
        facts = {**result.as_dict(combined.classes), "members": single}
        print(json_format.dumps(facts, indent=2))
        return
    for file, member in zip(names, members, strict=True):
        own = member.result()
        print(f"{file}: {member.model}, error {_short(own)} ({own.protocol})")
    print()
    print_result(result, combined.classes, None)


def _errors(result: Result) -> dict[str, Any]:
    facts = result.as_dict([""] * len(result.confusion))
    return {key: facts[key] for key in ("protocol", "error", "top5_error") if key in facts}


def _short(result: Result) -> str:
    top5 = "" if result.error5 is None else f", top-5 {result.error5:.2f} %"
    return f"{result.error:.2f} %{top5}"
