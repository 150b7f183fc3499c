"""Segments: run lengths are COCO's, polygons fill the pixels they hold, masks follow the image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnets.data.boxes import run_lengths
from resnets.data.boxes.annotations import Object
from resnets.data.boxes.batches import DetectionBatches, Views
from resnets.data.boxes.conversion import convert
from resnets.data.boxes.datasets import read_source
from resnets.data.boxes.rescaling import Rescaling
from resnets.data.boxes.segments import filled, mask_of
from tests.detection.shapes import disc, draw_discs

SIDES = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**32), st.booleans())
def test_run_lengths_are_those_of_pycocotools(height, width, x, y, seed, full):
    tools = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(seed)
    window = (random.random((height, width)) < (1 if full else random.random())).astype(np.uint8)
    whole = np.zeros((y + height + seed % 2, x + width + seed % 3), np.uint8)
    whole[y : y + height, x : x + width] = window
    found = run_lengths.encode(window, (x, y), whole.shape)
    wanted = tools.encode(np.asfortranarray(whole))
    assert found == {"size": [*whole.shape], "counts": wanted["counts"].decode()}
    assert (run_lengths.decode(found) == whole).all()
    assert run_lengths.encode(whole > 0) == found


def test_a_run_without_end_is_refused():
    with pytest.raises(ValueError, match="too long"):
        run_lengths.decode({"size": [2, 2], "counts": "o" * 10**6})


def test_a_polygon_holds_the_pixels_whose_centres_are_inside():
    corners = np.array([[2.4, 3], [10.4, 3], [10.4, 8], [2.4, 8]])
    mask = filled(corners, 12, 10)
    assert mask[3:8, 2:10].all()
    assert mask.sum() == 5 * 8
    star = np.array([[5, 0], [8, 10], [0, 4], [10, 4], [2, 10]], float)
    assert not filled(star, 10, 10)[5, 5]  # even-odd, as COCO's
    assert filled(corners * 1e4, 12, 10).sum() == 0
    assert filled(np.array([[-1e6, -1e6], [1e6, -1e6], [1e6, 1e6], [-1e6, 1e6]]), 12, 10).all()
    assert filled(np.array([[1, 1], [5, 1], [9, 1.0]]), 12, 10).sum() == 0


@pytest.mark.parametrize("seed", range(5))
def test_polygons_are_nearly_those_of_pycocotools(seed):
    tools = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(seed)
    angles, radii = np.sort(random.random(9) * 2 * np.pi), random.uniform(20, 45, 9)
    points = np.stack([60 + radii * np.cos(angles), 50 + radii * np.sin(angles)], 1)
    (rle,) = tools.frPyObjects([points.ravel().tolist()], 100, 120)
    wanted = run_lengths.decode({**rle, "counts": rle["counts"].decode()}) > 0
    found = filled(points, 120, 100)
    assert (found & wanted).sum() > 0.94 * (found | wanted).sum()


def test_polygons_and_run_lengths_are_scaled_with_the_image():
    one = disc(30, 20, 15)
    as_runs = Object(one.box, 0, rle=run_lengths.encode(mask_of(one, (60, 50), (60, 50))))
    assert (mask_of(as_runs, (60, 50), (60, 50)) == mask_of(one, (60, 50), (60, 50))).all()
    for new in ((33, 21), (150, 101)):
        outline, runs = (mask_of(each, (60, 50), new) for each in (one, as_runs))
        assert outline.shape == runs.shape == new[::-1]
        assert (outline & runs).sum() > 0.95 * (outline | runs).sum()
        assert outline.sum() == pytest.approx(np.pi * 15**2 * new[0] / 60 * new[1] / 50, rel=0.03)


def test_masks_of_batches_are_flipped_and_scaled_with_their_images(tmp_path):
    boxes = draw_discs(tmp_path, "train", 16)
    alone = boxes.images[::2]  # others have two discs, of which one may cover the other
    batches = DetectionBatches(
        images=alone, batch=4, seed=3, device=torch.device("cpu"),
        views=Views(Rescaling(70, 100), (0.7, 1.3)), normalize=lambda x: x.float(), masks=True,
        threads=1,
    )  # fmt: skip
    flips = set()
    for step in range(4):
        images, targets = batches(step)
        for pixels, target in zip(images, targets, strict=True):
            height, width = target.size
            assert target.masks.shape == (len(target.boxes), height, width)
            for mask, box, category in zip(target.masks, target.boxes, target.labels, strict=True):
                seen = pixels[category, :height, :width] > 140
                both = (seen & (mask > 0)).sum()
                assert both > 0.85 * mask.sum()
                columns, rows = mask.any(0).nonzero()[:, 0], mask.any(1).nonzero()[:, 0]
                around = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                np.testing.assert_allclose(box, around, atol=1)
            flips.add(bool(target.boxes[0, 0] > width / 2))
    batches.close()
    assert flips == {True, False}


def test_batches_without_masks_have_none(tmp_path):
    boxes = draw_discs(tmp_path, "train", 2)
    batches = DetectionBatches(
        images=boxes.images, batch=2, seed=3, device=torch.device("cpu"),
        views=Views(Rescaling(70, 100)), normalize=lambda x: x.float(), threads=1,
    )  # fmt: skip
    assert all(target.masks is None for target in batches(0)[1])
    batches.close()


def test_conversion_to_yolo_keeps_outlines_of_one_part(tmp_path):
    boxes = draw_discs(tmp_path / "drawn", "train", 4)
    first, second = boxes.images[1].objects
    halves = (first.polygons[0][:40], first.polygons[0][40:])
    objects = (replace(first, polygons=halves), second)
    changed = replace(boxes.images[1], objects=objects)
    boxes = replace(boxes, images=(boxes.images[0], changed, *boxes.images[2:]))
    lines = convert({"train": boxes}, tmp_path / "yolo", "yolo")
    assert lines == ["1 segment written as boxes only"]
    again = read_source(tmp_path / "yolo").train.entries
    assert sum(one.polygons is None for entry in again for one in entry.objects) == 1
    whole = boxes.images[0].objects[0].polygons[0]
    (read,) = again[0].objects[0].polygons
    np.testing.assert_allclose(np.reshape(read, (-1, 2)) * [64, 56], np.reshape(whole, (-1, 2)),
                               atol=1e-5)  # fmt: skip
    assert convert({"train": boxes}, tmp_path / "voc", "voc") == [
        "6 segments written as boxes only"
    ]
