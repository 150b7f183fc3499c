"""The part of `resnets eval` that is about localizers: errors of their classes and boxes."""

from __future__ import annotations

import json as json_format
import time
from typing import TYPE_CHECKING

from resnets.cli.console import MORE_MEMORY, enough_memory, error_line, image_bar, to_stderr
from resnets.cli.detection_report import open_boxes
from resnets.support.errors import UserError
from resnets.support.names import counted, printable, valid_values

if TYPE_CHECKING:
    from resnets.detection.metrics.localization_error import LocalizationResult

NAMES = {
    "localization_error": "localization error, class given",
    "top1_localization_error": "localization error",
    "top5_localization_error": "top-5 localization error",
}
WORST = 5
"""Classes that are listed."""


def test_localizer(
    name: str, data: str, *, views: str, limit: int | None, device: str, as_json: bool
) -> None:
    """Measure a localizer and print what was measured.

    Args:
        name: of the model.
        data: the folder or archive of images with boxes.
        views: `center` or `dense`.
        limit: test at most this many images.
        device: by name.
        as_json: print JSON.
    """
    import torch

    from resnets.data.boxes.datasets import random_subset
    from resnets.data.boxes.one_class import with_objects
    from resnets.detection import localizer_evaluation, localizer_model
    from resnets.detection.localizer import Localizer
    from resnets.inference.engine_choice import device_for
    from resnets.support.devices import environment
    from resnets.support.distributed import world as processes

    localizer_evaluation.refuse_unknown_views(views)
    boxes = with_objects(found := open_boxes(data, name))
    if not boxes.images:
        raise UserError("no test image has a box", data)
    with processes() as world, enough_memory(MORE_MEMORY):
        if world.is_main and len(boxes) < len(found):
            left_out = counted(len(found) - len(boxes), "image")
            to_stderr(f"{data}: {left_out} without a box left out")
        boxes = random_subset(boxes, limit)
        chosen = device_for(name, "torch", device) or torch.device("cpu")
        model = localizer_model.load(name)
        network = model.network.to(chosen).to(memory_format=torch.channels_last)
        assert isinstance(network, Localizer)
        start, own = time.perf_counter(), len(range(world.rank, len(boxes), world.size))
        with image_bar(own, world.is_main) as progress:
            result = localizer_evaluation.evaluate(
                network, boxes, model.classes, model.preprocessing,
                views=views, device=chosen, world=world, progress=progress,
            )  # fmt: skip
        if result is None:
            return
        speed = len(boxes) / (time.perf_counter() - start)
        if as_json:
            facts = {"model": model.card["network"], "dataset": data}
            facts |= {**result.as_dict(model.classes), "images_per_second": round(speed, 2)}
            print(json_format.dumps(valid_values({**facts, **environment(chosen)}), indent=2))
        else:
            _print(result, model.classes, f"{model.card['network']} ({name}) on {data}")
            print(f"\n{speed:,.1f} images/s")


def _print(result: LocalizationResult, classes: list[str], title: str) -> None:
    print(title)
    print(f"protocol: {result.protocol}")
    found = result.classification
    print(error_line("classification error", found.wrong, result.images))
    if found.wrong5 is not None:
        print(error_line("top-5 classification error", found.wrong5, result.images))
    for name, wrong in result.counts.items():
        print(error_line(NAMES[name], wrong, result.images))
    _print_worst(result, classes)


def _print_worst(result: LocalizationResult, classes: list[str]) -> None:
    """The classes whose objects are located worst."""
    from resnets.evaluation.results import distinct

    shown = result.classification.confusion.sum(1).tolist()
    errors = result.class_errors().tolist()
    rows = [(e, printable(n), s) for e, n, s in zip(errors, distinct(classes), shown, strict=True)]
    worst = sorted((row for row in rows if row[0] > 0), key=lambda row: (-row[0], row[1]))[:WORST]
    if worst:
        print("\nWorst classes (localization error, class given; images):")
    for error, class_name, images in worst:
        print(f"  {error:6.2f} % of {images:4}  {class_name}")
