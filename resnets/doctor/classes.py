"""The classes of a data folder: empty, alone, never tested, of one name, of very different size."""

from __future__ import annotations

from collections.abc import Iterable

from resnets.data import hints
from resnets.data.layouts import CLASS_FOLDERS, NO_IMAGES
from resnets.data.samples import NONE_TO_SET_ASIDE, VAL_FRACTION
from resnets.doctor.report import Report
from resnets.support.names import composed, counted, pairs_alike, similar

_LARGEST_IMBALANCE = 10  # of the largest class to the smallest


def check_classes(report: Report) -> None:
    """Add what is wrong with the classes to a report whose images are counted."""
    splits = report.splits
    _check_names(report, dict.fromkeys(n for counts in splits.values() for n in counts))
    if "listed" in splits:
        return
    if "train" not in splits and "all" not in splits:
        report.add("layout", "there is val, but no train")
    for split, counts in splits.items():
        filled = sorted(name for name, images in counts.items() if images)
        if not filled:
            _report_empty(report, split)
        elif split != "val":
            _check_training_classes(report, counts, filled)
    train, val = splits.get("train"), splits.get("val", {})
    if train is None or not any(val.values()):
        _check_set_aside(report, train or splits.get("all", {}))
        return
    trained, tested = _by_composed(train), _by_composed(val)
    for key in sorted(trained.keys() | tested.keys()):
        (name, images), (test_name, tests) = (c.get(key, ("", 0)) for c in (trained, tested))
        if tests and not images:
            detail = f"class {test_name}: {counted(tests, 'image')} in val, none in train"
            other = similar(test_name, train)
            hint = f"; it looks like {other}" if other else ""
            report.add("unknown-class", detail + hint, f"val/{test_name}")
        elif images and not tests:
            detail = f"class {name}: {counted(images, 'image')} in train, none in val"
            report.add("missing-in-val", detail, f"train/{name}")


def _report_empty(report: Report, split: str) -> None:
    """Report a split without images, unless its label file is at fault."""
    if all(finding.kind != "label-file" for finding in report.findings):
        hint = hints.inside(report.folder) or CLASS_FOLDERS
        report.add("layout", f"{NO_IMAGES}; {hint}", *(() if split == "all" else (split,)))


def _by_composed(counts: dict[str, int]) -> dict[str, tuple[str, int]]:
    """Name and number of images of each class, by its composed name."""
    found: dict[str, tuple[str, int]] = {}
    for name, images in counts.items():
        first, before = found.get(composed(name), (name, 0))
        found[composed(name)] = first, before + images
    return found


def _check_names(report: Report, names: Iterable[str]) -> None:
    """Report classes whose names look alike."""
    for other, name, detail in pairs_alike(names):
        if composed(other) == composed(name):
            detail = f"class {name} is written in two Unicode forms; it counts as one class"
        report.add("similar-names", detail, other, name)


def _check_set_aside(report: Report, counts: dict[str, int]) -> None:
    """Report classes of which no image can be set aside for testing."""
    if max(counts.values(), default=0) < 2:
        if sum(counts.values()) > 1:  # one image is of one class, which is reported
            report.add("layout", NONE_TO_SET_ASIDE)
        return
    for name in sorted(name for name, images in counts.items() if images == 1):
        detail = (
            f"class {name}: its only image is trained on, where others set {VAL_FRACTION:.0%} aside"
        )
        report.add("missing-in-val", detail, name)


def _check_training_classes(report: Report, counts: dict[str, int], filled: list[str]) -> None:
    if len(filled) == 1:
        report.add("layout", f"only one class, {filled[0]}; a classifier needs two or more")
    lost = {path for f in report.findings if f.kind == "empty-class" for path in f.paths}
    for name in sorted(counts.keys() - {*filled, *lost}):
        report.add("empty-class", f"class {name} has no images", name)
    smallest, largest = min(filled, key=counts.__getitem__), max(filled, key=counts.__getitem__)
    if counts[largest] > _LARGEST_IMBALANCE * counts[smallest]:
        detail = (
            f"{largest} has {counts[largest]:,} images, {smallest} {counts[smallest]:,}: "
            f"{counts[largest] / counts[smallest]:.0f} times as many"
        )
        report.add("imbalance", detail)
