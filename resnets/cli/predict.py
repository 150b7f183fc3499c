"""`resnets predict`: the classes of images."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnets.cli.console import SMALLER_BATCH, enough_memory, image_bar, printable
from resnets.cli.options import (
    DeviceOption,
    ImagesArgument,
    ModelArgument,
    PrecisionOption,
    RuntimeOption,
)
from resnets.support.errors import UserError, nearest

if TYPE_CHECKING:
    from resnets.inference import outputs
    from resnets.inference.predictions import Answer, Identity
    from resnets.inference.predictor import Predictor

LAUNCHERS = ("local", "ray")
FEW = 20
"""Up to so many images each gets bars of its probabilities."""


def predict(
    model: ModelArgument,
    images: ImagesArgument,
    out: Annotated[
        Path | None,
        typer.Option(help="Write .jsonl, .csv or .parquet; continues a file.", metavar="FILE"),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per image.", metavar="N")] = 5,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Write the pooled features too.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Retry images that could not be read.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, max=1024, help="Images at a time.", metavar="N")
    ] = 16,
    launcher: Annotated[
        str, typer.Option(help="local, or ray: a cluster.", metavar="NAME")
    ] = "local",
    device: DeviceOption = "auto",
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Name what is on images. Exits with 1 if an image could not be read."""
    from resnets.inference import image_files

    request = _Request(
        model=model, out=out, top=top, embeddings=embeddings, retry=retry, batch=batch,
        device=device, runtime=runtime, precision=precision, as_json=json,
    )  # fmt: skip
    _refuse_contradictions(request, launcher)
    files = image_files.images(images)
    failed = _on_cluster(request, files) if launcher == "ray" else _here(request, files)
    if failed:
        sys.exit(1)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The options of a call."""

    model: str
    out: Path | None
    top: int
    embeddings: bool
    retry: bool
    batch: int
    device: str
    runtime: str
    precision: str
    as_json: bool


def _refuse_contradictions(request: _Request, launcher: str) -> None:
    if launcher not in LAUNCHERS:
        hint = nearest(launcher, LAUNCHERS)
        raise UserError(f"unknown launcher {launcher!r}", "--launcher", hint)
    if request.embeddings and not (request.out or request.as_json):
        raise UserError("embeddings are not printed", "--embeddings", "add --out FILE or --json")
    if request.out and request.as_json:
        raise UserError("cannot be combined with --out", "--json", "leave one of them out")
    if request.retry and not request.out:
        raise UserError("retries the images of a file", "--retry", "add --out FILE")
    if launcher == "ray" and not request.out:
        raise UserError("a cluster writes to a file", "--launcher ray", "add --out FILE")


def _here(request: _Request, files: list[str]) -> int:
    """Answer on this machine; returns how many images could not be read."""
    from resnets.inference import predictions

    model = _open(request)
    if request.embeddings:
        predictions.refuse_without_features(model)

    def answers(todo: list[str]) -> Iterator[Answer]:
        return predictions.answers(model, todo, request.top, request.batch, request.embeddings)

    if request.out is None:
        with enough_memory(SMALLER_BATCH):
            return _print(answers(files), len(files), request.as_json)
    return _write_file(request, files, predictions.identity(model), answers)


def _open(request: _Request) -> Predictor:
    """The model; an image in the model's position gets its own hint."""
    from resnets.data.images import EXTENSIONS
    from resnets.inference.predictor import device_for, open_predictor

    name = request.model
    try:
        device = device_for(name, request.runtime, request.device)
        return open_predictor(name, request.runtime, request.precision, device, request.embeddings)
    except UserError as error:
        if Path(name).suffix.lower() in EXTENSIONS and Path(name).exists():
            hint = f"for example: resnets predict resnet50@msra {name}"
            raise UserError("the model comes first", name, hint) from error
        raise


def _on_cluster(request: _Request, files: list[str]) -> int:
    """Answer on a Ray cluster; returns how many images could not be read."""
    from resnets.inference import outputs, ray_cluster

    assert request.out is not None
    outputs.check(request.out, request.embeddings)  # before a cluster is started
    asked = ray_cluster.Asked(
        request.model, request.runtime, request.precision, request.device, request.top,
        request.batch, request.embeddings,
    )  # fmt: skip
    cluster = ray_cluster.Cluster(None, asked)
    try:
        return _write_file(request, files, cluster.identity, cluster.answers)
    finally:
        cluster.close()


def _write_file(
    request: _Request,
    files: list[str],
    identity: Identity,
    answers: Callable[[list[str]], Iterator[Answer]],
) -> int:
    """Write what the file does not hold yet; returns how many images could not be read."""
    from resnets.inference import outputs

    assert request.out is not None
    top = min(request.top, identity.classes)
    made_by = {
        "model": identity.network,
        "weights": identity.weights,
        "runtime": identity.runtime,
        "top": top,
        "embeddings": request.embeddings,
    }
    opened = outputs.open_output(request.out, made_by, top, request.embeddings, request.retry)
    with enough_memory(SMALLER_BATCH), _resumable(request.out), opened as output:
        todo = [file for file in files if not output.holds(file)]
        failed = sum(output.failed(file) for file in files)
        with image_bar(len(todo)) as progress:
            failed += _write(answers(todo), output, request.batch, progress)
    skipped = len(files) - len(todo)
    before = f", {skipped:,} were there already" if skipped else ""
    print(f"{len(todo):,} images answered in {request.out}{before}")
    if failed:
        print(f"resnets: {failed:,} images could not be read", file=sys.stderr)
    return failed


@contextmanager
def _resumable(path: Path) -> Iterator[None]:
    """After Ctrl-C, say how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"Stopped; the answers so far are in {path}. Repeat the command to continue.")
        sys.exit(130)


def _write(
    answers: Iterable[Answer], output: outputs.Output, batch: int, progress: Callable[[int], None]
) -> int:
    """Write answers batch by batch; returns how many images could not be read."""
    waiting: list[Answer] = []
    failed = done = 0
    for answer in answers:
        waiting.append(answer)
        failed += answer.error is not None
        if len(waiting) == batch:
            output.write(waiting)
            done += len(waiting)
            waiting = []
            progress(done)
    output.write(waiting)
    progress(done + len(waiting))
    return failed


def _print(answers: Iterable[Answer], images: int, as_json: bool) -> int:
    failed = 0
    for answer in answers:
        if as_json:
            print(json_format.dumps(answer.as_dict()))
        if answer.error is not None:
            failed += 1
            print(f"resnets: {printable(answer.image)}: {answer.error}", file=sys.stderr)
        elif not as_json:
            _print_bars(answer) if images <= FEW else _print_line(answer)
    return failed


def _print_bars(answer: Answer) -> None:
    print(printable(answer.image))
    for name, probability in zip(answer.classes, answer.probabilities, strict=True):
        percent = 100 * probability
        print(f"  {percent:6.2f} %  {name:12} {'#' * round(percent / 4)}")


def _print_line(answer: Answer) -> None:
    image = printable(answer.image)
    print(f"{100 * answer.probabilities[0]:6.2f} %  {answer.classes[0]:24} {image}")
