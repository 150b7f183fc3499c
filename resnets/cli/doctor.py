"""`resnets doctor`: check a folder of images before training on it."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

import typer

from resnets.cli.console import progress_bar
from resnets.cli.options import JsonOption
from resnets.support.errors import UserError
from resnets.support.files import refuse_unwritable, write_bytes


def doctor(
    data: Annotated[
        str | None, typer.Argument(help="A folder of images, or an archive of it.", metavar="DATA")
    ] = None,
    json: JsonOption = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with pictures.", metavar="FILE.html")
    ] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(
            help="Add unreadable images to a list; every verb skips those of DATA/.quarantine.",
            metavar="FILE",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Decoding threads; all cores by default.", metavar="N")
    ] = None,
    system: Annotated[
        bool, typer.Option("--system", help="Describe this machine for a report of a fault.")
    ] = False,
) -> None:
    """Check a folder of images, or of images with boxes, before training on it.

    Reads every image and reports what would break or distort a training.
    Exits with 1 if there are errors, 0 with warnings and notes only, 2 if it cannot begin.
    """
    from resnets.data import datasets
    from resnets.data.boxes.datasets import are_boxes
    from resnets.data.file_tree import QUARANTINE
    from resnets.data.shards.reader import are_shards
    from resnets.doctor import boxes, checks, report

    if system:
        _describe_system(json, (data, html, quarantine, threads))
        return
    if data is None:
        raise UserError("missing DATA", "doctor", "see: resnets doctor --help")
    folder = datasets.local(data)
    if are_shards(folder):
        raise UserError(
            "these are shards; doctor reads folders of images",
            data,
            "give the folder that they were made from, or a tar itself if it holds class folders",
        )
    if quarantine and folder != data:
        hint = "unpack it, and give its folder"
        raise UserError("an archive has no list of excluded images", "--quarantine", hint)
    refuse_unwritable(html, "--html", (".html", ".htm"))
    refuse_unwritable(quarantine, "--quarantine", (QUARANTINE, "", ".txt"))
    with progress_bar("images") as progress:
        examine = boxes.examine if are_boxes(Path(folder)) else checks.examine
        found = examine(Path(folder), threads, progress)
    found.archive = data if folder != data else ""
    if json:
        print(json_format.dumps(report.to_json(found), indent=2))
    else:
        print(report.to_text(found))
    if html:
        write_bytes(html, report.to_html(found).encode())
        print(f"\nreport with pictures: {html}", file=sys.stderr)
    if quarantine:
        bad = checks.quarantine(found, quarantine)
        print(f"\nunreadable images listed in {quarantine}: {bad:,}", file=sys.stderr)
        if rest := len(found.unreadable_files) - bad:
            print(f"not listed, as their names have several lines: {rest:,}", file=sys.stderr)
    if found.count("error"):
        sys.exit(1)


def _describe_system(json: bool, others: tuple[object, ...]) -> None:
    """Print what a report of a fault needs; refuses options that are for images."""
    from resnets.doctor import system

    if any(other is not None for other in others):
        raise UserError("describes this machine, not images", "--system", "leave out the rest")
    print(json_format.dumps(system.facts(), indent=2) if json else system.to_text())
