"""`resnets shards`: a folder of images as WebDataset tar shards."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from typing import Annotated

import typer

from resnets.cli.console import progress_bar, to_stderr


def shards(
    data: Annotated[
        Path, typer.Argument(help="A folder of images, or an archive of it.", metavar="DATA")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", metavar="OUT")],
    resize: Annotated[
        int | None,
        typer.Option(min=16, help="Scale images down to this shorter side.", metavar="PIXELS"),
    ] = None,
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="JPEG quality of scaled images.", metavar="1..100")
    ] = 90,
    images_per_shard: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images per shard; by default as many as fill 128 MB.", metavar="N"
        ),
    ] = None,
) -> None:
    """Write a folder of images as WebDataset tar shards.

    Training reads them from disk or a URL. Repeat an interrupted command to continue it.
    """
    from resnets.data import datasets, folders
    from resnets.data.shards import writer
    from resnets.support.devices import cores

    writer.refuse_within(data, out)
    writer.refuse_other_files(out)
    images = folders.load(Path(datasets.local(str(data))))
    for line in images.notes:
        to_stderr(line)
    began = monotonic()
    with progress_bar("images") as progress:
        manifest = writer.write(
            images,
            out,
            resize=resize,
            quality=quality,
            images_per_shard=images_per_shard,
            threads=cores(),
            progress=progress,
        )
    for line in writer.summary(manifest):
        print(line)
    print(f"{out}: written in {monotonic() - began:.1f} s; use it with train --data or eval")
