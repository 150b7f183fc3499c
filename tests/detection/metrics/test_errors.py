"""TIDE's six types, each in an example made for it; confusions with background."""

import numpy as np
import pytest

from resnets.data.boxes.annotations import Object
from resnets.detection.metrics import coco, errors, pairing
from tests.detection.metrics.scenes import detections, image, random_scene, scene

CAT, DOG = 0, 1
BOX = (0, 0, 40, 40)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(CAT, 0.9, BOX)], {}),
        ([(DOG, 0.9, BOX)], {"classification": 1}),
        ([(CAT, 0.9, (0, 0, 40, 16))], {"localization": 1}),  # IoU 0.4
        ([(CAT, 0.9, (0, 0, 40, 4))], {"localization": 1}),  # IoU 0.1
        ([(DOG, 0.9, (0, 0, 40, 16))], {"both": 1, "missed": 1}),
        ([(CAT, 0.9, BOX), (CAT, 0.8, (0, 0, 40, 38))], {"duplicate": 1}),
        ([(CAT, 0.9, BOX), (CAT, 0.8, (200, 0, 240, 40))], {"background": 1}),
        ([(CAT, 0.9, BOX), (CAT, 0.8, (0, 0, 40, 3))], {"background": 1}),  # IoU 0.075
        ([], {"missed": 1}),
        # The object that a wrong box or category would find is not missed as well.
        ([(DOG, 0.9, BOX), (CAT, 0.8, (0, 0, 40, 16))], {"classification": 1, "localization": 1}),
        # The best one is right whatever comes before it.
        ([(CAT, 0.5, (0, 0, 40, 16)), (CAT, 0.4, BOX)], {"localization": 1}),
    ],
)
def test_each_type(found, expected):
    report = errors.evaluate(scene(image([(CAT, BOX)])), [detections(*found)])
    assert report.counts == expected
    assert (
        sum((report.by_size[size] for size in errors.SIZES), report.counts.__class__()) == expected
    )


def test_images_without_objects_are_background():
    boxes = scene(image([]), image([(CAT, BOX)], 1))
    report = errors.evaluate(boxes, [detections((DOG, 0.9, BOX)), detections((CAT, 0.9, BOX))])
    assert report.counts == {"background": 1}
    assert report.by_category["dog"] == {"background": 1}
    assert errors.evaluate(scene(image([])), [detections()]).ap50 is None


def test_crowds_and_difficult_objects_count_neither_way():
    crowd = Object((0, 0, 100, 100), CAT, crowd=True)
    difficult = Object((200, 0, 240, 40), CAT, difficult=True)
    found = detections((CAT, 0.9, (10, 10, 20, 20)), (CAT, 0.9, (200, 0, 240, 39)))
    report = errors.evaluate(scene(image([crowd, difficult])), [found])
    assert not report.counts
    other = detections((DOG, 0.9, (10, 10, 20, 20)))
    assert errors.evaluate(scene(image([crowd])), [other]).counts == {"background": 1}


def test_gains_of_corrections():
    boxes = scene(image([(CAT, BOX), (CAT, (100, 0, 140, 40))]), image([(DOG, BOX)], 1))
    found = [
        detections((CAT, 0.9, BOX), (CAT, 0.8, (200, 0, 240, 40)), (CAT, 0.7, (100, 0, 140, 16))),
        detections((CAT, 0.95, BOX), (CAT, 0.94, BOX)),
    ]
    report = errors.evaluate(boxes, found)
    assert report.counts == {"classification": 2, "localization": 1, "background": 1}
    # Of the cats one of two is found, third in order: 51 of 101 recalls with precision 1 / 3.
    assert report.ap50 == pytest.approx(51 / 101 / 3 / 2)
    # The best of two detections becomes the dog, the other disappears.
    assert report.gains["classification"] == pytest.approx((51 / 101 + 1) / 2 - report.ap50)
    # Cats: wrong, wrong, right, wrong, right.
    right = (51 * 2 / 5 + 50 * 2 / 5) / 101
    assert report.gains["localization"] == pytest.approx(right / 2 - report.ap50)
    # Without the false one on background the right one is still third.
    assert report.gains["background"] == 0
    assert report.gains["missed"] == report.gains["both"] == 0


def test_missed_objects_are_taken_away_to_correct_them():
    boxes = scene(image([(CAT, BOX), (CAT, (100, 0, 140, 40))]))
    report = errors.evaluate(boxes, [detections((CAT, 0.9, BOX))])
    assert report.counts == {"missed": 1}
    assert report.gains["missed"] == pytest.approx(1 - 51 / 101)
    assert report.by_size["medium"] == {"missed": 1}


@pytest.mark.parametrize("seed", range(3))
def test_ap50_is_cocos_and_every_false_detection_has_a_type(seed):
    boxes, found = random_scene(seed)
    report = errors.evaluate(boxes, found)
    assert report.ap50 == pytest.approx(coco.evaluate(boxes, found).numbers["AP50"], abs=0.02)
    assert set(report.counts) == set(errors.TYPES)
    assert sum(report.by_category.values(), report.counts.__class__()) == report.counts


@pytest.mark.parametrize(
    ("seed", "expected"),
    [(0, (20, 7, 7, 78, 58, 43)), (1, (36, 5, 6, 59, 41, 25)), (2, (24, 3, 7, 67, 47, 30))],
)
def test_counts_are_those_of_the_authors_program(seed, expected):
    boxes, found = random_scene(seed, images=40, crowds=False)  # given to tidecv 1.0.1
    report = errors.evaluate(boxes, found)
    assert tuple(report.counts[kind] for kind in errors.TYPES) == expected


def test_confusions():
    boxes = scene(image([(CAT, BOX), (DOG, (100, 0, 140, 40)), (DOG, (200, 0, 240, 40))]))
    found = detections(
        (DOG, 0.9, BOX),
        (CAT, 0.8, (0, 0, 40, 30)),
        (DOG, 0.7, (100, 0, 140, 40)),
        (CAT, 0.4, (200, 0, 240, 40)),
    )
    matrix = pairing.confusion(boxes, [found], score=0.5)
    expected = np.zeros((5, 5), int)
    expected[CAT, DOG] = expected[DOG, DOG] = expected[DOG, 4] = expected[4, CAT] = 1
    assert (matrix == expected).all()
    crowd = scene(image([Object((0, 0, 100, 100), CAT, crowd=True)]))
    assert pairing.confusion(crowd, [detections((CAT, 0.9, (1, 1, 9, 9)))]).sum() == 0
