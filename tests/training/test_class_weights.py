"""Weights of classes in the loss: their formula, their gradient, their record, their mistakes."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resnets.data import folders
from resnets.support.errors import UserError
from resnets.training import recipe_file
from resnets.training.class_weights import class_weights
from resnets.training.objective import IGNORE_INDEX, make_objective
from tests.conftest import draw_photos
from tests.training.test_photo_runs import make_recipe, start


@pytest.fixture
def data(tmp_path, cache):
    root = tmp_path / "photos"
    draw_photos(root / "train", {"ant": 12, "bee": 4, "cow": 2})
    draw_photos(root / "val", {"ant": 3, "bee": 2, "cow": 4}, seed=1)
    return folders.load(root)


def test_balanced_weights_are_scikit_learns():
    labels = np.array([0] * 12 + [1] * 4 + [2] * 2)
    weights = class_weights("balanced", ["ant", "bee", "cow"], labels)
    assert weights.tolist() == [18 / (3 * 12), 18 / (3 * 4), 18 / (3 * 2)]
    assert weights[labels].mean() == 1
    absent = class_weights("balanced", ["ant", "bee", "cow", "dog"], labels.astype(np.uint8))
    assert absent.tolist() == [*weights.tolist(), 1]


@pytest.mark.parametrize("chosen", ["balanced", {"cow": 5, "ant": 0.25}])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_those_of_torchs_weighted_loss(data, chosen, smoothing):
    objective = make_objective(make_recipe(class_weights=chosen, label_smoothing=smoothing), data)
    weights = [0.5, 1.5, 3.0] if chosen == "balanced" else [0.25, 1.0, 5.0]
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 0, 1, 2, 0, IGNORE_INDEX, 1])
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = objective.loss(lambda images: ours, torch.zeros(7, 3, 8, 8), targets)
    loss.loss.backward()
    F.cross_entropy(
        theirs, targets, torch.tensor(weights), reduction="sum", label_smoothing=smoothing
    ).backward()
    assert torch.equal(ours.grad, theirs.grad)
    plain = make_objective(make_recipe(), data).loss(lambda images: logits, targets, targets)
    assert plain.loss != loss.loss
    assert (plain.error, plain.images) == (loss.error, loss.images)  # errors are not weighted


def test_the_weights_are_in_summary_and_card(tmp_path, data):
    recipe = make_recipe(class_weights="balanced", epochs=1)
    summary = start(tmp_path / "run", recipe, data).train()
    expected = {"ant": 0.5, "bee": 1.5, "cow": 3.0}
    assert summary["provenance"]["class_weights"] == expected
    assert summary["provenance"]["recipe"]["class_weights"] == "balanced"
    stored = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert stored["provenance"]["class_weights"] == expected


def test_an_unknown_class_is_one_line(data):
    with pytest.raises(UserError, match=r"no class 'bea'") as caught:
        make_objective(make_recipe(class_weights={"bea": 2.0}), data)
    assert "bee" in caught.value.hint


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("class_weights=ballanced", "should be 'balanced' or a table of classes, not 'ballanced'"),
        ("class_weights={}", "should be 'balanced' or a table of classes"),
        (
            "class_weights.ant=-1",
            "the weight of 'ant' should be from 0.000001 to 1,000,000, not -1",
        ),
        (
            "class_weights.ant=true",
            "the weight of 'ant' should be from 0.000001 to 1,000,000, not True",
        ),
        (
            "class_weights.ant=nan",
            "the weight of 'ant' should be from 0.000001 to 1,000,000, not nan",
        ),
        ("class_weights.ant=0", "the weight of 'ant' should be from 0.000001 to 1,000,000, not 0"),
        (
            "class_weights.ant=inf",
            "the weight of 'ant' should be from 0.000001 to 1,000,000, not inf",
        ),
        (
            "class_weights.ant=1e300",
            "the weight of 'ant' should be from 0.000001 to 1,000,000, not 1e+300",
        ),
        (
            "class_weights.ant=1e-50",
            "the weight of 'ant' should be from 0.000001 to 1,000,000, not 1e-50",
        ),
    ],
)
def test_mistakes_in_a_recipe_are_one_line(setting, message):
    with pytest.raises(UserError) as caught:
        recipe_file.load("finetune", [setting])
    assert message in str(caught.value)
    assert "--set class_weights" in str(caught.value)


def test_settings_name_classes():
    recipe = recipe_file.load("finetune", ["class_weights.ant=2", "class_weights.bee=0.5"])
    assert recipe.class_weights == {"ant": 2, "bee": 0.5}
    unset = recipe_file.load("finetune", ["class_weights=none"])
    assert unset.content_hash() == recipe_file.load("finetune").content_hash()
