"""`resnets predict`: the classes of images."""

from __future__ import annotations

import json as json_format
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnets.cli.console import (
    SMALLER_BATCH,
    enough_memory,
    progress_bar,
    resumable,
    say_unreadable,
    to_stderr,
)
from resnets.cli.options import (
    DeviceOption,
    LauncherOption,
    ModelArgument,
    PrecisionOption,
    RuntimeOption,
)
from resnets.inference import TOP
from resnets.support.errors import UserError, nearest
from resnets.support.names import counted, printable

if TYPE_CHECKING:
    from resnets.inference.cluster import Cluster
    from resnets.inference.image_sources import ImageContent
    from resnets.inference.prediction_files import PredictionFile
    from resnets.inference.predictions import Prediction
    from resnets.inference.predictor import Predictor

    Predictions = Callable[[list[str]], Iterator[Prediction]]

LAUNCHERS = ("local", "ray")
FEW = 20
"""With at most this many images, each gets bars of its probabilities."""


def predict(
    model: ModelArgument,
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, patterns, URLs; - is standard input.",
            metavar="IMAGE...",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write .jsonl, .csv or .parquet; resumes an existing file.", metavar="FILE"
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes per image.", metavar="N")] = TOP,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Write the pooled features too.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Retry images that could not be read.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, max=1024, help="Images at a time.", metavar="N")
    ] = 16,
    launcher: LauncherOption = "local",
    device: DeviceOption = "auto",
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Name what is on images. Exits with 1 if an image could not be read."""
    from resnets.inference.image_inputs import find_images
    from resnets.inference.image_sources import open_sources

    _refuse_contradictions(
        out=out, embeddings=embeddings, retry=retry, as_json=json, launcher=launcher
    )
    files = find_images(images, to_stderr, remote=True)
    sources = open_sources(files, "predict", redirect=out is not None)
    if sources and launcher == "ray":
        raise UserError("a cluster can read files only", next(iter(sources)), "download it first")
    with ExitStack() as stack:
        if launcher == "ray":
            from resnets.inference import prediction_files
            from resnets.inference.cluster import Cluster, ClusterOptions

            assert out is not None
            prediction_files.check_path(out, embeddings)  # before the cluster starts work
            options = ClusterOptions(
                model=model, runtime=runtime, precision=precision, device=device, top=top,
                batch=batch, embeddings=embeddings,
            )  # fmt: skip
            source: Predictor | Cluster = stack.enter_context(closing(Cluster(None, options)))
            predictions: Predictions = source.iter_predictions
        else:
            source = _open(model, runtime, precision, device, allow_int8=not embeddings)
            if embeddings:
                source.require_features()
            predictions = partial(
                _predict, source, sources, top=top, batch=batch, embeddings=embeddings
            )
        if out is None:
            with enough_memory(SMALLER_BATCH):
                failed = _print(predictions(files), len(files), json)
        else:
            from resnets.inference import prediction_files

            top = min(top, source.identity.classes)
            origin = prediction_files.origin_of(source.identity, top=top, embeddings=embeddings)
            output = prediction_files.open_file(
                out, origin, top=top, embeddings=embeddings, retry=retry
            )
            failed = _write(output, out, files, predictions, batch)
    if failed:
        sys.exit(1)


def _refuse_contradictions(
    *, out: Path | None, embeddings: bool, retry: bool, as_json: bool, launcher: str
) -> None:
    if launcher not in LAUNCHERS:
        hint = nearest(launcher, LAUNCHERS)
        raise UserError(f"unknown launcher {launcher!r}", "--launcher", hint)
    if embeddings and not (out or as_json):
        raise UserError("embeddings are not printed", "--embeddings", "add --out FILE or --json")
    if out and as_json:
        raise UserError("cannot be combined with --out", "--json", "leave one of them out")
    if retry and not out:
        raise UserError("retries the images of a file", "--retry", "add --out FILE")
    if launcher == "ray" and not out:
        raise UserError("a cluster needs an output file", "--launcher ray", "add --out FILE")


def _predict(
    predictor: Predictor, sources: dict[str, ImageContent], names: list[str], **options: Any
) -> Iterator[Prediction]:
    """Predict images by their names."""
    return predictor.iter_predictions((sources.get(name, name) for name in names), **options)


def _open(name: str, runtime: str, precision: str, device: str, *, allow_int8: bool) -> Predictor:
    """The model; an image in the model's position gets its own hint."""
    from resnets.data.images import is_candidate
    from resnets.inference.predictor import open_predictor

    try:
        return open_predictor(name, runtime, precision, device, allow_int8=allow_int8)
    except UserError as error:
        if is_candidate(name) and os.path.isfile(name):  # noqa: PTH113 (never raises)
            hint = f"for example: resnets predict resnet50@msra {name}"
            raise UserError("the model comes first", name, hint) from error
        raise


def _write(
    opened: AbstractContextManager[PredictionFile[Prediction]],
    path: Path,
    files: list[str],
    predictions: Predictions,
    batch: int,
) -> int:
    """Write what the file does not hold yet; returns how many images could not be read."""
    from resnets.inference import prediction_files

    memory, bar = enough_memory(SMALLER_BATCH), progress_bar("images")
    with memory, resumable(path, "predictions"), opened as output, bar as progress:
        written = prediction_files.write_predictions(
            output, files, predictions, batch=batch, progress=progress
        )
    before = f", {written.skipped:,} were there already" if written.skipped else ""
    print(f"{counted(written.computed, 'image')} predicted in {path}{before}")
    say_unreadable(written.failed)
    return written.failed


def _print(predictions: Iterable[Prediction], images: int, as_json: bool) -> int:
    failed = 0
    for prediction in predictions:
        if as_json:
            print(json_format.dumps(prediction.as_dict()))
        if prediction.error is not None:
            failed += 1
            print(
                f"resnets: {printable(prediction.image)}: {printable(prediction.error)}",
                file=sys.stderr,
            )
        elif not as_json:
            _print_bars(prediction) if images <= FEW else _print_line(prediction)
    return failed


def _print_bars(prediction: Prediction) -> None:
    print(printable(prediction.image))
    for entry in prediction.top:
        percent = 100 * entry.probability
        print(f"  {percent:6.2f} %  {printable(entry.name):12} {'#' * round(percent / 4)}")


def _print_line(prediction: Prediction) -> None:
    best = prediction.top[0]
    print(
        f"{100 * best.probability:6.2f} %  {printable(best.name):24} {printable(prediction.image)}"
    )
