"""`resnets eval` and `resnets ensemble`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from resnets.cli.counter import bar
from resnets.cli.memory import SMALLER_BATCH, enough_memory
from resnets.data import cifar10
from resnets.data.datasets import open_test
from resnets.data.preprocessing import Preprocessing
from resnets.evaluation import evaluator, protocols, results, scores
from resnets.evaluation.evaluator import Classifier
from resnets.evaluation.protocols import Views
from resnets.evaluation.scores import Scores
from resnets.export import accuracy
from resnets.inference import export_folder
from resnets.inference.predictor import Predictor, device_for, open_predictor
from resnets.models import complexity, zoo
from resnets.paper.numbers import cifar10_error
from resnets.support.devices import environment
from resnets.support.distributed import World, world
from resnets.support.errors import UserError
from resnets.support.files import write_bytes
from resnets.weights import model_file
from resnets.weights.model_file import Model

MATRIX = 20
"""Classes up to which the confusion matrix fits a terminal."""


@dataclass(frozen=True)
class Options:
    """What a user may ask of a test, beside model and data."""

    data: Path | None = None
    views: str = "center"
    image_size: int | None = None
    limit: int | None = None
    batch: int | None = None
    save_scores: Path | None = None
    plot: Path | None = None
    device: str = "auto"
    as_json: bool = False


def evaluate(name: str, where: str, options: Options) -> None:
    """Test a model and print what was found."""
    _refuse(where, options)
    with world() as we:
        device = device_for(name, "auto", options.device) or torch.device("cpu")
        model = _open(name, options, device)
        if options.plot and len(model.classes) > results.MAX_MATRIX_CLASSES:
            raise UserError(f"{len(model.classes)} classes do not fit a picture", "--plot")
        if isinstance(model, Model):
            model.network.to(device).to(memory_format=torch.channels_last)
        start = time.perf_counter()
        with enough_memory(SMALLER_BATCH):
            test = _cifar10 if where == "cifar10" else _photos
            found = test(model, where, options, device, we)
        if found is None:
            return
        seconds = time.perf_counter() - start
        network = model.card["network"]
        found = replace(found, model=network if name == network else f"{network} ({name})")
        _tell(model, where, found, seconds, options, environment(device))


def _open(name: str, options: Options, device: torch.device) -> Model | Predictor:
    """The model in PyTorch in float32; an export in its own engine and precision."""
    if not export_folder.is_artefact(name):
        return model_file.load(name)
    for given, option in (
        (options.views == "dense", "--views dense"),
        (options.image_size is not None, "--image-size"),
    ):
        if given:
            raise UserError(
                "an export takes images of one size only", option, "test the model it was made from"
            )
    return open_predictor(name, device=device)


def _classifier(
    model: Model | Predictor, device: torch.device, views: Views | None = None
) -> Classifier:
    if isinstance(model, Model):
        return evaluator.classifier_of(model, device, views)
    return accuracy.classifier_of(model)


def _refuse(where: str, options: Options) -> None:
    """Raise `UserError` for what can be known to fail before anything is computed."""
    protocols.refuse_unknown(options.views)
    for path, option in ((options.plot, "--plot"), (options.save_scores, "--save-scores")):
        if path and not path.absolute().parent.is_dir():
            raise UserError("no such folder", str(path.parent), "make it first")
        if path and path.is_dir():
            raise UserError("is a folder", f"{option} {path}", "give the name of a file")
    if options.plot and options.plot.suffix != ".png":
        where = f"--plot {options.plot}"
        raise UserError("the plot is a PNG file", where, "give a name ending in .png")
    if where != "cifar10" and options.data:
        raise UserError("is for cifar10 only", "--data", "give the folder as the second argument")
    if where == "cifar10" and (options.views != "center" or options.image_size):
        option = "--image-size" if options.views == "center" else f"--views {options.views}"
        raise UserError(
            "CIFAR-10 is tested on a single view of its 32x32 images", option, "leave it out"
        )


def _cifar10(
    model: Model | Predictor, where: str, options: Options, device: torch.device, we: World
) -> Scores | None:
    """A test on CIFAR-10, which is small: the first process does it alone."""
    if not we.is_main:
        return None
    images = cifar10.load(options.data, lambda line: print(line, file=sys.stderr)).test
    with bar(min(len(images), options.limit or len(images))) as done:
        return evaluator.run_cifar10(
            _classifier(model, device),
            images,
            batch=options.batch,
            limit=options.limit,
            progress=done,
        )


def _photos(
    model: Model | Predictor, where: str, options: Options, device: torch.device, we: World
) -> Scores | None:
    samples = open_test(where)
    if samples.left_out and we.is_main:
        print(f"{where}: {samples.left_out:,} in quarantine left out", file=sys.stderr)
    images = min(len(samples), options.limit or len(samples))
    network = model.network if isinstance(model, Model) else None
    assert isinstance(model.preprocessing, Preprocessing)  # not the torch-free form of a Predictor
    views = protocols.make(options.views, network, model.preprocessing, options.image_size)
    batch = options.batch or (256 if device.type == "cuda" else 32)
    with bar(len(range(we.rank, images, we.size)), we.is_main) as done:
        return evaluator.run_test(
            _classifier(model, device, views),
            samples,
            views,
            batch=batch,
            limit=options.limit,
            world=we,
            progress=done,
        )


def _tell(
    model: Model | Predictor,
    where: str,
    found: Scores,
    seconds: float,
    options: Options,
    facts_of_machine: dict[str, Any],
) -> None:
    """Print a result, then write the files asked for: a full disk must not cost the result."""
    result, speed = found.result(), len(found) / seconds
    dataset = "CIFAR-10's test set" if where == "cifar10" else where
    if options.as_json:
        facts = {"model": model.card["network"], "dataset": where}
        if isinstance(model, Predictor):
            facts["runtime"] = model.runtime.name
        measured = {**result.as_dict(found.classes), "images_per_second": round(speed, 2)}
        print(json.dumps({**facts, **measured, **facts_of_machine}, indent=2))
    else:
        with torch.device("meta"):
            network = zoo.build(model.card["network"], len(model.classes))
        parameters = complexity.parameters(network)
        print(f"{found.model} ({parameters:,} parameters) on {dataset}")
        paper = cifar10_error(model.card["network"]) if where == "cifar10" else None
        _print_result(result, found.classes, paper)
    if options.save_scores:
        scores.save(options.save_scores, found)
    if options.plot:
        title = f"{model.card['network']} on {dataset}"
        write_bytes(options.plot, results.confusion_png(result, found.classes, title))
    if not options.as_json:
        print(f"\n{speed:,.1f} images/s")
        if options.save_scores:
            print(f"Scores kept in {options.save_scores}")
        if options.plot:
            print(f"Confusion matrix drawn in {options.plot}")


def ensemble(files: list[Path], as_json: bool) -> None:
    """Print the errors of several models' mean probabilities, and of each."""
    names = [str(file) for file in files]
    for name in names:
        if names.count(name) > 1:
            raise UserError("is given twice", name)
    members = [scores.load(file) for file in files]
    together = scores.combine(members, names)
    result = together.result()
    if as_json:
        single = [
            {"file": file, "model": member.model, **_errors(member.result())}
            for file, member in zip(names, members, strict=True)
        ]
        print(json.dumps({**result.as_dict(together.classes), "members": single}, indent=2))
        return
    for file, member in zip(names, members, strict=True):
        own = member.result()
        print(f"{file}: {member.model}, error {_short(own)} ({own.protocol})")
    print()
    _print_result(result, together.classes, None)


