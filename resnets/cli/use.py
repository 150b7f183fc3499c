"""`resnets eval` and `resnets predict`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from resnets.data import cifar10
from resnets.data.images import centre, read_image, to_tensor
from resnets.evaluation import classify, plots
from resnets.models import complexity
from resnets.paper.numbers import cifar10_error
from resnets.support.errors import UserError, nearest
from resnets.support.files import write_bytes
from resnets.training.hardware import find_device
from resnets.weights import model_file


def evaluate(
    name: str,
    dataset: str,
    data: Path | None,
    plot: Path | None,
    device_name: str,
    as_json: bool,
) -> None:
    """Test a model on the test set and print what was found."""
    if dataset != "cifar10":
        raise UserError(f"unknown data set {dataset!r}", mend=nearest(dataset, ["cifar10"]))
    if plot and plot.suffix != ".png":
        raise UserError("the plot is a PNG file", f"--plot {plot}", "give a name ending in .png")
    if plot and not plot.absolute().parent.is_dir():
        raise UserError("no such folder", str(plot.parent), "make it first")
    if plot and plot.is_dir():
        raise UserError("is a folder", f"--plot {plot}", "give the name of a file")
    device = find_device(device_name)
    model = model_file.load(name)
    if model.classes != list(cifar10.CLASSES):
        raise UserError("the model was trained on other classes than CIFAR-10's", name)
    images = cifar10.load(data, lambda line: print(line, file=sys.stderr)).test
    network = model.network.to(device).to(memory_format=torch.channels_last)
    result = classify.evaluate(network, images, model.normalize(device), device, len(model.classes))
    if as_json:
        facts = {"model": model.card["network"], "dataset": dataset}
        print(json.dumps({**facts, **result.as_dict(model.classes)}, indent=2))
    else:
        _print_result(model, result)
    if plot:  # last, so that a full disk does not cost the result
        title = f"{model.card['network']} on CIFAR-10"
        write_bytes(plot, plots.confusion_png(result, model.classes, title))
    if plot and not as_json:
        print(f"\nConfusion matrix drawn in {plot}")


def _print_result(model: model_file.Model, result: classify.Result) -> None:
    network = model.card["network"]
    paper = cifar10_error(network)
    print(f"{network} ({complexity.parameters(model.network):,} parameters) on CIFAR-10's test set")
    print(f"protocol: {result.protocol}")
    print(f"error: {result.error:.2f} % ({result.wrong:,} of {result.images:,} images)")
    if paper:
        print(f"the paper: {paper}")
    print("\nRows: true class and its error; columns: answers.\n")
    print(" " * 20 + "".join(f"{name[:5]:>6}" for name in model.classes))
    errors = result.class_errors()
    for name, error, counts in zip(model.classes, errors, result.confusion, strict=True):
        print(f"{name:11}{error:6.2f} % " + "".join(f"{count:6d}" for count in counts))


def predict(images: list[Path], name: str, top: int, device_name: str, as_json: bool) -> None:
    """Print the most probable classes of each image; fail after the good ones if one is bad."""
    device = find_device(device_name)
    model = model_file.load(name)
    network = model.network.to(device)
    normalize = model.normalize(device)
    failures: list[UserError] = []
    rows: list[dict[str, Any]] = []
    for path in images:
        try:
            look = model.preprocessing
            image = centre(read_image(path), look.resize, look.size, look.interpolation)
            pixels = to_tensor(image)
        except UserError as error:
            failures.append(error)
            rows.append({"image": str(path), "error": str(error)})
            continue
        with torch.no_grad():
            chances = network(normalize(pixels[None].to(device))).softmax(1)[0].cpu()
        values, index = chances.topk(min(top, len(model.classes)))
        answers = [
            {"class": model.classes[i], "probability": round(p, 5)}
            for p, i in zip(values.tolist(), index.tolist(), strict=True)
        ]
        rows.append({"image": str(path), "top": answers})
        if not as_json:
            _print_answers(path, answers)
    if as_json:
        print(json.dumps(rows, indent=2))
    for failure in failures:
        print(f"resnets: {failure}", file=sys.stderr)
    if failures:
        sys.exit(2)


def _print_answers(path: Path, answers: list[dict[str, Any]]) -> None:
    print(path)
    for answer in answers:
        percent = 100 * answer["probability"]
        print(f"  {percent:6.2f} %  {answer['class']:12} {'#' * round(percent / 4)}")
