"""`resnets quantize`: calibrate a model, so that predictions run in int8."""

from __future__ import annotations

import json as json_format
from typing import Annotated

import typer

from resnets.cli.console import MORE_MEMORY, enough_memory, to_stderr
from resnets.cli.export import accuracy_lines
from resnets.cli.options import CalibrationLimitOption, JsonOption, MaxLossOption, TestOption


def quantize(
    model: Annotated[
        str, typer.Argument(help="A model name, model file or run folder.", metavar="MODEL")
    ],
    calibrate: Annotated[str, typer.Option(help="Typical images.", metavar="FOLDER|cifar10")],
    test: TestOption = None,
    limit: CalibrationLimitOption = None,
    max_loss: MaxLossOption = None,
    json: JsonOption = False,
) -> None:
    """Calibrate a model for predictions in int8 on CPUs.

    Writes a small file next to the model's, unless top-1 on labelled images drops too far, and
    prints the loss of top-1 and the gain of speed.
    """
    from resnets.export import int8
    from resnets.export.calibration import CalibrationOptions
    from resnets.inference.engine_choice import int8_is_faster

    options = CalibrationOptions(calibrate=calibrate, test=test, limit=limit, max_loss=max_loss)
    with enough_memory(MORE_MEMORY):
        facts = int8.quantize(model, options, to_stderr)
    if json:
        print(json_format.dumps(facts, indent=2))
        return
    for line in accuracy_lines(facts):
        print(line)
    print(facts["speed"]["verdict"])
    condition = "" if int8_is_faster() else " with --precision int8"
    print(f"predict now runs {model} in int8 on CPUs{condition}: {facts['file']}")
    print("serve does so with --precision int8; delete the file to return to float")
