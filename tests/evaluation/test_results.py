"""Errors and confusion are exact, whatever the batch size."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resnets.data.cifar import ImageArrays
from resnets.evaluation.evaluator import score_array
from resnets.evaluation.protocols import network_scorer
from resnets.evaluation.results import Result, measure, wilson


class Reads(nn.Module):
    """Answers the class written in the first pixel."""

    def forward(self, x):
        return nn.functional.one_hot(x[:, 0, 0, 0].long(), 10).float()


@given(count=st.integers(1, 60), batch=st.integers(1, 70), seed=st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_every_image_counts_once(count, batch, seed):
    random = np.random.default_rng(seed)
    labels, answers = random.integers(0, 10, (2, count)).astype(np.uint8)
    images = np.zeros((count, 3, 4, 4), np.uint8)
    images[:, 0, 0, 0] = answers
    network = Reads().train()
    score = network_scorer(network, lambda x: x.float(), torch.device("cpu"))
    result = measure(score_array(score, ImageArrays(images, labels), batch=batch), labels, "test")
    expected = np.zeros((10, 10), np.int64)
    np.add.at(expected, (labels, answers), 1)
    assert (result.confusion == expected).all()
    assert result.images == count
    assert result.error == pytest.approx(100 * (labels != answers).mean())
    assert network.training


def test_class_errors():
    confusion = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]])
    errors = Result(confusion, "test").class_errors()
    assert errors[:2] == [20, 50]
    assert np.isnan(errors[2])


def test_class_errors_in_json_are_of_the_classes_shown():
    facts = Result(np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0]]), "test").as_dict("abc")
    assert facts["class_errors"] == {"a": 20, "b": 50}
    assert facts["confusion"] == [[8, 2, 0], [0, 5, 5], [0, 0, 0]]
    assert facts["worst_pairs"] == [
        {"true": "b", "answer": "c", "images": 5, "of": 10},
        {"true": "a", "answer": "b", "images": 2, "of": 10},
    ]
    assert "top5_error" not in facts
    json.dumps(facts, allow_nan=False)


def test_many_classes_have_no_confusion_matrix_in_json():
    result = Result(np.eye(101, dtype=np.int64), "test", 0)
    facts = result.as_dict(["crane", "crane", *map(str, range(99))])
    assert "confusion" not in facts
    assert len(facts["class_errors"]) == 101
    assert "crane (1)" in facts["class_errors"]


@pytest.mark.parametrize(
    ("wrong", "images", "low", "high"),
    [  # from the formula in Wilson 1927; the first two stand in many textbooks
        (5, 10, 23.66, 76.34),
        (0, 10, 0, 27.75),
        (10, 10, 72.25, 100),
        (15, 148, 6.24, 16.05),
        (11125, 50000, 21.89, 22.62),
    ],
)
def test_wilsons_interval(wrong, images, low, high):
    assert wilson(wrong, images) == pytest.approx((low, high), abs=0.005)


@given(classes=st.integers(6, 12), count=st.integers(1, 40), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_top_5_is_that_of_a_stable_sort(classes, count, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 4, (count, classes)).astype(np.float32)  # many equal ones
    labels = random.integers(0, classes, count)
    order = np.argsort(-scores, axis=1, kind="stable")
    result = measure(scores, labels, "test")
    assert result.wrong == (order[:, 0] != labels).sum()
    assert result.wrong5 == (order[:, :5] != labels[:, None]).all(1).sum()


def test_top_5_has_no_meaning_among_five_classes():
    assert measure(np.eye(5, dtype=np.float32), np.zeros(5, np.int64), "test").error5 is None


def test_scores_that_are_not_numbers_are_never_right_among_five():
    assert measure(np.full((3, 7), np.nan, np.float32), np.arange(3), "test").wrong5 == 3
