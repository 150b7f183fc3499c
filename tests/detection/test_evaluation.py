"""What is measured of a detector: categories by name, metrics with their intervals."""

import json
from dataclasses import replace

import numpy as np
import pytest

from resnets.data.boxes.annotations import Object
from resnets.detection import evaluation
from resnets.detection.metrics import pairing, voc
from resnets.detection.metrics.intervals import bootstrap_voc
from resnets.support.errors import UserError
from tests.detection.metrics.scenes import detections, image, random_scene, scene


@pytest.mark.parametrize("metric", evaluation.METRICS)
def test_results_are_whole_and_json(metric):
    boxes, found = random_scene(3)
    result = evaluation.evaluate(boxes, found, metric)
    low, high = result.intervals[result.headline]
    assert low <= result.numbers[result.headline] <= high
    facts = json.loads(json.dumps(result.as_dict()))
    assert len(facts["confusion"]) == len(boxes.categories) + 1
    assert sum(facts["errors"].values()) > 0
    for one in result.categories:
        if one.curve is not None:
            assert one.curve.shape == (101,)
            assert (np.diff(one.curve) <= 1e-12).all()
    if metric != "coco":
        expected = voc.evaluate(boxes, found, evaluation.YEARS[metric]).map
        assert facts["mAP"] == pytest.approx(100 * expected, abs=1e-3)


@pytest.mark.parametrize("year", [2007, 2012])
def test_images_drawn_twice_count_twice(year):
    boxes, found = random_scene(5)
    truths = [voc.Truth.of(one) for one in boxes.images] * 2
    one = voc.outcomes(truths[: len(boxes)], found, 0)
    two = voc.outcomes(truths, [*found, *found], 0)
    weights = np.full(len(boxes), 2)
    assert voc.average_precision(
        one.right, int(weights @ one.positives), year, weights[one.images]
    ) == pytest.approx(voc.average_precision(two.right, int(two.positives.sum()), year), abs=0.05)
    interval = bootstrap_voc(boxes, found, year, resamples=50)["mAP"]
    assert 0 <= interval[0] < interval[1] <= 1


def test_categories_are_matched_by_name():
    boxes = scene(image([(0, (0, 0, 9, 9))]))
    names = list(boxes.categories)
    table, others = evaluation.category_table(["horse", *reversed(names)], boxes, "data")
    assert table.tolist() == [-1, *reversed(range(len(names)))]
    assert others == ["horse"]
    found = detections((0, 0.9, (0, 0, 9, 9)), (len(names), 0.8, (0, 0, 9, 9)))
    assert evaluation.with_categories(found, table).categories.tolist() == [0]
    with pytest.raises(UserError, match=f"data: the detector knows horse, not {names[0]}"):
        evaluation.category_table(["horse"], boxes, "data")
    unused = replace(boxes, categories=(*names, "unicorn"))
    assert evaluation.category_table(names, unused, "data")[1] == []


def test_unknown_metrics_are_refused():
    with pytest.raises(UserError, match=r"unknown metric 'voc7'; did you mean voc07"):
        evaluation.check_metric("voc7")


def test_the_worst_images_come_first():
    good = image([(0, (0, 0, 9, 9))])
    bad = image([(0, (0, 0, 9, 9)), (1, (20, 20, 30, 30))])
    boxes = scene(good, bad, good)
    right = detections((0, 0.9, (0, 0, 9, 9)))
    wrong = detections((1, 0.9, (0, 0, 9, 9)), (0, 0.8, (50, 50, 60, 60)), (0, 0.2, (1, 1, 9, 9)))
    shown = pairing.worst(boxes, [right, wrong, right], 5)
    assert [one for one, _ in shown] == [boxes.images[1]]
    paired = shown[0][1]
    assert (paired.errors, paired.confused, paired.false, paired.missed) == (3, [(0, 0)], [1], [1])


def test_crowds_and_difficult_objects_are_no_errors():
    boxes = scene(image(objects=[Object((0, 0, 9, 9), 0, difficult=True)]))
    for found in (detections(), detections((0, 0.9, (0, 0, 9, 9)))):
        assert not pairing.pair(boxes.images[0], found).errors
