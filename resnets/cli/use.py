"""`resnets predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resnets.cli.counter import bar
from resnets.cli.memory import enough_memory
from resnets.data.images import EXTENSIONS
from resnets.deploy import finding, outputs, predicting
from resnets.deploy.opening import Predictor, device_for, open_predictor
from resnets.deploy.predicting import Answer
from resnets.support.errors import UserError

FEW = 20
"""Images up to which each gets a picture of its answers."""


@dataclass(frozen=True)
class Options:
    """What a user may ask of predictions, beside model and images."""

    out: Path | None = None
    top: int = 5
    embeddings: bool = False
    batch: int = 16
    device: str = "auto"
    runtime: str = "auto"
    precision: str = "auto"
    as_json: bool = False


def predict(name: str, paths: list[str], options: Options) -> None:
    """Tell or write what is on images; exits with 1 if some could not be read."""
    if options.embeddings and not (options.out or options.as_json):
        raise UserError("embeddings need a place", "--embeddings", "give --out FILE or --json")
    images = finding.images(paths)
    model = _open(name, options)
    if options.embeddings:
        predicting.refuse_without_features(model)
    find = predicting.answers
    if options.out is None:
        found = find(model, images, options.top, options.batch, options.embeddings)
        with enough_memory():
            bad = _print(found, len(images), options.as_json)
    else:
        top = min(options.top, len(model.classes))
        made_by = {
            "model": model.card["network"],
            "weights": model.digest,
            "runtime": model.runtime.name,
            "top": top,
            "embeddings": options.embeddings,
        }
        opened = outputs.open_output(options.out, made_by, top, options.embeddings)
        with enough_memory(), _stopping(options.out), opened as output:
            todo = [image for image in images if not output.holds(image)]
            bad = sum(output.failed(image) for image in images)
            with bar(len(todo)) as progress:
                found = find(model, todo, top, options.batch, options.embeddings)
                bad += _write(found, output, options.batch, progress)
        skipped = len(images) - len(todo)
        before = f", {skipped:,} were there already" if skipped else ""
        print(f"{len(todo):,} images answered in {options.out}{before}")
        if bad:
            print(f"resnets: {bad:,} images could not be read", file=sys.stderr)
    if bad:
        sys.exit(1)


def _open(name: str, options: Options) -> Predictor:
    """The model; a mistake that is easily made gets its own hint."""
    device = device_for(name, options.device)
    try:
        return open_predictor(name, options.runtime, options.precision, device)
    except UserError as error:
        looks_like_an_image = Path(name).suffix.lower() in EXTENSIONS
        if looks_like_an_image and Path(name).exists():
            mend = f"for example: resnets predict resnet50@msra {name}"
            raise UserError("the model comes first", name, mend) from error
        raise


@contextmanager
def _stopping(path: Path) -> Iterator[None]:
    """Say how to go on after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"Stopped; what was answered is in {path}. The same command goes on.")
        sys.exit(130)


def _write(
    found: Iterable[Answer], output: outputs.Output, batch: int, progress: Callable[[int], None]
) -> int:
    """Write answers batch by batch; returns how many images could not be read."""
    waiting: list[Answer] = []
    bad = done = 0
    for answer in found:
        waiting.append(answer)
        bad += answer.error is not None
        if len(waiting) == batch:
            output.write(waiting)
            done += len(waiting)
            waiting = []
            progress(done)
    output.write(waiting)
    return bad


def _print(found: Iterable[Answer], images: int, as_json: bool) -> int:
    bad = 0
    for answer in found:
        if as_json:
            print(json.dumps(answer.as_dict()))
        if answer.error is not None:
            bad += 1
            print(f"resnets: {answer.image}: {answer.error}", file=sys.stderr)
        elif not as_json:
            _show(answer) if images <= FEW else _line(answer)
    return bad


def _show(answer: Answer) -> None:
    print(answer.image)
    for name, probability in zip(answer.classes, answer.probabilities, strict=True):
        percent = 100 * probability
        print(f"  {percent:6.2f} %  {name:12} {'#' * round(percent / 4)}")


def _line(answer: Answer) -> None:
    print(f"{100 * answer.probabilities[0]:6.2f} %  {answer.classes[0]:24} {answer.image}")
