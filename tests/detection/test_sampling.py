"""Labels of anchors and regions, and the choice among them."""

import torch
from torchvision.models.detection._utils import Matcher

from resnets.detection.sampling import BACKGROUND, UNUSED, choose, label_boxes
from tests.detection.shapes import target

SIZE = (100, 100)
RPN, REGIONS = Matcher(0.7, 0.3, allow_low_quality_matches=True), Matcher(0.5, 0.5)


def labels(boxes, matcher, *objects, lowest=0.0, **facts):
    one = target(*objects, size=SIZE, **facts)
    return label_boxes(torch.tensor(boxes, dtype=torch.float32), one, matcher, lowest).labels


def test_thresholds_decide_and_the_best_box_always_counts():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [50, 50, 60, 60]]
    found = labels(boxes, RPN, [0, 0, 10, 10], labels=[1])
    assert found.tolist() == [2, 2, UNUSED, BACKGROUND]
    assert labels([[0, 0, 10, 5], [90, 90, 99, 99]], RPN, [0, 0, 10, 10]).tolist() == [1, 0]


def test_an_object_without_any_overlap_matches_nothing():
    assert labels([[0, 0, 10, 10], [20, 0, 30, 10]], RPN, [80, 80, 90, 90]).tolist() == [0, 0]


def test_images_without_objects_are_background():
    assert labels([[0, 0, 10, 10]], REGIONS, lowest=0.1).tolist() == [BACKGROUND]
    assert labels([[0, 0, 10, 10]], REGIONS, [50, 50, 60, 60], lowest=0.1).tolist() == [UNUSED]


def test_boxes_on_crowds_and_difficult_objects_are_unused():
    boxes = [[0, 0, 10, 10], [0, 0, 30, 30], [0, 0, 40, 40], [70, 70, 90, 90]]
    found = labels(boxes, REGIONS, [0, 0, 20, 20], [70, 70, 90, 90], ignore=[True, False])
    assert found.tolist() == [UNUSED, BACKGROUND, BACKGROUND, 1]
    assert labels(boxes, REGIONS, [0, 0, 99, 99], ignore=[True]).tolist() == [UNUSED] * 4


def test_objects_give_their_boxes():
    one = target([0, 0, 10, 10], [50, 50, 60, 60], size=SIZE)
    found = label_boxes(torch.tensor([[50.0, 50, 60, 61]]), one, REGIONS)
    assert found.objects.tolist() == [[50, 50, 60, 60]]


def test_the_choice_is_of_its_generator_alone():
    marks = torch.tensor([1] * 10 + [0] * 100 + [UNUSED] * 10)

    def chosen(seed, count=32):
        torch.rand(seed)  # other random numbers do not matter
        return choose(marks, count, 0.25, torch.Generator().manual_seed(seed))

    assert torch.equal(chosen(1), chosen(1))
    assert not torch.equal(chosen(1), chosen(2))
    assert (marks[chosen(1)] == 1).sum() == 8
    assert len(chosen(1)) == len(set(chosen(1).tolist())) == 32
    assert (marks[chosen(1, 1000)] >= 0).all()
    assert len(chosen(1, 1000)) == 110
