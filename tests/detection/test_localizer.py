"""The localizer against small examples by hand: anchors, sampling, decoding, merging, the error."""

import math

import numpy as np
import pytest
import torch

from resnets.data.augmentation import Crop
from resnets.data.boxes.one_class import boxes_in_crop
from resnets.detection.localizer import Localizer
from resnets.detection.localizer_evaluation import merged
from resnets.detection.metrics.localization_error import Located, measure_localization
from resnets.models import zoo
from resnets.training.recipe import Localization
from tests.detection.shapes import target


def localizer(classes=3, **changes):
    torch.manual_seed(0)
    settings = Localization(**{"anchors": (16.0,), "ratios": (1.0,), **changes})
    pair = [zoo.build("cifar-resnet8", classes) for _ in range(2)]
    made = Localizer(*pair, settings)
    made.reset_parameters()
    return made.eval()


def test_anchors_are_centred_on_the_cells_and_have_the_ratios():
    made = localizer(anchors=(16.0, 8.0), ratios=(0.25, 1.0))
    assert made.stride == 4
    found = made.anchors(torch.zeros(1, 64, 2, 3))
    wide = [[-16, -4, 16, 4], [-8, -2, 8, 2]]  # a height of a quarter of the width, same area
    square = [[-8, -8, 8, 8], [-4, -4, 4, 4]]
    assert found[:4].tolist() == [*wide, *square]
    assert found[4:8].tolist() == [[x1 + 4, y1, x2 + 4, y2] for x1, y1, x2, y2 in wide + square]
    assert found[12:16].tolist() == [[x1, y1 + 4, x2, y2 + 4] for x1, y1, x2, y2 in wide + square]


def test_every_class_has_scores_and_codes_of_its_own():
    made = localizer(classes=3, anchors=(8.0, 16.0))
    maps = torch.randn(2, 64, 3, 2)
    classes = torch.tensor([[2, 0], [1, 1]])
    logits, codes = made.siblings(maps, classes)
    cells = maps.flatten(2).mT
    every = made.objectness(cells).view(2, 6, 3, 2)  # cells, classes, anchors
    boxes = made.codes(cells).view(2, 6, 3, 2, 4)
    for row in range(2):
        for column in range(2):
            own = classes[row, column]
            expected = every[row, :, own].reshape(-1)
            torch.testing.assert_close(logits[row, column], expected)
            torch.testing.assert_close(codes[row, column], boxes[row, :, own].reshape(-1, 4))


def test_half_of_the_anchors_are_on_the_object():
    anchors = torch.tensor([[x, 0.0, x + 10, 10] for x in range(20)])
    # IoU with the object from 0 to 10: of the anchor at x: (10 - x) / (10 + x).
    one = target((0, 0, 10, 10), size=(40, 40))
    found = localizer(object_iou=0.6, background_iou=0.3).choose(anchors, [one])
    chosen, on_object = found.anchors[0], found.objects[0]
    assert found.used.all()
    # At least 0.6: x = 0, 1, 2; below 0.3: from x = 6 (4/16); between, x = 3, 4, 5, none is taken.
    assert sorted(chosen[on_object].tolist()) == [0, 1, 2]
    assert (chosen[~on_object] >= 6).all()
    assert len(set(chosen.tolist())) == 8
    many = localizer(object_iou=0.3, background_iou=0.3).choose(anchors, [one])
    assert many.objects.sum() == 4


def test_codes_are_those_of_faster_rcnn():
    anchors = torch.tensor([[0.0, 0, 10, 20], [100, 100, 110, 110]])
    one = target((1, 2, 13, 18), size=(40, 40))
    found = localizer().choose(anchors, [one])
    at = int(torch.nonzero(found.objects[0])[0, 0])
    assert found.anchors[0, at] == 0  # the best one, although its IoU is below 0.7
    expected = [2 / 10, 0, math.log(12 / 10), math.log(16 / 20)]
    assert found.codes[0, at].tolist() == pytest.approx(expected, abs=1e-6)
    assert found.used[0].tolist() == [True, True] + [False] * 6


def test_without_a_visible_object_all_anchors_are_background():
    anchors = torch.tensor([[0.0, 0, 10, 10], [30, 30, 40, 40]])
    nothing = target(size=(40, 40))
    assert not localizer().choose(anchors, [nothing]).objects.any()
    hidden = target((0, 0, 10, 10), size=(40, 40), ignore=[True])
    found = localizer().choose(anchors, [hidden])
    assert found.anchors[0][found.used[0]].tolist() == [1]


