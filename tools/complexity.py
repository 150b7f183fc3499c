"""The cost of every named network, counted here, in `resnets/paper/complexity.json`.

`python -m tools.complexity` writes the file. Run it after a change to the table of networks in
`resnets/models/zoo.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

from resnets.models import zoo
from resnets.models.complexity import describe

FILE = Path(__file__).parents[1] / "resnets" / "paper" / "complexity.json"


def content() -> str:
    """The text of the file: a line for each network, in the order of the zoo."""
    lines = []
    for name in zoo.names():
        counted = describe(name)
        cost = {key: getattr(counted, key) for key in ("layers", "parameters", "multiply_adds")}
        lines.append(f"  {json.dumps(name)}: {json.dumps(cost)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(content(), "utf-8")
