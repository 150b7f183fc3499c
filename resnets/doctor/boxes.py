"""What is wrong with a folder of images with boxes.

Images are examined as those of class folders are (`checks`). No fault of the annotations stops the
examination: each becomes a finding of the report.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torchvision.ops import box_iou

from resnets.data.boxes.annotations import AnnotatedImage, BoxSet
from resnets.data.boxes.cleaning import clipped, fault_of_box
from resnets.data.boxes.datasets import Source, box_set, header_of, read_source
from resnets.data.boxes.orientation import undecided
from resnets.data.boxes.source import BoxError, Part
from resnets.data.file_tree import QUARANTINE
from resnets.data.folders import ImageFolder
from resnets.data.images import Header, ImageError
from resnets.doctor.checks import Progress, check_files
from resnets.doctor.listing import ImageList
from resnets.doctor.report import Report
from resnets.doctor.segments import check_segments
from resnets.support.devices import cores
from resnets.support.errors import UserError
from resnets.support.files import existing_folder

SHORTER, LONGER = 600, 1000
"""Pixels of an image's sides as the paper's detector sees it (section 4.3)."""
_TINY_SIDE = 8  # pixels at that size: half a step of the features
_HUGE_SHARE = 0.95  # of the image
_BEYOND = 1.0  # pixels by which a box may reach beyond its image: the last pixel counted twice
_SAME_OVERLAP = 0.95  # of two boxes of one object
_ENOUGH = 5  # boxes at an edge, from which a shift is suspected
_EXAMPLES = 12  # images on the page
_KINDS = {"empty": "empty-box", "outside": "outside-box", "small": "small-box"}


def examine(folder: Path, threads: int | None = None, progress: Progress | None = None) -> Report:
    """Read the annotations and every image of a folder with boxes and report what is wrong.

    Args:
        folder: in any format of `resnets.data.boxes`.
        threads: how many images are decoded at once; as many as there are cores by default.
        progress: called with the number of images done and the number of all.

    Raises:
        UserError: if there is no such folder; nothing else.
    """
    began = monotonic()
    report = Report(existing_folder(folder, "give a folder of images with boxes"), unit="box")
    faults: list[UserError] = []
    try:
        source = read_source(folder, on_fault=faults.append)
    except UserError as error:
        faults.append(error)
    else:
        sets = _box_sets(source, faults)
        _check_images(source, report, threads or cores(), progress)
        for boxes in sets:
            _check_boxes(boxes, report)
        _check_categories(sets, report)
    for fault in faults:
        _add_fault(report, fault)
    report.finish(began)
    return report


def _box_sets(source: Source, faults: list[UserError]) -> list[BoxSet]:
    sets = []
    for split, part in (("train", source.train), ("test", source.test)):
        if part is not None:
            try:
                sets.append(box_set(source, "train" if split == "train" else "test", faults.append))
            except UserError as error:
                faults.append(error)
    return sets


def _add_fault(report: Report, error: UserError) -> None:
    """A fault of the annotations as a finding; faults of image files are found with the images."""
    if isinstance(error, ImageError):
        return
    kind = error.kind if isinstance(error, BoxError) else "layout"
    where = error.location.removeprefix(f"{report.folder}/")
    file = where.partition(", ")[0]
    if where in ("", str(report.folder)):
        report.add(kind, error.message)
    else:
        place = where.removeprefix(file).removeprefix(", ")
        report.add(kind, f"{place}: {error.message}" if place else error.message, file)


# The images.


def _check_images(source: Source, report: Report, threads: int, progress: Progress | None) -> None:
    """Examine the files of all images, and which of them are annotated."""
    names: list[str] = []
    split_of: list[int] = []
    turned = []
    splits = [part for part in (source.train, source.test) if part is not None]
    for number, part in enumerate(splits):
        for name, undecidable in _files(report.folder, part):
            names.append(name)
            split_of.append(number)
            if undecidable:
                turned.append(name)
    titles = [("train", "val")[part is source.test] for part in splits]
    files = ImageFolder(report.folder, names, [0] * len(names), None)
    report.images = len(names)
    check_files(ImageList(files, titles, [""], split_of), report, threads, progress)
    if turned:
        report.add("turned-image", "taken to be drawn on the upright image", *turned)
    tree, quarantine = source.tree, source.quarantine
    report.ignored += tree.left_out
    report.ignored += Counter({"in quarantine": quarantine.matched})  # none of 0
    if note := quarantine.note():
        report.add("quarantine", note, QUARANTINE)
    for line in source.remarks:
        report.add("not-used", line)
    known = source.unused | {tree.path(name) for name in names}
    rest = [n for n in tree.images if tree.path(n) not in known and n not in quarantine]
    if rest:
        report.add("unlabelled", "no annotation of a split names them", *rest)


def _files(folder: Path, part: Part) -> list[tuple[str, bool]]:
    """The name of each image that exists, and whether EXIF data leave its frame open."""
    found = []
    for entry in part.entries:
        if entry.file is not None:
            header = header_of(entry.file)
            open_frame = isinstance(header, Header) and undecided(entry, header)
            found.append((entry.file.relative_to(folder).as_posix(), open_frame))
    return found


# The boxes.


def _check_boxes(boxes: BoxSet, report: Report) -> None:
    """Check the boxes of one split, image by image, then all of them together."""
    title = "train" if boxes.split == "train" else "val"
    counts = Counter(one.category for image in boxes.images for one in image.objects)
    report.splits[title] = {name: counts[i] for i, name in enumerate(boxes.categories)}
    if empty := sum(not image.objects for image in boxes.images):
        report.facts["without a box"] += empty
    notes: dict[str, list[str]] = defaultdict(list)
    for image in boxes.images:
        _check_image(image, boxes.categories, report, notes)
    check_segments(boxes, report)
    if notes["tiny-box"]:
        count = len(notes["tiny-box"])
        detail = (
            f"{count:,} boxes are less than {_TINY_SIDE} pixels wide or high in images of {SHORTER}"
        )
        report.add("tiny-box", detail, *dict.fromkeys(notes["tiny-box"]))
    if notes["huge-box"]:
        detail = f"{len(notes['huge-box']):,} boxes cover over {_HUGE_SHARE:.0%} of their image"
        report.add("huge-box", detail, *dict.fromkeys(notes["huge-box"]))
    if shift := _shift(boxes):
        report.add("shifted-boxes", f"{title}: {shift}")
    filled = [image.name for image in boxes.images if image.objects]
    step = max(1, len(filled) * 2 // _EXAMPLES)
    report.examples += filled[::step][: _EXAMPLES // 2]


def _check_image(
    image: AnnotatedImage,
    categories: tuple[str, ...],
    report: Report,
    notes: dict[str, list[str]],
) -> None:
    """Check the boxes of one image; what is only noteworthy goes to `notes`, by kind."""
    found: dict[str, list[int]] = defaultdict(list)
    scale = min(SHORTER / min(image.width, image.height), LONGER / max(image.width, image.height))
    for index, one in enumerate(image.objects):
        reason = fault_of_box(one.box, image.width, image.height)
        if reason:
            found[_KINDS[reason]].append(index)
            continue
        inner = clipped(one.box, image.width, image.height)
        if max(abs(a - b) for a, b in zip(inner, one.box, strict=True)) > _BEYOND:
            found["clipped-box"].append(index)
        width, height = inner[2] - inner[0], inner[3] - inner[1]
        if min(width, height) * scale < _TINY_SIDE:
            notes["tiny-box"].append(image.name)
        if width * height > _HUGE_SHARE * image.width * image.height and not one.crowd:
            notes["huge-box"].append(image.name)
    found["duplicate-box"] = _twice(image)
    for kind, indices in found.items():
        if indices:
            shown = [
                f"{categories[image.objects[i].category]} "
                + " ".join(f"{value:g}" for value in image.objects[i].box)
                for i in indices[:3]
            ]
            more = f" and {len(indices) - 3:,} more" if len(indices) > 3 else ""
            report.add(kind, f"{', '.join(shown)}{more} (x1 y1 x2 y2)", image.name)
    at_fault = {index for indices in found.values() for index in indices}
    sides = (image.width, image.height) * 2
    report.boxes[image.name] = [
        (tuple(v / side for v, side in zip(one.box, sides, strict=True)), index in at_fault)  # type: ignore[misc]
        for index, one in enumerate(image.objects)
    ]


def _twice(image: AnnotatedImage) -> list[int]:
    """The objects that an earlier one of the same category covers nearly."""
    indices = [i for i, one in enumerate(image.objects) if not one.crowd]
    if len(indices) < 2:
        return []
    boxes = torch.tensor([image.objects[i].box for i in indices], dtype=torch.float64)
    categories = torch.tensor([image.objects[i].category for i in indices])
    same = (box_iou(boxes, boxes) >= _SAME_OVERLAP) & (categories[:, None] == categories)
    return [indices[i] for i in torch.tril(same, -1).any(1).nonzero()[:, 0].tolist()]


def _shift(boxes: BoxSet) -> str | None:
    """Why the boxes seem to be shifted by a pixel.

    Where boxes reach the edges of their images, they show from which pixel they count.
    """
    rows = [
        (*one.box, image.width, image.height) for image in boxes.images for one in image.objects
    ]
    if not rows:
        return None
    x1, y1, x2, y2, width, height = np.array(rows, np.float64).T
    if boxes.source == "VOC XML":
        count = int(((x1 == -1) | (y1 == -1)).sum())
        what = "has a corner" if count == 1 else "have corners"
        return f"{count:,} of VOC's boxes {what} at 0; they should count from 1" if count else None
    begins = [int(((x1 == at) | (y1 == at)).sum()) for at in (0, 1)]
    ends = [int(((x2 == width - at) | (y2 == height - at)).sum()) for at in (0, 1)]
    if begins[0] == 0 and begins[1] >= _ENOUGH and ends[0]:
        return f"{begins[1]:,} boxes begin at 1 and none at 0; they should count from 0"
    if ends[0] == 0 and ends[1] >= _ENOUGH and begins[0]:
        return (
            f"{ends[1]:,} boxes end a pixel before the edge and none at it; "
            "their ends should be the edges of pixels"
        )
    return None


def _check_categories(sets: list[BoxSet], report: Report) -> None:
    """Which categories have no object."""
    for boxes in sets:
        title = "train" if boxes.split == "train" else "val"
        for name, count in report.splits[title].items():
            if not count and title == "train":
                report.add("empty-class", f"category {name} has no box in train")
            elif not count and report.splits.get("train", {}).get(name, 1):
                report.add("missing-in-val", f"category {name} has no box in val")
