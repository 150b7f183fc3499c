"""The part of `resnets eval` that is about detectors: their precision on images with boxes."""

from __future__ import annotations

import json as json_format
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnets.cli.console import (
    MORE_MEMORY,
    enough_memory,
    image_bar,
    print_table,
    table,
    to_stderr,
)
from resnets.support.errors import UserError
from resnets.support.files import make_folder, write_bytes
from resnets.support.names import counted, listed, printable, valid_values

if TYPE_CHECKING:
    from resnets.data.boxes.annotations import BoxSet
    from resnets.detection.evaluation import Evaluation
    from resnets.detection.metrics.detections import Detections
    from resnets.support.distributed import World

MATRIX = 8
"""The most categories whose confusion matrix fits a terminal."""
PICTURES = 20
"""Images that `--draw` draws."""


@dataclass(frozen=True)
class BoxTest:
    """The options of a test.

    Args:
        model: a detector, or a JSON file of COCO results.
        data: the folder or archive of images with boxes.
        metric: by name; None is `coco`.
        limit: test at most this many images.
        device: by name.
        save: where to write the detections as COCO results.
        plot: where to draw the precision-recall curves.
        draw: folder for the images with the most errors.
        as_json: print JSON.
        refine: box refinement.
        scales: for multi-scale testing, as the option is written.
        members: other detectors of an ensemble.
    """

    model: str
    data: str
    metric: str | None
    limit: int | None
    device: str
    save: Path | None
    plot: Path | None
    draw: Path | None
    as_json: bool
    refine: bool = False
    scales: str | None = None
    members: tuple[str, ...] = ()


def is_results(name: str) -> bool:
    """Whether a model's name is that of a file of COCO results."""
    return name.endswith(".json")


def test_boxes(options: BoxTest) -> None:
    """Measure detections and print, write and draw what was measured."""
    from resnets.detection import evaluation, results_file
    from resnets.support.distributed import world as processes

    metric = evaluation.check_metric(options.metric or "coco")
    _refuse_improved_results(options)
    boxes = open_boxes(options.data, options.model)
    if options.draw is not None:
        make_folder(options.draw)
    with processes() as world, enough_memory(MORE_MEMORY):
        if is_results(options.model):
            found, facts = _read(options, boxes) if world.is_main else (None, {})
        else:
            found, facts = _search(options, boxes, world)
    if found is None:
        return
    boxes, detections = found
    result = evaluation.evaluate(boxes, detections, metric)
    if detections[0].masks is not None and not evaluation.masks_count(boxes, detections):
        to_stderr(f"{options.data}: objects without a segment, so masks are not measured")
    title = f"{facts['model']} on {options.data}"
    # A full disk must not cost the result: it is printed first.
    if options.as_json:
        print(json_format.dumps(valid_values({**facts, **result.as_dict()}), indent=2))
    else:
        _print(result, boxes, title, facts)
    lines = []
    if options.save is not None:
        results_file.write(options.save, boxes, detections)
        lines.append(f"Detections saved in {options.save}")
    if options.plot is not None:
        _plot(result, options.plot, title)
        lines.append(f"Precision and recall drawn in {options.plot}")
    if options.draw is not None:
        count = _draw(boxes, detections, options.draw)
        few = f"{count} images with the most errors" if count > 1 else "one image with errors"
        lines.append(f"The {few} drawn in {options.draw}" if count else "No image has an error")
    for line in () if options.as_json else lines:
        print(line)


def _refuse_improved_results(options: BoxTest) -> None:
    """Raise `UserError` for a file of detections and options of a search."""
    if is_results(options.model) and (options.refine or options.scales or options.members):
        message = "these detections are there already, so nothing is left to improve"
        raise UserError(message, options.model, "give a detector for --refine, --scales or --with")


def open_boxes(location: str, model: str) -> BoxSet:
    """The test images with boxes; a folder without boxes gets its own hint."""
    from resnets.data.boxes.datasets import are_boxes, box_set, read_source
    from resnets.data.cifar_classes import NAMES
    from resnets.data.datasets import local

    if location in NAMES:
        message = f"{location} has no boxes to test on"
        raise UserError(message, hint=f"resnets eval {model} FOLDER")
    folder = Path(local(location))
    if not are_boxes(folder):
        hint = f"see what it finds: resnets detect {model} {location}"
        raise UserError("has no boxes to compare with", location, hint)
    source = read_source(folder)
    for line in source.notes() if os.environ.get("RANK", "0") == "0" else ():
        to_stderr(f"{location}: {line}")
    return box_set(source, "test" if source.test is not None else "train")


def _search(
    options: BoxTest, boxes: BoxSet, world: World
) -> tuple[tuple[BoxSet, list[Detections]] | None, dict[str, Any]]:
    """The detections of a detector, in PyTorch in float32, or of an export; the images."""
    from resnets.data.boxes.datasets import random_subset
    from resnets.detection.evaluation import category_table, with_categories
    from resnets.inference import export_folder
    from resnets.inference.engine_choice import device_for
    from resnets.inference.object_detector import open_detector
    from resnets.support.devices import environment

    device = device_for(options.model, "torch", options.device)
    precision = "auto" if export_folder.is_export(options.model) else "fp32"
    detector = open_detector(
        options.model, precision=precision, device=device, ensemble_with=options.members
    )
    if options.refine or options.scales:
        detector = detector.improved(options.refine, options.scales or ())
    boxes = random_subset(boxes, options.limit)
    numbers, others = category_table(detector.classes, boxes, options.data)
    if others and world.is_main:
        to_stderr(f"{options.data}: not annotated, so left out: {listed(others)}")
    start, own = time.perf_counter(), len(range(world.rank, len(boxes), world.size))
    with image_bar(own, world.is_main) as progress:
        found = detector.find_all(boxes, world, progress)
    if found is None:
        return None, {}
    speed = len(boxes) / (time.perf_counter() - start)
    network = detector.card["network"]
    import torch

    names = " with ".join([options.model, *options.members])
    facts = {
        "model": network if names == network else f"{network} ({names})",
        "dataset": options.data,
        "protocol": detector.protocol,
        "runtime": detector.engine.name,
        "images_per_second": round(speed, 2),
        **environment(device or torch.device("cpu")),
    }
    return (boxes, [with_categories(one, numbers) for one in found]), facts


