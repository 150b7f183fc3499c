"""`resnets doctor`: what is wrong with a folder of images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from resnets.cli.counter import counting
from resnets.data.shards.reader import are_shards
from resnets.doctor import checks, report
from resnets.support.errors import UserError
from resnets.support.files import existing_folder, write_bytes


def examine(
    data: Path, as_json: bool, page: Path | None, listing: Path | None, threads: int | None
) -> None:
    """Examine a folder, print the report, write what was asked for; exit 1 on errors."""
    existing_folder(data, "give a folder of images")
    if are_shards(data):
        raise UserError(
            "these are shards; the doctor reads folders of images",
            str(data),
            "give the folder that they were made from",
        )
    for option, path in (("--html", page), ("--quarantine", listing)):
        if path and path.is_dir():
            raise UserError("is a folder", f"{option} {path}", "give the name of a file")
        if path and not path.absolute().parent.is_dir():
            raise UserError("no such folder", str(path.parent), "make it first")
    with counting("images") as progress:
        found = checks.examine(data, threads, progress)
    if as_json:
        print(json.dumps(report.facts(found), indent=2))
    else:
        print(report.text(found))
    if page:
        write_bytes(page, report.page(found).encode())
        print(f"\nreport with pictures: {page}", file=sys.stderr)
    if listing:
        bad = checks.quarantine(found, listing)
        print(f"\nunreadable images listed in {listing}: {bad:,}", file=sys.stderr)
    if found.count("error"):
        sys.exit(1)
