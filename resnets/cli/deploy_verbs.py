"""Verbs that use trained models: what the command line takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resnets.cli.options import DeviceOption, PrecisionOption, RuntimeOption, example


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command(epilog=example("resnets predict resnet50@msra photos/ --out answers.jsonl"))(
        predict
    )


def predict(
    model: Annotated[str, typer.Argument(help="A shipped model, a model file or a run folder.")],
    images: Annotated[
        list[str], typer.Argument(help="Image files, folders, patterns.", metavar="IMAGE...")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write .jsonl, .csv or .parquet; go on if it is there.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Answers for each image.")] = 5,
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="The pooled features too.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.", metavar="N")] = 16,
    device: DeviceOption = "auto",
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Name what is on images: the most probable classes of each.

    Exits with 1 if some could not be read: they have their reason in the output.
    """
    from resnets.cli import use as verb

    options = verb.Options(out, top, embeddings, batch, device, runtime, precision, json)
    verb.predict(model, images, options)
