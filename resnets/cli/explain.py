"""`resnets explain`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnets.cli.counter import counting
from resnets.cli.memory import MORE, enough_memory
from resnets.cli.predict import shown
from resnets.inference import explanations, image_inputs, neighbours
from resnets.inference.explanations import ExplainedFile, ExplanationOptions, Nearest
from resnets.inference.predictor import open_predictor
from resnets.support.devices import find_device
from resnets.support.errors import UserError
from resnets.support.files import existing_folder

COUNT = 5
"""Nearest images that are shown."""


@dataclass(frozen=True)
class Options:
    """What a user may ask of explanations, beside model and images."""

    out: Path
    class_name: str | None = None
    stage: str = explanations.ALL
    opacity: float = 0.5
    nearest: Path | None = None
    count: int | None = None
    device: str = "auto"
    as_json: bool = False


def explain(name: str, paths: list[str], options: Options) -> None:
    """Draw what a model looks at; exits with 1 if some images could not be read."""
    if options.count is not None and options.nearest is None:
        raise UserError("is for --nearest", "--count", "leave it out")
    images = image_inputs.find_images(paths)
    if options.nearest is not None:
        existing_folder(options.nearest)
    device = find_device(options.device)
    model = explanations.load_network(name)
    index = None
    if options.class_name is not None:
        index = explanations.find_class(model.classes, options.class_name)
    drawn = ExplanationOptions(index=index, stage=options.stage, opacity=options.opacity)
    explanations.prepare_folder(model, options.out, options.stage)
    bad = 0
    with enough_memory(MORE):
        near = None if options.nearest is None else _nearest(name, images, options)
        model.network.to(device)
        for one in explanations.explain_files(model, images, options.out, drawn, near):
            _tell(one, options.as_json)
            bad += one.error is not None
    if not options.as_json:
        print(f"Drawn in {options.out / explanations.PAGE}")
    if bad:
        sys.exit(1)


def _nearest(name: str, images: Sequence[str], options: Options) -> Mapping[str, Nearest]:
    """What is like each image; tells what became of the folder."""
    assert options.nearest is not None
    predictor = open_predictor(name, device=options.device, allow_int8=False)
    with counting("images") as progress:
        index = neighbours.index_folder(predictor, options.nearest, progress=progress)
    if index.unreadable:
        first, reason = next(iter(index.unreadable.items()))
        told = (
            f"{len(index.unreadable):,} images could not be read, such as {shown(first)} ({reason})"
        )
        print(f"resnets: {options.nearest}: {told}", file=sys.stderr)
    if not options.as_json:
        told = f"{index.computed:,} of them computed now"
        print(f"Compared with {len(index.names):,} images of {options.nearest}, {told}")
    return neighbours.nearest(predictor, index, images, options.count or COUNT)


def _tell(one: ExplainedFile, as_json: bool) -> None:
    if as_json:
        print(json.dumps(one.as_dict()))
    if one.error is not None:
        print(f"resnets: {shown(one.image)}: {one.error}", file=sys.stderr)
    elif one.explained is not None and not as_json:
        best = one.explained
        print(f"{100 * best.probability:6.2f} %  {best.name:24} {shown(one.image)}")
        for near in one.nearest.neighbours if one.nearest else ():
            print(f"   {near.similarity:6.3f}  {shown(near.label):24} {shown(near.image)}")
