"""`resnets quantize`."""

from __future__ import annotations

import json
import sys

from resnets.cli.export import of_test
from resnets.cli.memory import MORE, enough_memory
from resnets.export import int8
from resnets.export.int8 import Wishes
from resnets.inference.predictor import int8_is_faster


def quantize(name: str, wishes: Wishes, as_json: bool) -> None:
    """Make a model ready for int8 and tell what that costs and gains."""
    with enough_memory(MORE):
        facts = int8.quantize(name, wishes, lambda line: print(line, file=sys.stderr))
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for line in of_test(facts):
        print(line)
    print(facts["speed"]["verdict"])
    asked = "" if int8_is_faster() else " where --precision int8 asks for it"
    print(f"predict takes int8 for {name} on CPUs from now on{asked}: {facts['file']}")
    print("serve does with --precision int8; remove the file to have float again")