def _read(
    options: BoxTest, boxes: BoxSet
) -> tuple[tuple[BoxSet, list[Detections]], dict[str, Any]]:
    """The detections of a file."""
    from resnets.data.boxes.datasets import random_subset
    from resnets.detection import results_file

    detections, left_out, unmasked = results_file.read(Path(options.model), boxes)
    if unmasked:
        count = counted(sum(map(len, detections)), "detection")
        verb = "has" if unmasked == 1 else "have"
        what = f"{unmasked:,} of {count} {verb} no run lengths, so masks are not measured"
        to_stderr(f"{options.model}: {what}")
    if left_out:
        what = "detections of other images or categories left out"
        to_stderr(f"{options.model}: {left_out:,} {what}")
    chosen = random_subset(boxes, options.limit)
    by_path = {image.path: one for image, one in zip(boxes.images, detections, strict=True)}
    facts = {"model": options.model, "dataset": options.data}
    return (chosen, [by_path[image.path] for image in chosen.images]), facts


def _plot(result: Evaluation, path: Path, title: str) -> None:
    from resnets.analysis.figures import precision_recall_png
    from resnets.detection.metrics.matching import RECALLS

    curves = {
        one.name: ([*zip(RECALLS.tolist(), one.curve.tolist(), strict=True)], average)
        for one in result.categories
        if one.curve is not None
        and (average := one.precision.get("AP50", one.precision["AP"])) is not None
    }
    write_bytes(path, precision_recall_png(curves, f"{title} (IoU 0.5)"))


def _draw(boxes: BoxSet, detections: Sequence[Detections], folder: Path) -> int:
    """Draw the images with the most errors; returns how many there are."""
    import io

    from resnets.data.images import read_image
    from resnets.detection.metrics.pairing import worst
    from resnets.detection.pictures import draw_errors

    shown = worst(boxes, detections, PICTURES)
    for number, (image, paired) in enumerate(shown, 1):
        picture = draw_errors(read_image(image.path), paired, boxes.categories)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=92)
        name = f"{number:02}-{image.path.stem}.jpg"
        write_bytes(folder / name, buffer.getvalue())
    return len(shown)


def _print(result: Evaluation, boxes: BoxSet, title: str, facts: dict[str, Any]) -> None:
    objects = sum(one.objects for one in result.categories)
    print(title)
    protocol = f"; {facts['protocol']}" if "protocol" in facts else ""
    print(f"{result.images:,} images with {objects:,} objects{protocol}; metric {result.metric}\n")
    width = max(6, 1 + max(map(len, result.numbers)))
    for name, value in result.numbers.items():
        interval = ""
        if value is not None and name in result.intervals:
            low, high = result.intervals[name]
            interval = f"   95 % interval {100 * low:.1f} to {100 * high:.1f} %"
        print(f"{name.replace('_', ' '):{width}}{_percent(value):>8}{interval}")
    _print_categories(result)
    _print_errors(result)
    _print_confusion(result)
    if "images_per_second" in facts:
        print(f"\n{facts['images_per_second']:,.1f} images/s")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _print_categories(result: Evaluation) -> None:
    names = list(result.categories[0].precision)
    made = table("category", "objects", *(name.replace("_", " ") for name in names))
    ranked = sorted(result.categories, key=lambda one: -(next(iter(one.precision.values())) or 0.0))
    for one in ranked:
        values = [_percent(one.precision[name]) for name in names]
        made.add_row(printable(one.name), f"{one.objects:,}", *values)
    print()
    print_table(made)


def _print_errors(result: Evaluation) -> None:
    """Types of errors, by size of the object, and what AP50 would gain without each."""
    from resnets.detection.metrics.errors import TYPES

    report = result.errors
    made = table("error", "number", *report.by_size, "gain in AP50")
    for kind in TYPES:
        sizes = [f"{counts[kind]:,}" for counts in report.by_size.values()]
        gain = f"{100 * report.gains[kind]:.1f}" if kind in report.gains else "-"
        made.add_row(kind, f"{report.counts[kind]:,}", *sizes, gain)
    print()
    print_table(made)


def _print_confusion(result: Evaluation) -> None:
    """Objects and detections of score 0.5 or more: as a matrix, or the most frequent mistakes."""
    names = [*(printable(one.name) for one in result.categories), "background"]
    matrix = result.confusion
    if len(names) <= MATRIX + 1:
        print(
            "\nScore 0.5. Rows: true category; columns: detected; the last of both: background.\n"
        )
        print(" " * 16 + "".join(f"{name[:10]:>12}" for name in names))
        for name, counts in zip(names, matrix.tolist(), strict=True):
            print(f"{name[:15]:16}" + "".join(f"{count:12,}" for count in counts))
        return
    pairs = [
        (int(matrix[row, column]), names[row], names[column])
        for row in range(len(names))
        for column in range(len(names))
        if row != column and matrix[row, column] and len(names) - 1 not in (row, column)
    ]
    print("\nMost frequent confusions at score 0.5 (number, true category, detected):")
    for count, true, answer in sorted(pairs, reverse=True)[:10]:
        print(f"  {count:5,}  {true} -> {answer}")
