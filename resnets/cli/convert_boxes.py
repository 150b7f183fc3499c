"""`resnets convert-boxes`: images with boxes in another format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from resnets.cli.console import progress_bar
from resnets.support.names import counted


def convert_boxes(
    source: Annotated[
        Path,
        typer.Argument(help="A folder of images with boxes, or an archive of it.", metavar="IN"),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.", metavar="OUT")],
    format: Annotated[Literal["coco", "voc", "yolo"], typer.Option(help="The format to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, if the data have none.")] = 0,
) -> None:
    """Write images with boxes in the format of COCO, VOC or YOLO.

    Reads COCO JSON, VOC XML, YOLO txt, labelme JSON or one CSV, found by content.
    Images are copied. The splits remain.
    """
    from resnets.data.boxes.conversion import convert
    from resnets.data.boxes.datasets import box_set, read_source, unused_categories
    from resnets.data.datasets import local
    from resnets.data.shards.writer import refuse_within

    folder = Path(local(str(source)))
    refuse_within(folder, out)
    found = read_source(folder, seed)
    parts = {"train": found.train, "test": found.test}
    sets = {split: box_set(found, split) for split in ("train", "test") if parts[split] is not None}
    with progress_bar("images") as progress:
        losses = convert(sets, out, format, progress=progress)
    for split, boxes in sets.items():
        count = sum(len(image.objects) for image in boxes.images)
        held = f"{counted(len(boxes), 'image')}, {counted(count, 'box', 'boxes')}"
        line = f"{split}: {held} of {found.format}"
        unused = unused_categories(boxes)
        print(line + (f"; none of {', '.join(unused[:5])}" if unused else ""))
    for note in (*found.notes(), *losses):
        print(f"note: {note}", file=sys.stderr)
    print(f"written: {out}")
