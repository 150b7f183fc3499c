"""`resnets quantize`."""

from __future__ import annotations

import json
import sys

from resnets.cli.export import of_test
from resnets.cli.memory import MORE, enough_memory
from resnets.deploy import int8
from resnets.deploy.int8 import Wishes


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
    print(f"predict and serve take int8 for {name} from now on, on CPUs: {facts['file']}")
