"""`resnets shards`: a folder of images as WebDataset tar shards."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic

from resnets.cli.counter import counting
from resnets.data import folders
from resnets.data.shards import writer


def write(
    data: Path, out: Path, resize: int | None, quality: int, images_per_shard: int | None
) -> None:
    """Write the shards and print what was written."""
    writer.refuse_within(data, out)
    images = folders.load(data)
    began = monotonic()
    with counting("images") as progress:
        threads = os.cpu_count() or 1
        manifest = writer.write(
            images,
            out,
            resize=resize,
            quality=quality,
            images_per_shard=images_per_shard,
            threads=threads,
            progress=progress,
        )
    for line in writer.summary(manifest):
        print(line)
    print(f"{out}: finished in {monotonic() - began:.1f} s; train on it with --data, or test on it")
