"""`resnets explain`: pictures of the evidence for a class."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resnets.cli.console import MORE_MEMORY, enough_memory, progress_bar, to_stderr
from resnets.cli.options import DeviceOption, ImagesArgument, JsonOption
from resnets.support.errors import UserError
from resnets.support.names import counted, printable

if TYPE_CHECKING:
    from resnets.inference.explanation_files import ExplainedFile
    from resnets.inference.neighbours import Nearest

COUNT = 5
"""Similar images that are shown by default."""


def explain(
    model: Annotated[
        str,
        typer.Argument(
            help="A model name, model file, run folder or export (not VGG).", metavar="MODEL"
        ),
    ],
    images: ImagesArgument,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the pictures: new, or an earlier one to replace.", metavar="FOLDER"
        ),
    ],
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", help="Explain this class, not the most probable.", metavar="NAME|INDEX"
        ),
    ] = None,
    stage: Annotated[
        str, typer.Option(help="One stage only, such as layer3.", metavar="NAME")
    ] = "all",
    opacity: Annotated[
        float, typer.Option(min=0, max=1, help="Opacity of the maps.", metavar="0..1")
    ] = 0.5,
    nearest: Annotated[
        Path | None,
        typer.Option(help="Also show the most similar images of a folder.", metavar="FOLDER"),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many of them; default 5.", metavar="N")
    ] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Draw where each stage of a network finds evidence for a class.

    Exits with 1 if an image is unreadable.
    """
    from resnets.inference import explanation_files, explanations
    from resnets.inference.image_inputs import find_images
    from resnets.support.devices import find_device
    from resnets.support.files import existing_folder

    if count is not None and nearest is None:
        raise UserError("works with --nearest only", "--count", "leave it out")
    files = find_images(images, to_stderr)
    if nearest is not None:
        existing_folder(nearest)
    found_device = find_device(device)
    opened = explanations.load_network(model)
    index = None if class_name is None else explanations.find_class(opened.classes, class_name)
    options = explanation_files.ExplanationOptions(index=index, stage=stage, opacity=opacity)
    explanation_files.check_folder(opened, out, stage)
    explanation_files.refuse_own_inputs(out, files)
    failed = 0
    with enough_memory(MORE_MEMORY):
        near = None
        if nearest is not None:
            near = _nearest(model, files, folder=nearest, count=count or COUNT, device=device,
                            as_json=json)  # fmt: skip
        explanation_files.prepare_folder(opened, out, stage)
        opened.network.to(found_device)
        for one in explanation_files.explain_files(opened, files, out, options, near):
            _print(one, json)
            failed += one.error is not None
    if not json:
        print(f"Drawn in {out / explanation_files.PAGE}")
    if failed:
        sys.exit(1)


def _nearest(
    model: str, images: Sequence[str], *, folder: Path, count: int, device: str, as_json: bool
) -> Mapping[str, Nearest]:
    """The images of `folder` that are most similar to each image."""
    from resnets.inference import neighbours
    from resnets.inference.predictor import open_predictor

    predictor = open_predictor(model, device=device, allow_int8=False)
    with progress_bar("images") as progress:
        index = neighbours.index_folder(predictor, folder, progress=progress)
    if index.unreadable:
        first, reason = next(iter(index.unreadable.items()))
        print(
            f"resnets: {folder}: {counted(len(index.unreadable), 'image')} could not be read, "
            f"such as {printable(first)} ({reason})",
            file=sys.stderr,
        )
    if not as_json:
        print(
            f"Compared with {counted(len(index.names), 'image')} of {folder}, "
            f"{index.computed:,} of them computed now"
        )
    return neighbours.nearest(predictor, index, images, count)


def _print(one: ExplainedFile, as_json: bool) -> None:
    if as_json:
        print(json_format.dumps(one.as_dict()))
    if one.error is not None:
        print(f"resnets: {printable(one.image)}: {one.error}", file=sys.stderr)
    elif one.explained is not None and not as_json:
        best = one.explained
        print(f"{100 * best.probability:6.2f} %  {printable(best.name):24} {printable(one.image)}")
        for near in one.nearest.neighbours if one.nearest else ():
            print(f"   {near.similarity:6.3f}  {printable(near.label):24} {printable(near.image)}")
