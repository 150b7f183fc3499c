"""`resnets explain`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resnets.cli.counter import bar
from resnets.cli.memory import MORE, enough_memory
from resnets.cli.predict import shown
from resnets.inference import explanations, image_files, neighbours
from resnets.inference.explanation_page import Explained
from resnets.inference.explanations import Wishes
from resnets.inference.neighbours import Nearest
from resnets.inference.predictor import device_for, open_predictor
from resnets.support.devices import find_device
from resnets.support.errors import UserError

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
    images = image_files.images(paths)
    if options.nearest is not None:
        neighbours.refuse_absent(options.nearest)
    device = find_device(options.device)
    model = explanations.open_network(name)
    index = None
    if options.class_name is not None:
        index = explanations.find_class(model.classes, options.class_name)
    wishes = Wishes(index, options.stage, options.opacity)
    explanations.prepare(model, options.out, wishes)
    bad = 0
    with enough_memory(MORE):
        near = None if options.nearest is None else _nearest(name, images, options)
        model.network.to(device)
        for one in explanations.explain_files(model, images, options.out, wishes, near):
            _tell(one, options.as_json)
            bad += one.error is not None
    if not options.as_json:
        print(f"Drawn in {options.out / explanations.PAGE}")
    if bad:
        sys.exit(1)


def _nearest(name: str, images: Sequence[str], options: Options) -> Mapping[str, Nearest]:
    """What is like each image; tells what became of the folder."""
    assert options.nearest is not None
    predictor = open_predictor(name, device=device_for(name, "auto", options.device), exact=True)
    index = neighbours.index_folder(predictor, options.nearest, bar=bar)
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


def _tell(one: Explained, as_json: bool) -> None:
    if as_json:
        print(json.dumps(one.as_dict()))
    if one.error is not None:
        print(f"resnets: {shown(one.image)}: {one.error}", file=sys.stderr)
    elif not as_json:
        print(f"{100 * one.probability:6.2f} %  {one.name:24} {shown(one.image)}")
        for near in one.nearest.neighbours if one.nearest else ():
            print(f"   {near.similarity:6.3f}  {shown(near.label):24} {shown(near.image)}")
