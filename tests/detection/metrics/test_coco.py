"""COCO's numbers equal those of pycocotools, also where there is nothing to measure."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from resnets.data.boxes import run_lengths
from resnets.data.boxes.coco import to_json
from resnets.data.boxes.segments import mask_of, masks_of
from resnets.detection.evaluation import evaluate
from resnets.detection.masks import cropped
from resnets.detection.metrics import coco
from resnets.detection.metrics.intervals import bootstrap
from resnets.detection.metrics.matching import match
from tests.conftest import shared_data
from tests.detection.metrics.scenes import detections, image, random_scene, scene


def reference(boxes, found, kind="bbox"):
    """The twelve numbers and the precisions by pycocotools."""
    tools = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = tools.COCO()
        truth.dataset = to_json(boxes, [one.name for one in boxes.images])
        truth.createIndex()
        results = coco.results(boxes, found)
        for one in results if kind == "segm" else ():
            del one["bbox"]  # from which it would take the area
        if results:
            answers = truth.loadRes(results)
        else:
            answers = tools.COCO()
            answers.dataset = {**truth.dataset, "annotations": []}
            answers.createIndex()
        one = evaluation.COCOeval(truth, answers, kind)
        one.evaluate()
        one.accumulate()
        one.summarize()
    return one.stats, one.eval["precision"]


def check(boxes, found, kind="bbox"):
    result = coco.evaluate(boxes, found, kind)
    stats, precision = reference(boxes, found, kind)
    mine = [-1 if value is None else value for value in result.numbers.values()]
    assert mine == pytest.approx(list(stats), abs=1e-9)
    ids = coco.category_ids(boxes)
    for index, name in enumerate(boxes.categories):
        column = precision[:, :, sorted(ids).index(ids[index]), 0, 2]
        if (column < 0).all():
            assert result.categories[name] == (None, None)
        else:
            assert result.categories[name] == pytest.approx((column.mean(), column[0].mean()))
    return result


def with_masks(boxes, found, seed=0):
    """The scene with discs in the boxes of its objects and random shapes in those found."""
    random = np.random.default_rng(seed)
    angles = np.arange(20) * np.pi / 10
    images = []
    for number, one in enumerate(boxes.images):
        objects = []
        for part in one.objects:
            corner, other = np.array(part.box[:2]), np.array(part.box[2:])
            around = np.stack([np.cos(angles), np.sin(angles)], 1) * (other - corner) / 2
            points = (around + (corner + other) / 2).ravel().tolist()
            pixels = mask_of(replace(part, polygons=(tuple(points),)), (400, 300), (400, 300))
            as_runs = {"polygons": None, "rle": run_lengths.encode(pixels)}
            outline = {"polygons": (tuple(points),), "rle": None}
            objects.append(replace(part, **(as_runs if part.crowd or number % 2 else outline)))
        images.append(replace(one, objects=tuple(objects)))
    y, x = (np.mgrid[:14, :14] - 6.5) / 7
    cells = [
        (1.5 - np.hypot(x, y)[None] + random.normal(0, 0.1, (len(one), 14, 14))).clip(0, 1)
        for one in found
    ]
    masks = [
        replace(one, masks=made.astype(np.float32)) for one, made in zip(found, cells, strict=True)
    ]
    return replace(boxes, images=tuple(images)), masks


@pytest.mark.parametrize("seed", range(3))
def test_numbers_of_masks_equal_those_of_pycocotools(seed):
    boxes, found = with_masks(*random_scene(seed))
    result = check(boxes, found, "segm")
    assert 0.1 < result.numbers["AP"] < 0.9
    measured = evaluate(boxes, found, "coco")
    assert measured.numbers["mask_AP"] == result.numbers["AP"]
    assert measured.categories[0].precision["mask_AP50"] == result.categories["cat"][1]
    assert evaluate(boxes, found, "voc07").numbers.keys() == {"mAP"}
    whole = random_scene(seed)[0]  # without segments
    assert "mask_AP" not in evaluate(whole, found, "coco").numbers


def test_masks_of_real_objects_survive_their_cells():
    """Segments of COCO, crowds among them, in 14 x 14 cells of their boxes."""
    from resnets.data.boxes.datasets import open_boxes

    boxes = open_boxes(shared_data("coco-samples"), "test")
    random, found = np.random.default_rng(0), []
    for one in boxes.images:
        objects = [part for part in one.objects if not part.crowd]
        hits = detections(*[(part.category, random.random(), part.box) for part in objects])
        pixels = torch.from_numpy(masks_of(one, objects, (one.width, one.height)))
        cells = cropped(pixels, torch.arange(len(objects)), torch.from_numpy(hits.boxes))
        found.append(replace(hits, masks=cells.numpy()))
    result = check(boxes, found, "segm")
    assert result.numbers["AP"] > 0.95
    assert result.numbers["AP50"] == 1


def test_masks_whose_number_is_another_are_refused():
    boxes, found = with_masks(*random_scene(0, images=2))
    wrong = [replace(one, masks=np.zeros((len(one) + 1, 14, 14), np.float32)) for one in found]
    with pytest.raises(ValueError, match="masks and scores differ in number"):
        coco.evaluate(boxes, wrong, "segm")


@pytest.mark.parametrize("seed", range(6))
def test_numbers_equal_those_of_pycocotools(seed):
    result = check(*random_scene(seed))
    assert 0.1 < result.numbers["AP"] < 0.9
    assert result.categories["yak"] == (None, None)  # detected, but there is none


def test_numbers_where_there_is_little_to_measure():
    boxes, _ = random_scene(9, images=3)
    nothing = [detections()] * 3
    check(boxes, nothing)
    assert coco.evaluate(boxes, nothing).numbers["AP"] == 0
    empty = scene(image([]), image([], 1))
    check(empty, [detections((0, 0.5, [1, 1, 9, 9])), detections()])
    assert coco.evaluate(empty, [detections()] * 2).numbers["AP"] is None


def test_real_annotations_with_crowds():
    from resnets.data.boxes.datasets import open_boxes

    boxes = open_boxes(shared_data("coco-samples"), "test")
    random = np.random.default_rng(0)
    found = []
    for one in boxes.images:
        hits = [
            (o.category, random.random(), np.array(o.box) + random.normal(0, 4, 4))
            for o in one.objects
            for _ in range(2)
        ]
        found.append(detections(*hits))
    check(boxes, found)


def test_detections_that_do_not_fit_are_refused():
    boxes = scene(image([(0, (1, 1, 9, 9))]))
    wrong = [
        [],
        [detections((4, 0.5, [1, 1, 9, 9]))],
        [detections((-1, 0.5, [1, 1, 9, 9]))],
        [detections((0, np.nan, [1, 1, 9, 9]))],
        [detections((0, 0.5, [1, 1, 9, np.inf]))],
    ]
    for found in wrong:
        with pytest.raises(ValueError, match=r"images|category|finite"):
            coco.evaluate(boxes, found)


@pytest.mark.parametrize("seed", range(4))
def test_matches_give_the_same_average_precision(seed):
    boxes, found = random_scene(seed)
    result = coco.evaluate(boxes, found)
    for name, one in zip(boxes.categories, match(boxes, found), strict=True):
        ap, ap50 = result.categories[name]
        mine = one.average_precision()
        if ap is None:
            assert np.isnan(mine).all()
        else:
            assert mine.mean() == pytest.approx(ap, abs=1e-9)
            assert mine[0] == pytest.approx(ap50, abs=1e-9)


def test_images_that_count_twice_are_like_images_that_are_there_twice():
    boxes, found = random_scene(1, images=8)
    # Apart in score, so that the order of the two copies does not matter.
    twice = scene(*boxes.images, *boxes.images[:3])
    doubled = match(twice, [*found, *found[:3]])
    weights = np.array([2] * 3 + [1] * 5)
    for one, two in zip(match(boxes, found), doubled, strict=True):
        np.testing.assert_allclose(
            one.average_precision(weights), two.average_precision(), atol=0.05
        )


def test_curve_of_a_hand_made_example():
    boxes = scene(image([(0, (0, 0, 10, 10)), (0, (20, 0, 30, 10))]))
    hits = detections(
        (0, 0.9, [0, 0, 10, 10]), (0, 0.8, [50, 0, 60, 10]), (0, 0.7, [20, 0, 30, 10])
    )
    recall, precision, scores = match(boxes, [hits])[0].curve()
    assert recall.tolist() == [0.5, 0.5, 1]
    assert precision == pytest.approx([1, 1 / 2, 2 / 3])
    assert scores == pytest.approx([0.9, 0.8, 0.7])


def test_the_interval_holds_the_value_and_is_repeatable():
    boxes, found = random_scene(2, images=40)
    numbers = coco.evaluate(boxes, found).numbers
    intervals = bootstrap(boxes, found, resamples=200)
    for name in ("AP", "AP50"):
        low, high = intervals[name]
        assert low < numbers[name] < high
        assert high - low < 0.3
    assert bootstrap(boxes, found, resamples=200) == intervals
    few, few_found = random_scene(2, images=10)
    low, high = bootstrap(few, few_found, resamples=200)["AP"]
    assert high - low > intervals["AP"][1] - intervals["AP"][0]
    low, _ = bootstrap(scene(image([])), [detections()], resamples=5)["AP"]
    assert np.isnan(low)
