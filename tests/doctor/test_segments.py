"""The doctor finds what is wrong with segments, if a set has any."""

import pytest

from resnets.doctor import boxes
from tests.doctor.test_boxes import GOOD, coco, findings

SQUARE = [5, 7, 39, 7, 39, 29, 5, 29]


def with_segments(folder, *segments):
    """`GOOD`, a dog and a cat, with these segments; all other objects have one, too."""

    def change(content):
        for one, segment in zip(content["annotations"], segments, strict=True):
            if segment is not None:
                one["segmentation"] = segment

    return coco(folder, GOOD, change)


INNER = [12, 4, 48, 4, 48, 42]


@pytest.mark.parametrize(
    ("segment", "kind"),
    [
        ([SQUARE], None),
        ([[2.5, 7, 41.5, 7, 41.5, 31]], None),  # rounding
        (None, "no-segment"),
        ([[5, 7, 39, 7, 5, 7, 39, 7]], "few-points"),
        ([[5, 7, 39, 7, 39, 40]], "outside-segment"),
        ([SQUARE, [5, 7, 39, 7, -3, 20]], "outside-segment"),
        ({"size": [48, 64], "counts": [0, 48 * 64]}, "outside-segment"),
        ({"size": [48, 64], "counts": [48 * 10 + 10, 9, 48 * 53 + 29]}, None),
        ({"size": [48, 64], "counts": [3]}, "box-file"),
        ([[5, 7, 39, 7]], "box-file"),
    ],
)
def test_each_fault_of_a_segment(segment, kind, tmp_path):
    found = findings(with_segments(tmp_path, segment, [INNER]))
    found.pop("empty-class", None)  # a malformed object is left out
    assert list(found) == ([kind] if kind else [])
    if kind and kind != "box-file":
        ((detail, path),) = found[kind]
        assert detail == "dog 4 6 40 30 (x1 y1 x2 y2)"
        assert path == "train2017/a.png"


def test_a_set_without_segments_needs_none(tmp_path):
    assert findings(with_segments(tmp_path, None, None)) == {}


def test_faults_are_named_in_words(tmp_path):
    from resnets.doctor import report

    text = report.to_text(boxes.examine(with_segments(tmp_path, None, [INNER])))
    assert "objects without a segment, although others have one (no-segment, 1)" in text
