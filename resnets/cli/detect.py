"""`resnets detect`: the objects in images and videos."""

from __future__ import annotations

import json as json_format
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resnets.cli.console import (
    MORE_MEMORY,
    enough_memory,
    progress_bar,
    resumable,
    say_unreadable,
    to_stderr,
)
from resnets.cli.options import (
    DeviceOption,
    MembersOption,
    PrecisionOption,
    RefineOption,
    RuntimeOption,
    ScalesOption,
)
from resnets.support.errors import UserError
from resnets.support.names import printable

if TYPE_CHECKING:
    from resnets.detection.metrics.detections import Thresholds
    from resnets.inference.detection_results import ImageDetections
    from resnets.inference.image_sources import ImageContent
    from resnets.inference.object_detector import ObjectDetector, Source

FEW = 20
"""With at most this many images, each object gets a line."""


def detect(
    model: Annotated[
        str, typer.Argument(help="A detector: run folder, model file or export.", metavar="MODEL")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            help="Files, folders, archives, patterns, videos, URLs; - is standard input.",
            metavar="IMAGE...",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write .jsonl, .csv, .json (COCO results), or a folder of YOLO labels; "
            "resumes it.",
            metavar="FILE|FOLDER",
        ),
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(help="Draw boxes and masks into copies.", metavar="FOLDER")
    ] = None,
    score: Annotated[
        float, typer.Option(min=0, max=1, help="Lowest score of an object.", metavar="0..1")
    ] = 0.5,
    nms: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Largest overlap (IoU) of two boxes of a category.", metavar="0..1"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most N objects per image.", metavar="N")
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(min=32, help="Also search tiles of N pixels a side.", metavar="N"),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Every Nth frame of videos.", metavar="N")] = 1,
    retry: Annotated[
        bool, typer.Option("--retry", help="Retry images that could not be read.")
    ] = False,
    refine: RefineOption = False,
    scales: ScalesOption = None,
    members: MembersOption = None,
    device: DeviceOption = "auto",
    runtime: RuntimeOption = "auto",
    precision: PrecisionOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Find objects in images and videos. Exits with 1 if one could not be read."""
    from resnets.inference.image_inputs import find_images
    from resnets.inference.image_sources import open_sources

    if out and json:
        raise UserError("cannot be combined with --out", "--json", "leave one of them out")
    if retry and not out:
        raise UserError("retries the images of a file", "--retry", "add --out FILE")
    files = find_images(images, to_stderr, remote=True)
    sources = open_sources(files, "detect", redirect=out is not None)
    _check_outputs(files, out, draw)
    opened = _open(model, runtime, precision, device, members or [])
    if refine or scales:
        opened = opened.improved(refine, scales or ())
    opened.check_tile(tile)
    thresholds = opened.thresholds(score, nms, limit)
    work = _Work(
        opened, sources, thresholds, tile, every, None if draw is None else _pen(draw, files)
    )
    with enough_memory(MORE_MEMORY):
        if out is None:
            failed = _print(work.results(files, lambda name: False), len(files), json)
        else:
            failed = _write(work, files, out, retry)
    if draw is not None and not json:
        print(f"Drawn in {draw}")
    if failed:
        sys.exit(1)


@dataclass(frozen=True)
class _Work:
    """What is to be done with each image.

    Args:
        model: the detector.
        sources: the images that are not files, by name.
        thresholds, tile: as for `ObjectDetector.iter_predictions`.
        every: of a video's frames.
        seen: likewise.
    """

    model: ObjectDetector
    sources: dict[str, ImageContent]
    thresholds: Thresholds
    tile: int | None
    every: int
    seen: Callable[[ImageDetections, Any], None] | None

    def results(
        self, files: Iterable[str], skip: Callable[[str], bool]
    ) -> Iterator[ImageDetections]:
        """The objects in files, and in the frames of videos that are not skipped."""
        return self.model.iter_predictions(
            self._expanded(files, skip), self.thresholds, self.tile, self.seen
        )

    def _expanded(self, files: Iterable[str], skip: Callable[[str], bool]) -> Iterator[Source]:
        from resnets.inference import videos

        for name in files:
            if videos.is_video(name) and name not in self.sources:
                yield from videos.frames(name, self.every, skip)
            else:
                yield self.sources.get(name, name)

    def images(self, files: Iterable[str]) -> int:
        """Number of images and frames, as far as videos say."""
        from resnets.inference import videos

        frames = [videos.frame_count(name, self.every) for name in files if videos.is_video(name)]
        return sum(frames) + sum(not videos.is_video(name) for name in files)


def _check_outputs(files: list[str], out: Path | None, draw: Path | None) -> None:
    """Raise `UserError` for what cannot be read or written, before anything is computed."""
    from resnets.inference import detection_files, videos
    from resnets.support.files import make_folder

    if any(map(videos.is_video, files)):
        videos.require()
    if out is not None:
        detection_files.check_path(out)
        if not out.suffix:
            detection_files.label_files(files)
    if draw is not None:
        make_folder(draw)


def _open(
    name: str, runtime: str, precision: str, device: str, members: list[str]
) -> ObjectDetector:
    """The detector; an image in its position gets its own hint."""
    from resnets.data.images import is_candidate
    from resnets.inference.object_detector import open_detector

    try:
        return open_detector(name, runtime, precision, device, members)
    except UserError as error:
        if is_candidate(name) and os.path.isfile(name):  # noqa: PTH113 (never raises)
            hint = f"for example: resnets detect runs/raccoons {name}"
            raise UserError("the model comes first", name, hint) from error
        raise


def _pen(folder: Path, files: list[str]) -> Callable[[ImageDetections, Any], None]:
    """Draws each result into the folder."""
    from resnets.inference.detection_files import picture_files, with_frame
    from resnets.support.files import atomic_write, make_folder

    names = picture_files(files)

    def draw(found: ImageDetections, picture: Any) -> None:
        drawn = found.draw(picture)
        file = found.image if found.frame is None else found.image.rpartition("#")[0]
        path = folder / f"{with_frame(names[file], found.frame)}.jpg"
        make_folder(path.parent)
        atomic_write(path, partial(drawn.save, format="JPEG", quality=92))

    return draw


def _write(work: _Work, files: list[str], out: Path, retry: bool) -> int:
    """Write what the file does not hold yet; returns how many images could not be read."""
    from resnets.inference import detection_files
    from resnets.inference.prediction_files import write_predictions

    origin = detection_files.origin_of(
        work.model.identity, work.thresholds, tile=work.tile, every=work.every,
        improvements=work.model.improvements,
    )  # fmt: skip
    opened = detection_files.open_file(out, origin, work.model.classes, retry=retry)
    counts = {"objects": 0}

    def counted(results: Iterable[ImageDetections]) -> Iterator[ImageDetections]:
        for one in results:
            counts["objects"] += len(one.objects)
            yield one

    with resumable(out, "detections"), opened as output, progress_bar("images") as progress:
        todo = [file for file in files if not output.holds(file)]
        total = work.images(todo)
        written = write_predictions(
            output,
            files,
            lambda names: counted(work.results(names, output.holds)),
            batch=1,
            progress=lambda done, _: progress(done, max(done, total)),
        )
    before = f", {written.skipped:,} were there already" if written.skipped else ""
    images = "image" if written.computed == 1 else "images"
    objects = "object" if counts["objects"] == 1 else "objects"
    found = f"{counts['objects']:,} {objects} in {written.computed:,} {images}"
    print(f"{found}, written to {out}{before}")
    say_unreadable(written.failed)
    return written.failed


def _print(results: Iterable[ImageDetections], images: int, as_json: bool) -> int:
    failed = 0
    for found in results:
        if as_json:
            print(json_format.dumps(found.as_dict()))
        if found.error is not None:
            failed += 1
            print(f"resnets: {printable(found.image)}: {printable(found.error)}", file=sys.stderr)
        elif not as_json:
            _print_objects(found) if images <= FEW and found.frame is None else _print_line(found)
    return failed


def _print_objects(found: ImageDetections) -> None:
    print(f"{printable(found.image)} ({found.width} x {found.height})")
    for one in found.objects:
        x1, y1, x2, y2 = (f"{side:.0f}" for side in one.box)
        print(f"  {100 * one.score:6.2f} %  {printable(one.name):20} from {x1}, {y1} to {x2}, {y2}")
    if not found.objects:
        print("  no objects")


def _print_line(found: ImageDetections) -> None:
    from collections import Counter

    counts = Counter(one.name for one in found.objects)
    text = ", ".join(f"{count} {printable(name)}" for name, count in counts.items())
    at = "" if found.seconds is None else f" at {found.seconds:.2f} s"
    print(f"{printable(found.image)}{at}: {text or 'no objects'}")
