"""VOC's numbers equal the devkit's formula, written again here as the devkit has it."""

import numpy as np
import pytest

from resnets.data.boxes.annotations import Object
from resnets.detection.metrics import voc
from tests.detection.metrics.scenes import detections, image, random_scene, scene


def devkit(boxes, found, category, year, least=0.5):
    """VOCevaldet.m step by step, with whole corners that count from 1."""
    truths, positives = [], 0
    for one in boxes.images:
        objects = [o for o in one.objects if o.category == category]
        corners = [(o.box[0] + 1, o.box[1] + 1, o.box[2], o.box[3]) for o in objects]
        truths.append((corners, [o.difficult for o in objects], [False] * len(objects)))
        positives += sum(not o.difficult for o in objects)
    lines = []
    for number, one in enumerate(found):
        for box, score, label in zip(one.boxes.tolist(), one.scores, one.categories, strict=True):
            if label == category:
                lines.append((score, number, (box[0] + 1, box[1] + 1, box[2], box[3])))
    lines.sort(key=lambda line: -line[0])
    tp, fp = np.zeros(len(lines)), np.zeros(len(lines))
    for d, (_, number, box) in enumerate(lines):
        corners, difficult, detected = truths[number]
        shared = [pixel_overlap(box, other) for other in corners]
        best = int(np.argmax(shared)) if shared else None
        if best is None or shared[best] < least:
            fp[d] = 1
        elif not difficult[best]:
            tp[d], fp[d] = not detected[best], detected[best]
            detected[best] = True
    fp, tp = np.cumsum(fp), np.cumsum(tp)
    rec, prec = tp / positives, tp / np.maximum(fp + tp, 1)
    return eleven_points(rec, prec) if year == 2007 else area(rec, prec)


def pixel_overlap(one, other):
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    width, height = high - low + 1
    if width <= 0 or height <= 0:
        return -np.inf
    areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (one, other)]
    return width * height / (sum(areas) - width * height)


def eleven_points(rec, prec):
    best = [prec[rec >= t / 10 - 1e-12] for t in range(11)]
    return sum(p.max() / 11 for p in best if len(p))


def area(rec, prec):
    mrec, mpre = np.concatenate([[0], rec, [1]]), np.concatenate([[0], prec, [0]])
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    at = np.flatnonzero(mrec[1:] != mrec[:-1]) + 1
    return ((mrec[at] - mrec[at - 1]) * mpre[at]).sum()


@pytest.mark.parametrize("year", [2007, 2012])
@pytest.mark.parametrize("seed", range(5))
def test_numbers_equal_the_devkits(seed, year):
    boxes, found = random_scene(seed, crowds=False, difficult=True, whole=True)
    result = voc.evaluate(boxes, found, year)
    expected = [devkit(boxes, found, c, year) for c in range(3)]
    assert list(result.categories.values())[:3] == pytest.approx(expected, abs=1e-12)
    assert result.categories["yak"] is None
    assert result.map == pytest.approx(np.mean(expected))
    assert 0.1 < result.map < 0.9


def test_a_hand_computed_example():
    objects = [
        (0, (0, 0, 10, 10)),
        (0, (20, 0, 30, 10)),
        Object((40, 0, 50, 10), 0, difficult=True),
    ]
    boxes = scene(image(objects))
    found = [
        detections(
            (0, 0.9, [0, 0, 10, 10]),  # right
            (0, 0.8, [0, 0, 10, 9]),  # a duplicate: false
            (0, 0.7, [40, 0, 50, 10]),  # difficult: counts neither way
            (0, 0.6, [20, 0, 30, 5]),  # right, with an IoU of exactly 0.5
            (0, 0.5, [60, 0, 70, 10]),  # background
        )
    ]
    result = voc.evaluate(boxes, found, 2012)
    recall, precision = result.curves["cat"]
    assert recall.tolist() == [0.5, 0.5, 1, 1]
    assert precision == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert result.map == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # Six recalls up to 0.5 with precision 1, five with 2 / 3.
    assert voc.evaluate(boxes, found, 2007).map == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_a_recall_of_three_tenths_reaches_the_point_of_three_tenths():
    right = np.array([True, True, True])
    assert voc.average_precision(right, 10, 2007) == pytest.approx(4 / 11)
    assert voc.average_precision(right, 10, 2012) == pytest.approx(0.3)
    assert voc.average_precision(np.zeros(0, bool), 10, 2007) == 0
    assert voc.average_precision(np.zeros(0, bool), 10, 2012) == 0


def test_crowds_take_what_finds_no_object():
    crowd = Object((0, 0, 100, 100), 0, crowd=True)
    boxes = scene(image([crowd, (0, (10, 10, 20, 20))]))
    found = [
        detections(
            (0, 0.9, [50, 50, 60, 60]), (0, 0.8, [10, 10, 20, 20]), (0, 0.7, [200, 0, 210, 10])
        )
    ]
    recall, precision = voc.evaluate(boxes, found).curves["cat"]
    assert recall.tolist() == [1, 1]
    assert precision.tolist() == [1, 0.5]


def test_nothing_to_measure():
    result = voc.evaluate(scene(image([])), [detections()])
    assert result.map is None
