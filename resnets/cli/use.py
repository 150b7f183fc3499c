"""`resnets predict`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from resnets.data.images import centre, read_image, to_tensor
from resnets.support.errors import UserError
from resnets.training.hardware import find_device
from resnets.weights import model_file


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
