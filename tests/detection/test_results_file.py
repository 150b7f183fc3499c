"""Detections in COCO's format: written and read, by ids or names; faults are named."""

import json

import numpy as np
import pytest

from resnets.data.boxes import run_lengths
from resnets.data.boxes.annotations import AnnotatedImage, BoxSet
from resnets.detection import results_file
from resnets.detection.metrics import coco
from resnets.support.errors import UserError
from tests.detection.metrics.scenes import random_scene
from tests.detection.metrics.test_coco import with_masks

ROW = {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.fixture
def boxes(tmp_path):
    names = ["a/one.jpg", "b/one.jpg", "two.jpg"]
    images = [
        AnnotatedImage(tmp_path / name, name, 40, 30, (), number)
        for name, number in zip(names, (7, 8, 9), strict=True)
    ]
    return BoxSet(tuple(images), ("cat", "dog"), "test", "COCO JSON", (3, 5))


def read(tmp_path, boxes, *rows):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    return results_file.read(path, boxes)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_written_measures_the_same(tmp_path, seed):
    boxes, found = random_scene(seed)
    path = tmp_path / "results.json"
    results_file.write(path, boxes, found)
    again, left_out, unmasked = results_file.read(path, boxes)
    assert (left_out, unmasked) == (0, 0)
    before, after = (coco.evaluate(boxes, one).numbers for one in (found, again))
    assert before == pytest.approx(after, abs=1e-6)


def test_masks_that_are_written_measure_the_same(tmp_path):
    boxes, found = with_masks(*random_scene(1))
    path = tmp_path / "results.json"
    results_file.write(path, boxes, found)
    again = results_file.read(path, boxes).detections
    before, after = (coco.evaluate(boxes, one, "segm").numbers for one in (found, again))
    assert before == pytest.approx(after, abs=1e-6)
    rows = json.loads(path.read_text())
    for row in rows[::2]:  # the lengths as a list, as some programs write them
        flat = run_lengths.decode(row["segmentation"]).T.ravel()
        edges = np.flatnonzero(np.diff(flat, prepend=0))
        counts = np.diff(edges, prepend=0, append=len(flat)).tolist()
        row["segmentation"] = {"size": [300, 400], "counts": counts}
    path.write_text(json.dumps(rows))
    again = results_file.read(path, boxes).detections
    assert coco.evaluate(boxes, again, "segm").numbers == pytest.approx(after)
    del rows[3]["segmentation"]  # an entry without a mask
    rows[5]["segmentation"] = [[1, 1, 9, 1, 9, 9]]  # and one with a polygon
    path.write_text(json.dumps(rows))
    content = results_file.read(path, boxes)
    assert all(one.masks is None for one in content.detections)
    assert content.unmasked == 2


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [9, 9], "counts": [81]}, {"size": [30, 40], "counts": [7]}, {},
        {"size": [30, 40], "counts": None}, {"size": [30, 40], "counts": 1200},
        {"size": [30, 40], "counts": {}}, {"size": [30, 40], "counts": [None]},
        {"size": [30, 40], "counts": [1200.5, -0.5]},
        {"size": [30, 40], "counts": "\u20ac"}, {"size": None, "counts": [1200]},
    ],
)  # fmt: skip
def test_masks_that_cannot_be_decoded_are_named_with_their_place(tmp_path, boxes, segmentation):
    with pytest.raises(UserError, match=r"\[0\]: has a segmentation that cannot be decoded"):
        read(tmp_path, boxes, {**ROW, "segmentation": segmentation})


def test_ids_and_names_find_images_and_categories(tmp_path, boxes):
    found, left_out, unmasked = read(
        tmp_path, boxes, ROW,
        {**ROW, "image_id": 1, "file_name": "/data/b/one.jpg", "category": "dog", "score": 0.9},
        {**ROW, "file_name": "two.jpg"}, {**ROW, "file_name": "unknown.jpg"},
        {**ROW, "category": "horse"},
    )  # fmt: skip
    assert [len(one) for one in found] == [1, 1, 1]
    assert (left_out, unmasked) == (2, 0)
    assert found[1].categories.tolist() == [1]
    assert np.allclose(found[0].boxes, [[1, 2, 4, 6]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "image_id": 1}, r"results\.json, \[0\]: image_id 1 is not the id"),
        ({**ROW, "category_id": 1}, "category_id 1 is not the id of a category"),
        ({**ROW, "bbox": [1, 2, 3]}, "no bbox of four numbers"),
        ({**ROW, "bbox": [1, 2, -3, 4]}, "negative size"),
        ({**ROW, "score": "0.5"}, "score is '0.5', not a number"),
        ({**ROW, "file_name": "one.jpg"}, "several images are called one.jpg"),
        ({**ROW, "file_name": "x.jpg"}, "none of its 1 detections is of these images"),
        (3, "is not a JSON object"),
    ],
)
def test_faults_are_named_with_their_place(tmp_path, boxes, row, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, boxes, row)


def test_other_json_is_refused(tmp_path, boxes):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=r"not a list of detections.*--save-scores"):
        results_file.read(path, boxes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("val/000000397133.jpg", 397133), ("a.jpg", "a.jpg"), ("x/12a.png", "x/12a.png")],
)
def test_ids_of_images_without_annotations(name, expected):
    assert results_file.file_id(name) == expected
