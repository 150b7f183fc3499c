"""`resnets doctor`: what is wrong with a folder of images."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from resnets.cli.counter import counting
from resnets.data import doctor, doctor_report
from resnets.data.folders import existing
from resnets.data.shards import are_shards
from resnets.support.errors import UserError
from resnets.support.files import write_bytes


def examine(
    data: Path, as_json: bool, page: Path | None, listing: Path | None, threads: int | None
) -> None:
    """Examine a folder, print the report, write what was asked for; exit 1 on errors."""
    existing(data)
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
        report = doctor.examine(data, threads, progress)
    if as_json:
        print(json.dumps(doctor_report.facts(report), indent=2))
    else:
        print(doctor_report.text(report))
    if page:
        write_bytes(page, doctor_report.page(report).encode())
        print(f"\nreport with pictures: {page}", file=sys.stderr)
    if listing:
        bad = doctor.quarantine(report, listing)
        print(f"\nunreadable images listed in {listing}: {bad:,}", file=sys.stderr)
    if report.count("error"):
        sys.exit(1)
