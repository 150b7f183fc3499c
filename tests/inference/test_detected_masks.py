"""Masks in Python and in drawings."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import resnets
from resnets.data.boxes import run_lengths
from resnets.data.boxes.annotations import Object
from resnets.data.boxes.segments import mask_of
from resnets.detection.metrics.detections import Detections, Thresholds
from resnets.inference.tiles import detect as in_tiles
from tests.detection.files import noisy_blocks, save_detector


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("masks") / "shapes.safetensors", masks=True)


@pytest.fixture(scope="module")
def model(path):
    return resnets.load(str(path), device="cpu", precision="fp32")


@pytest.fixture
def image(tmp_path):
    noisy_blocks((300, 200)).save(tmp_path / "blocks.png")
    return tmp_path / "blocks.png"


def test_masks_are_arrays_of_the_images_size(model, image):
    (found,) = model.predict(image, score=0.3)
    assert found.objects
    for one in found.objects:
        assert one.mask.shape == (200, 300)
        assert one.mask.dtype == bool
        ys, xs = np.nonzero(one.mask)
        x1, y1, x2, y2 = one.box
        assert xs.min() + 1 > x1
        assert xs.max() < x2
        assert ys.min() + 1 > y1
        assert ys.max() < y2
        facts = one.as_dict()
        assert (run_lengths.decode(facts["segmentation"]) == one.mask).all()
        outlines = [mask_of(each, (300, 200), (300, 200)) for each in as_objects(facts)]
        drawn = np.logical_xor.reduce(outlines)
        assert (drawn & one.mask).sum() > 0.85 * (drawn | one.mask).sum()
        assert "cells" not in repr(one)


def as_objects(facts):
    return [Object((0, 0, 1, 1), 0, polygons=(tuple(one),)) for one in facts["polygons"]]


def test_boxes_are_those_of_a_detector_without_masks(model, image, tmp_path):
    plain = resnets.load(str(save_detector(tmp_path / "p.safetensors")), device="cpu",
                         precision="fp32")  # fmt: skip
    (one,), (other,) = (each.predict(image, score=0.3) for each in (model, plain))
    assert one.objects == other.objects
    assert other.objects[0].mask is None
    assert other.objects[0].polygons is None
    assert "segmentation" not in other.objects[0].as_dict()


def test_drawings_tint_the_masks(model, image):
    (found,) = model.predict(image, score=0.3)
    found = replace(found, objects=found.objects[:1])
    boxes_only = replace(found, objects=[replace(found.objects[0], cells=None)])
    drawn, plain = (np.asarray(each.draw(image), int) for each in (found, boxes_only))
    changed = (drawn != plain).any(2)
    assert changed.sum() > 0.7 * found.objects[0].mask.sum()
    assert not (changed & ~found.objects[0].mask).any()


def test_tiles_keep_the_masks_of_their_boxes():
    whole = Image.new("RGB", (200, 100))

    def find(part):
        if part.size == whole.size:
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, int),
                              np.zeros((0, 14, 14), np.float32))  # fmt: skip
        box = np.array([[20, 30, 60, 70]], np.float32)
        return Detections(box, np.ones(1, np.float32), np.zeros(1, int), np.ones((1, 14, 14)))

    found = in_tiles(find, whole, 100, Thresholds(0.5, 0.3, 10))
    assert len(found) == len(found.masks) == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_image_without_objects_has_no_masks(path, image, precision):
    one = resnets.load(str(path), device="cpu", precision=precision)
    assert one.predict(image, score=1.0)[0].objects == []
    found = one.engine.detect_pixels(np.asarray(Image.open(image)), one.thresholds(1.0))
    assert found.masks.shape == (0, 14, 14)
