"""`resnets export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from resnets.cli.memory import MORE, enough_memory
from resnets.export import exporter
from resnets.export.exporter import ExportOptions


def export(name: str, out: Path | None, options: ExportOptions, as_json: bool) -> None:
    """Write an export and tell how it compares with its source."""
    kind = options.precision + ("-dense" if options.dense else "")
    stem = Path(name).name.removesuffix(".safetensors") or "model"
    out = out or Path(f"{stem}-{options.engine}-{kind}")
    with enough_memory(MORE):
        facts = exporter.export(name, out, options, lambda line: print(line, file=sys.stderr))
    if as_json:
        left_out = ("card", "classes", "class_ids")
        shown = {key: value for key, value in facts.items() if key not in left_out}
        print(json.dumps({"folder": str(out), **shown}, indent=2))
        return
    for line in _lines(facts, out):
        print(line)


def _lines(facts: dict[str, Any], out: Path) -> list[str]:
    lines = [
        f"{case['pixels']}, batch {case['batch']}: largest difference {case['largest']:.2g} of the "
        f"largest value, rms {case['rms']:.2g}, same first class {100 * case['agreement']:.1f} %"
        for case in facts["parity"]
    ]
    if facts["accuracy"] or facts["precision"] == "int8":
        lines += of_test(facts)
    if facts.get("speed"):
        lines.append(facts["speed"]["verdict"])
    return [*lines, f"Export: {out} (model card: {out / 'README.md'})"]


def of_test(facts: dict[str, Any]) -> list[str]:
    """What was lost on the test, or why that is not known."""
    tested = facts["accuracy"]
    if not tested:
        return [f"top-1 was not measured: {facts['not_tested']}"]
    low, high = tested["points_lost_interval"]
    lines = [
        f"top-1 on {tested['tested_on']}: {tested['top1_before']:.2f} % before, "
        f"{tested['top1_after']:.2f} % after; {tested['points_lost']:.2f} points lost (95 % "
        f"interval {low:.2f} to {high:.2f}), allowed {tested['allowed']:g}",
        f"probabilities moved by at most {tested['largest_probability_moved']:.2f}, for "
        f"{100 * tested['moved_by_over_0.1']:.1f} % of the images by more than 0.1",
    ]
    if high > tested["allowed"]:
        lines.append(
            f"{tested['images']:,} images cannot exclude a loss of {high:.2f} points: "
            "test with more to be sure"
        )
    return lines