def _errors(result: results.Result) -> dict[str, Any]:
    facts = result.as_dict([""] * len(result.confusion))
    return {key: facts[key] for key in ("protocol", "error", "top5_error") if key in facts}


def _short(result: results.Result) -> str:
    top5 = "" if result.error5 is None else f", top-5 {result.error5:.2f} %"
    return f"{result.error:.2f} %{top5}"


def _line(what: str, wrong: int, images: int) -> str:
    low, high = results.wilson(wrong, images)
    return (
        f"{what}: {100 * wrong / images:.2f} % ({wrong:,} of {images:,} images; "
        f"95 % interval {low:.2f} to {high:.2f} %)"
    )


def _print_result(result: results.Result, classes: tuple[str, ...], paper: object) -> None:
    print(f"protocol: {result.protocol}")
    print(_line("error", result.wrong, result.images))
    if result.wrong5 is not None:
        print(_line("top-5 error", result.wrong5, result.images))
    if paper:
        print(f"the paper: {paper}")
    if len(classes) <= MATRIX:
        _print_matrix(result, classes)
    else:
        _print_worst(result, results.distinct(classes))


def _print_matrix(result: results.Result, classes: tuple[str, ...]) -> None:
    print("\nRows: true class and its error; columns: answers.\n")
    print(" " * 20 + "".join(f"{name[:5]:>6}" for name in classes))
    for name, error, counts in zip(classes, result.class_errors(), result.confusion, strict=True):
        share = "     -  " if error != error else f"{error:6.2f} %"
        print(f"{name[:11]:11}{share} " + "".join(f"{count:6d}" for count in counts))


def _print_worst(result: results.Result, names: list[str], count: int = 5) -> None:
    """The hardest classes and the most frequent mistakes of many classes."""
    if not result.wrong:
        return
    shown = result.confusion.sum(1)
    errors = [(e, n, int(s)) for e, n, s in zip(result.class_errors(), names, shown, strict=True)]
    print("\nWorst classes (error, images):")
    for error, name, images in sorted((row for row in errors if row[0] > 0), reverse=True)[:count]:
        print(f"  {error:6.2f} % of {images:4}  {name}")
    print("\nMost frequent mistakes (images, true class, answer):")
    for pair in result.worst_pairs(count):
        print(f"  {pair.images:4} of {pair.of:4}  {names[pair.true]} -> {names[pair.answer]}")
