"""`resnets eval`: the error of a model by a protocol of the paper."""

from __future__ import annotations

import json as json_format
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnets.cli.console import (
    SMALLER_BATCH,
    enough_memory,
    error_line,
    image_bar,
    refuse_plot,
    to_stderr,
)
from resnets.cli.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    MembersOption,
    RefineOption,
    ScalesOption,
)
from resnets.support.errors import UserError
from resnets.support.files import refuse_unwritable, write_bytes
from resnets.support.names import printable, valid_values

if TYPE_CHECKING:
    import torch
    from torch import nn

    from resnets.data.cifar_classes import CifarName
    from resnets.evaluation.evaluator import Classifier
    from resnets.evaluation.protocols import Views
    from resnets.evaluation.results import Result
    from resnets.evaluation.scores import Scores
    from resnets.inference.predictor import Predictor
    from resnets.support.distributed import World
    from resnets.weights.model_file import Model

MATRIX = 20
"""The most classes whose confusion matrix fits a terminal."""


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Name, model file, run, export or COCO .json.",
            metavar="MODEL",
        ),
    ],
    dataset: Annotated[
        str,
        typer.Argument(
            help="cifar10 (default), cifar100, cifar100-coarse, or a folder.",
            metavar="DATA",
            show_default=False,
        ),
    ] = "cifar10",
    views: Annotated[
        str, typer.Option(help="center, ten-crop or dense.", metavar="NAME")
    ] = "center",
    image_size: Annotated[
        int | None, typer.Option(min=32, max=2048, help="Crops of N pixels.", metavar="N")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most N images, at random.", metavar="N")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Crops at a time.", metavar="N")] = None,
    save_scores: Annotated[
        Path | None,
        typer.Option(
            help="Save all scores; for a detector, COCO .json.",
            metavar="FILE",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw the confusion matrix, or precision and recall.",
            metavar="FILE.png",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="Detectors: coco, voc07 or voc12.", metavar="NAME"),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(help="Detectors: draw the worst images.", metavar="FOLDER"),
    ] = None,
    refine: RefineOption = False,
    scales: ScalesOption = None,
    members: MembersOption = None,
    data: DataOption = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Test a model by a protocol of the paper, a detector by average precision."""
    from resnets.cli.detection_report import BoxTest, is_results, test_boxes
    from resnets.inference.object_detector import is_detector, is_localizer

    if not is_results(model) and is_localizer(model):
        from resnets.cli.localization_report import test_localizer

        _refuse_for_localizers(image_size=image_size, batch=batch, data=data, metric=metric,
                               draw=draw, plot=plot, save_scores=save_scores, refine=refine,
                               scales=scales, **{"with": members})  # fmt: skip
        test_localizer(model, dataset, views=views, limit=limit, device=device, as_json=json)
        return
    if is_results(model) or is_detector(model):
        _refuse_for_detectors(views=views != "center", image_size=image_size, batch=batch,
                              data=data)  # fmt: skip
        refuse_plot(plot)
        refuse_unwritable(save_scores, "--save-scores", (".json",))
        test_boxes(
            BoxTest(
                model, dataset, metric, limit, device, save_scores, plot, draw, json,
                refine, scales, tuple(members or ()),
            )
        )  # fmt: skip
        return
    for value, option in (
        (metric, "--metric"), (draw, "--draw"), (refine or None, "--refine"),
        (scales, "--scales"), (members, "--with"),
    ):  # fmt: skip
        if value is not None:
            raise UserError("is for detectors; this model is a classifier", option, "leave it out")
    import torch

    from resnets.data.cifar_classes import NAMES
    from resnets.evaluation import results
    from resnets.inference.engine_choice import device_for
    from resnets.support.devices import environment
    from resnets.support.distributed import world as processes
    from resnets.weights.model_file import Model

    _refuse_contradictions(dataset, data, views, image_size)
    refuse_plot(plot)
    refuse_unwritable(save_scores, "--save-scores", (".scores", ""))
    with processes() as world:
        chosen = device_for(model, "auto", device) or torch.device("cpu")
        opened = _open(model, views, image_size, chosen)
        if plot and len(opened.classes) > results.MAX_MATRIX_CLASSES:
            raise UserError(f"{len(opened.classes)} classes do not fit into a picture", "--plot")
        if isinstance(opened, Model):
            opened.network.to(chosen).to(memory_format=torch.channels_last)
        start = time.perf_counter()
        with enough_memory(SMALLER_BATCH):
            if dataset in NAMES:
                scores = _test_cifar(opened, dataset, data, chosen, world, limit=limit, batch=batch)
            else:
                scores = _test_photos(
                    opened, dataset, chosen, world,
                    views=views, image_size=image_size, limit=limit, batch=batch,
                )  # fmt: skip
        if scores is None:
            return
        speed = len(scores) / (time.perf_counter() - start)
        network = opened.card["network"]
        scores = replace(scores, model=network if model == network else f"{network} ({model})")
        # A full disk must not cost the result: it is printed first.
        if json:
            _print_json(opened, scores, dataset, speed, environment(chosen))
        else:
            _print(opened, scores, dataset, speed)
        title = f"{network} on {_title(dataset)}"
        _write(scores, title, save_scores=save_scores, plot=plot, quiet=json)


def _refuse_for_detectors(**given: Any) -> None:
    """Raise `UserError` for options that only classifiers have."""
    for name, value in given.items():
        if value:
            hint = "give the folder of images with boxes after the model" if name == "data" else ""
            option = f"--{name.replace('_', '-')}"
            raise UserError("is for classifiers, not for detectors", option, hint or "leave it out")


def _refuse_for_localizers(**given: Any) -> None:
    """Raise `UserError` for options that localizers do not have."""
    for name, value in given.items():
        if value:
            option = f"--{name.replace('_', '-')}"
            raise UserError("is not for localizers", option, "leave it out")


def _refuse_contradictions(
    dataset: str, data: str | None, views: str, image_size: int | None
) -> None:
    """Raise `UserError` for options that do not fit together, before anything is computed."""
    from resnets.data.cifar_classes import NAMES, title
    from resnets.evaluation import protocols

    protocols.refuse_unknown(views)
    if dataset not in NAMES and data:
        raise UserError(
            f"works with {' and '.join(NAMES[:2])} only",
            "--data",
            "give the folder as the second argument",
        )
    if dataset in NAMES and (views != "center" or image_size):
        option = "--image-size" if views == "center" else f"--views {views}"
        raise UserError(
            f"{title(dataset)} is tested on a single view of its 32x32 images",
            option,
            "leave it out",
        )


def _title(dataset: str) -> str:
    from resnets.data.cifar_classes import NAMES, title

    if dataset not in NAMES:
        return dataset
    coarse = " in superclasses" if dataset == "cifar100-coarse" else ""
    return f"{title(dataset)}'s test set{coarse}"


def _open(name: str, views: str, image_size: int | None, device: torch.device) -> Model | Predictor:
    """The model in PyTorch in float32; an export in its own engine and precision."""
    from resnets.inference import export_folder
    from resnets.inference.predictor import open_predictor
    from resnets.weights import hub

    if not export_folder.is_export(name):
        return hub.load(name)
    for given, option in (
        (views == "dense", "--views dense"),
        (image_size is not None, "--image-size"),
    ):
        if given:
            raise UserError(
                "an export takes images of one size only", option, "test the model it was made from"
            )
    return open_predictor(name, device=device)


def _classifier(
    model: Model | Predictor, device: torch.device, views: Views | None = None
) -> Classifier:
    from resnets.evaluation import evaluator
    from resnets.weights.model_file import Model

    if isinstance(model, Model):
        return evaluator.pytorch_classifier(model, device, views)
    return model.classifier()


def _test_cifar(
    model: Model | Predictor,
    name: CifarName,
    data: str | None,
    device: torch.device,
    world: World,
    *,
    limit: int | None,
    batch: int | None,
) -> Scores | None:
    """A test on CIFAR, which is small: the first process does it alone."""
    from resnets.data import cifar
    from resnets.data.cifar_classes import CLASSES
    from resnets.evaluation import evaluator
    from resnets.weights.model_file import Model

    if not world.is_main:
        return None
    # Before a download:
    evaluator.refuse_other_classes(model.card["network"], model.classes, CLASSES[name])
    images = cifar.load_test(name, Path(data) if data else None, to_stderr)
    network = model.network if isinstance(model, Model) else None
    _refuse_large_batch(batch, min(len(images), limit or len(images)), network, 32, device)
    with image_bar(min(len(images), limit or len(images))) as done:
        return evaluator.score_cifar(
            _classifier(model, device),
            images,
            batch=batch,
            limit=limit,
            progress=done,
        )


def _test_photos(
    model: Model | Predictor,
    dataset: str,
    device: torch.device,
    world: World,
    *,
    views: str,
    image_size: int | None,
    limit: int | None,
    batch: int | None,
) -> Scores | None:
    from resnets.data.datasets import open_test
    from resnets.data.preprocessing import Preprocessing
    from resnets.evaluation import evaluator, protocols
    from resnets.weights.model_file import Model

    samples = open_test(dataset)
    if samples.quarantined and world.is_main:
        to_stderr(f"{dataset}: {samples.quarantined:,} in quarantine left out")
    for line in samples.notes if world.is_main else ():
        to_stderr(f"{dataset}: {line}")
    images = min(len(samples), limit or len(samples))
    network = model.network if isinstance(model, Model) else None
    assert isinstance(model.preprocessing, Preprocessing)  # not the torch-free form of a Predictor
    shown = protocols.make(views, network, model.preprocessing, image_size)
    _refuse_large_batch(batch, images, network, shown.preprocessing.size, device)
    with image_bar(len(range(world.rank, images, world.size)), world.is_main) as done:
        return evaluator.score_photos(
            _classifier(model, device, shown),
            samples,
            shown,
            batch=batch or (256 if device.type == "cuda" else 32),
            limit=limit,
            world=world,
            progress=done,
        )


def _refuse_large_batch(
    batch: int | None, images: int, network: nn.Module | None, size: int, device: torch.device
) -> None:
    """Raise `UserError` if `--batch` needs more memory than this machine has, for pixels and maps.

    A GPU refuses by itself what does not fit.
    """
    from resnets.models import complexity
    from resnets.models.residual import ResidualNetwork
    from resnets.support.memory import refuse_beyond_memory

    if batch is None or device.type != "cpu":
        return
    numbers = 3 * size**2
    if isinstance(network, ResidualNetwork):
        numbers += complexity.maps(network, size).largest
    crops = min(batch, images)
    refuse_beyond_memory(
        4 * crops * numbers, f"a test of {crops:,} crops at once", "--batch", SMALLER_BATCH
    )


def _print_json(
    model: Model | Predictor,
    scores: Scores,
    dataset: str,
    speed: float,
    machine: dict[str, Any],
) -> None:
    """Print a result with the facts of the machine."""
    facts = {"model": model.card["network"], "dataset": dataset}
    if runtime := getattr(model, "runtime", None):  # of an export
        facts["runtime"] = runtime.name
    measured = scores.result().as_dict(scores.classes)
    measured["images_per_second"] = round(speed, 2)
    print(json_format.dumps(valid_values({**facts, **measured, **machine}), indent=2))


def _print(model: Model | Predictor, scores: Scores, dataset: str, speed: float) -> None:
    import torch

    from resnets.models import complexity, zoo
    from resnets.paper.numbers import cifar10_error

    network = model.card["network"]
    with torch.device("meta"):
        parameters = complexity.parameters(zoo.build(network, len(model.classes)))
    print(f"{scores.model} ({parameters:,} parameters) on {_title(dataset)}")
    paper = cifar10_error(network) if dataset == "cifar10" else None
    print_result(scores.result(), scores.classes, paper)
    print(f"\n{speed:,.1f} images/s")


def _write(
    scores: Scores, title: str, *, save_scores: Path | None, plot: Path | None, quiet: bool
) -> None:
    """Write the files of `--save-scores` and `--plot`."""
    from resnets.analysis import figures
    from resnets.evaluation import scores as score_files

    if save_scores:
        score_files.save(save_scores, scores)
    if plot:
        confusion = scores.result().confusion
        write_bytes(plot, figures.confusion_png(confusion, scores.classes, title))
    if not quiet:
        if save_scores:
            print(f"Scores saved in {save_scores}")
        if plot:
            print(f"Confusion matrix drawn in {plot}")


def print_result(result: Result, classes: tuple[str, ...], paper: object) -> None:
    """Print errors with their intervals, then the confusion matrix or the worst classes."""
    from resnets.evaluation import results

    print(f"protocol: {result.protocol}")
    print(error_line("error", result.wrong, result.images))
    if result.wrong5 is not None:
        print(error_line("top-5 error", result.wrong5, result.images))
    if paper:
        print(f"the paper: {paper}")
    if len(classes) <= MATRIX:
        _print_matrix(result, classes)
    else:
        _print_worst(result, [*map(printable, results.distinct(classes))])


def _print_matrix(result: Result, classes: tuple[str, ...]) -> None:
    print("\nRows: true class and its error; columns: predicted class.\n")
    print(" " * 20 + "".join(f"{printable(name)[:5]:>6}" for name in classes))
    for name, error, counts in zip(classes, result.class_errors(), result.confusion, strict=True):
        share = "     -  " if error != error else f"{error:6.2f} %"
        print(f"{printable(name)[:11]:11}{share} " + "".join(f"{count:6d}" for count in counts))


def _print_worst(result: Result, names: list[str], count: int = 5) -> None:
    """The classes with the highest errors and the most frequent mistakes."""
    if not result.wrong:
        return
    shown = result.confusion.sum(1)
    errors = [(e, n, int(s)) for e, n, s in zip(result.class_errors(), names, shown, strict=True)]
    print("\nWorst classes (error, images):")
    for error, name, images in sorted((row for row in errors if row[0] > 0), reverse=True)[:count]:
        print(f"  {error:6.2f} % of {images:4}  {name}")
    print("\nMost frequent mistakes (images, true class, predicted):")
    for pair in result.worst_pairs(count):
        print(f"  {pair.images:4} of {pair.of:4}  {names[pair.true]} -> {names[pair.answer]}")
