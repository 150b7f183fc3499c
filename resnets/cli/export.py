"""`resnets export`: a model for another engine."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated, Any

import typer

from resnets.cli.console import MORE_MEMORY, enough_memory, to_stderr
from resnets.cli.options import (
    CalibrationLimitOption,
    JsonOption,
    MaxLossOption,
    ModelArgument,
    TestOption,
)


def export(
    model: ModelArgument,
    to: Annotated[str, typer.Option(help="openvino, onnx or torch-export.", metavar="ENGINE")],
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.", metavar="NAME")] = "fp32",
    out: Annotated[
        Path | None, typer.Option(help="MODEL-ENGINE-PRECISION by default.", metavar="FOLDER")
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Any image size, logits at every location.")
    ] = False,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Images to compare on; repeatable.", metavar="IMAGE"),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(help="For int8: typical images.", metavar="FOLDER|cifar10"),
    ] = None,
    test: TestOption = None,
    limit: CalibrationLimitOption = None,
    max_loss: MaxLossOption = None,
    opset: Annotated[
        int | None,
        typer.Option(help="ONNX's operators, 18 to 23; default 18.", metavar="N"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a model for another engine, with a model card.
    Its outputs are compared with the model's: beyond the tolerances (docs/export.md)
    nothing is written.
    """
    from resnets.export import exporter
    from resnets.export.options import ExportOptions

    options = ExportOptions(
        engine=to,
        precision=precision,
        dense=dense,
        images=images or [],
        calibrate=calibrate,
        test=test,
        limit=limit,
        max_loss=max_loss,
        opset=opset,
    )
    if out is None:
        stem = Path(model).name.removesuffix(".safetensors") or "model"
        out = Path(f"{stem}-{to}-{precision}{'-dense' if dense else ''}")
    with enough_memory(MORE_MEMORY):
        facts = exporter.export(model, out, options, to_stderr)
    if json:
        left_out = ("card", "classes", "class_ids")
        shown = {key: value for key, value in facts.items() if key not in left_out}
        print(json_format.dumps({"folder": str(out), **shown}, indent=2))
        return
    for line in _lines(facts, out):
        print(line)


def _lines(facts: dict[str, Any], out: Path) -> list[str]:
    if facts.get("task") == "detection":
        return [*_detector_lines(facts), _written(out)]
    lines = [
        f"{case['pixels']}, batch {case['batch']}: largest difference {case['largest']:.2g} of the "
        f"largest value, rms {case['rms']:.2g}, same first class {100 * case['agreement']:.1f} %"
        for case in facts["parity"]
    ]
    if facts["accuracy"] or facts["precision"] == "int8":
        lines += accuracy_lines(facts)
    if facts.get("speed"):
        lines.append(facts["speed"]["verdict"])
    return [*lines, _written(out)]


def _written(out: Path) -> str:
    return f"Export: {out} (model card: {out / 'README.md'})"


def _detector_lines(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"{case['about']} ({case['images']}, {case['detections']} detections): boxes differ by at "
        f"most {case['pixels']:.2g} pixels, scores by {case['score']:.2g}{_masks(case)}; "
        f"{case['alone']} without a counterpart, {case['at_limit']} more at a limit"
        for case in facts["parity"]
    ]
    tested = facts["accuracy"]
    if tested:
        lines.append(
            f"AP on {tested['images']:,} images of {tested['tested_on']}: "
            f"{tested['AP_before']:.2f} % before, {tested['AP_after']:.2f} % after (AP50 "
            f"{tested['AP50_before']:.2f} and {tested['AP50_after']:.2f} %), allowed loss "
            f"{tested['allowed']:g}"
        )
        if tested.get("mask_AP_before") is not None:
            lines.append(
                f"mask AP {tested['mask_AP_before']:.2f} % before, {tested['mask_AP_after']:.2f} % "
                "after"
            )
    else:
        lines.append(f"AP was not measured: {facts['not_tested']}")
    speed = facts["speed"]
    width, height = speed["image"]
    times = ", ".join(f"{name} {ms:.4g}" for name, ms in speed["milliseconds"].items())
    return [*lines, f"milliseconds of an image of {width} x {height} pixels: {times}"]


def _masks(case: dict[str, Any]) -> str:
    return f", cells of masks by {case['mask']:.2g}" if case["mask"] else ""


def accuracy_lines(facts: dict[str, Any]) -> list[str]:
    """The loss of top-1 on the test, or why it was not measured."""
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