def test_the_loss_is_a_mean_over_the_anchors_and_of_the_true_class_only():
    made = localizer(classes=3)
    for layer in (made.objectness, made.codes):
        torch.nn.init.zeros_(layer.weight)
    made.objectness.bias.data = torch.tensor([5.0, 0.0, -5.0])
    one = target((0, 0, 14, 14), size=(32, 32))
    images = torch.zeros(2, 3, 32, 32)
    found = made(images, torch.tensor([1, 1]), [one, one])
    assert found["objectness"].item() == pytest.approx(2 * math.log(2), abs=1e-5)
    made.train()
    made(images, torch.tensor([1, 1]), [one, one])["objectness"].backward()
    used = made.objectness.bias.grad != 0
    assert used.tolist() == [False, True, False]
    assert all(parameter.grad is None for parameter in made.classifier.parameters())


def test_a_box_is_decoded_from_the_best_anchor_and_clipped():
    made = localizer(classes=2)
    for layer in (made.objectness, made.codes):
        torch.nn.init.zeros_(layer.weight)
    # The first anchor is the best of equals: centre 0, 0 and side 16. Class 1 is moved by half of
    # the side and twice as wide: centre 8, 0, width 32.
    made.codes.bias.data = torch.tensor([0.0, 0, 0, 0, 0.5, 0, math.log(2), 0])
    made.objectness.bias.data = torch.tensor([0.0, 1.5])
    scores, boxes = made.locate(torch.zeros(1, 3, 32, 32), torch.tensor([[1, 0]]))
    assert scores[0].tolist() == pytest.approx([1.5, 0.0])
    torch.testing.assert_close(boxes[0], torch.tensor([[0.0, 0, 24, 8], [0, 0, 8, 8]]))


def test_boxes_follow_crop_and_mirror():
    crop = Crop((10.0, 20.0, 50.0, 60.0), 0, False, np.zeros(3, np.float32))
    boxes, shares = boxes_in_crop([(20, 30, 30, 50), (0, 40, 20, 80), (60, 60, 70, 70)], crop, 80)
    assert boxes[:2].tolist() == [[20, 20, 40, 60], [0, 40, 20, 80]]
    assert boxes[2].tolist() == [80, 80, 80, 80]
    assert shares.tolist() == pytest.approx([1, 0.25, 0])
    mirrored = Crop(crop.box, 0, True, crop.shift)
    boxes, shares = boxes_in_crop([(20, 30, 30, 50)], mirrored, 80)
    assert boxes.tolist() == [[40, 20, 60, 60]]
    assert shares.tolist() == [1]


def test_views_are_merged_around_the_box_with_most_support():
    boxes = torch.tensor([[0.0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.3, 0.6, 0.8])
    # The third has the highest score, the first two support each other with 0.9.
    expected = torch.tensor([(0.3 * 0 + 0.6 * 2) / 0.9, 0, (0.3 * 10 + 0.6 * 12) / 0.9, 10])
    torch.testing.assert_close(merged(scores, boxes), expected)
    torch.testing.assert_close(merged(scores[2:], boxes[2:]), boxes[2])


def test_the_error_is_that_of_ilsvrc():
    classes = 7
    probabilities = np.zeros((4, classes), np.float32)
    probabilities[:, :] = np.linspace(0.7, 0.1, classes)  # class 0 first, then 1, ...
    answers = np.tile(np.arange(5), (4, 1))
    boxes = np.zeros((4, 5, 4), np.float32)
    boxes[:] = (0, 0, 10, 10)
    labels = np.array([0, 4, 1, 6])
    boxes[2, 1] = (0, 0, 10, 20)  # IoU of exactly 0.5 with the object of image 2: right
    own = np.array([(0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 20), (0, 0, 10, 10)], np.float32)
    objects = [
        [(0, 0, 10, 10)],
        [(30, 30, 40, 40), (0, 0, 10, 19.9)],  # the second object of the class is located
        [(0, 0, 10, 10)],
        [(0, 0, 10, 10)],  # located, but not among the five classes
    ]
    result = measure_localization(
        Located(probabilities, answers, boxes, own), labels, objects, "test"
    )
    assert result.five.tolist() == [False, False, False, True]
    assert result.first.tolist() == [False, True, True, True]
    assert result.given.tolist() == [False, False, False, False]
    assert (result.classification.wrong, result.classification.wrong5) == (3, 1)
    boxes[2, 1] = own[2] = (0, 0, 10, 20.1)
    result = measure_localization(
        Located(probabilities, answers, boxes, own), labels, objects, "test"
    )
    assert result.five.tolist() == [False, False, True, True]
    assert result.given.tolist() == [False, False, True, False]
    facts = result.as_dict([str(number) for number in range(classes)])
    assert facts["localization_error"] == 25
    assert facts["top5_localization_error"] == 50
    assert facts["error"] == 75
    low, high = facts["top5_localization_error_interval"]
    assert (low, high) == pytest.approx((15.0036, 84.9964), abs=1e-3)
