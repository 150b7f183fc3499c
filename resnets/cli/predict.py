"""`resnets predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from resnets.cli.counter import counting
from resnets.cli.memory import SMALLER_BATCH, enough_memory
from resnets.data.images import EXTENSIONS
from resnets.inference import image_inputs, prediction_files
from resnets.inference.predictions import Prediction
from resnets.inference.predictor import Identity, Predictor, open_predictor
from resnets.support.errors import UserError, nearest

LAUNCHERS = ("local", "ray")
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
    retry: bool = False
    launcher: str = "local"


def predict(name: str, paths: list[str], options: Options) -> None:
    """Tell or write what is on images; exits with 1 if some could not be read."""
    _refuse_contradictions(options)
    images = image_inputs.find_images(paths)
    if options.launcher == "ray":
        bad = _by_cluster(name, images, options)
    else:
        model = _open(name, options)
        if options.embeddings:
            model.require_features()

        def find(todo: list[str]) -> Iterator[Prediction]:
            return model.iter_predictions(
                todo, options.top, batch=options.batch, embeddings=options.embeddings
            )

        if options.out is None:
            with enough_memory(SMALLER_BATCH):
                bad = _print(find(images), len(images), options.as_json)
        else:
            bad = _fill(options.out, images, model.identity, find, options)
    if bad:
        sys.exit(1)


def _refuse_contradictions(options: Options) -> None:
    if options.launcher not in LAUNCHERS:
        hint = nearest(options.launcher, LAUNCHERS)
        raise UserError(f"unknown launcher {options.launcher!r}", "--launcher", hint)
    if options.embeddings and not (options.out or options.as_json):
        raise UserError("embeddings need a place", "--embeddings", "give --out FILE or --json")
    if options.out and options.as_json:
        raise UserError("answers go to a file or are printed", "--json", "leave one of them out")
    if options.retry and not options.out:
        raise UserError("only a file's images can be retried", "--retry", "give --out FILE")
    if options.launcher == "ray" and not options.out:
        raise UserError("a cluster's answers need a place", "--launcher ray", "give --out FILE")


def _by_cluster(name: str, images: list[str], options: Options) -> int:
    """Have the machines of a Ray cluster answer; returns how many images could not be read."""
    from resnets.inference.cluster import Cluster, ClusterOptions

    assert options.out is not None
    prediction_files.check_path(options.out, options.embeddings)  # before the cluster starts work
    settings = ClusterOptions(
        model=name, runtime=options.runtime, precision=options.precision, device=options.device,
        top=options.top, batch=options.batch, embeddings=options.embeddings,
    )  # fmt: skip
    cluster = Cluster(None, settings)
    try:
        return _fill(options.out, images, cluster.identity, cluster.iter_predictions, options)
    finally:
        cluster.close()


def _fill(
    out: Path,
    images: list[str],
    by: Identity,
    find: Callable[[list[str]], Iterator[Prediction]],
    options: Options,
) -> int:
    """Write what the output does not hold yet; returns how many images could not be read."""
    top = min(options.top, by.classes)
    maker = prediction_files.made_by(by, top=top, embeddings=options.embeddings)
    opened = prediction_files.open_file(
        out, maker, top=top, embeddings=options.embeddings, retry=options.retry
    )
    memory, bar = enough_memory(SMALLER_BATCH), counting("images")
    with memory, _stopping(out), opened as output, bar as progress:
        written = prediction_files.write_predictions(
            output, images, find, batch=options.batch, progress=progress
        )
    before = f", {written.skipped:,} were there already" if written.skipped else ""
    print(f"{written.computed:,} images answered in {out}{before}")
    if written.failed:
        print(f"resnets: {written.failed:,} images could not be read", file=sys.stderr)
    return written.failed


def _open(name: str, options: Options) -> Predictor:
    """The model; a mistake that is easily made gets its own hint."""
    try:
        return open_predictor(
            name, options.runtime, options.precision, options.device,
            allow_int8=not options.embeddings,
        )  # fmt: skip
    except UserError as error:
        looks_like_an_image = Path(name).suffix.lower() in EXTENSIONS
        if looks_like_an_image and Path(name).exists():
            hint = f"for example: resnets predict resnet50@msra {name}"
            raise UserError("the model comes first", name, hint) from error
        raise


@contextmanager
def _stopping(path: Path) -> Iterator[None]:
    """Say how to go on after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"Stopped; what was answered is in {path}. The same command goes on.")
        sys.exit(130)


def _print(found: Iterable[Prediction], images: int, as_json: bool) -> int:
    bad = 0
    for answer in found:
        if as_json:
            print(json.dumps(answer.as_dict()))
        if answer.error is not None:
            bad += 1
            print(f"resnets: {shown(answer.image)}: {answer.error}", file=sys.stderr)
        elif not as_json:
            _show(answer) if images <= FEW else _line(answer)
    return bad


def _show(answer: Prediction) -> None:
    print(shown(answer.image))
    for entry in answer.top:
        percent = 100 * entry.probability
        print(f"  {percent:6.2f} %  {entry.name:12} {'#' * round(percent / 4)}")


def _line(answer: Prediction) -> None:
    best = answer.top[0]
    print(f"{100 * best.probability:6.2f} %  {best.name:24} {shown(answer.image)}")


def shown(name: str) -> str:
    """A name for people, on one line: with escapes for what would move the cursor."""
    return name if name.isprintable() else repr(name)[1:-1]
