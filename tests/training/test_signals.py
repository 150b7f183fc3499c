"""`resnets signals`: signals and gradients in the course of a training."""

import pytest
import torch

from resnets.analysis.signals import measure
from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.training import hardware
from resnets.training.objective import make_objective
from resnets.training.signals import measure_training
from resnets.training.trainer import Trainer
from tests.training.test_resume import make_recipe

CPU = torch.device("cpu")


def small_recipe(**changes):
    return make_recipe(progressive=None, **changes)


def test_signals_are_those_of_the_new_and_of_the_trained_network(tiny):
    recipe = small_recipe()
    reported = []
    found = measure_training(recipe, tiny, CPU, [4, 0], reported.append)
    assert list(found) == [0, 4]
    assert reported == [1, 2, 3, 4]
    torch.manual_seed(recipe.seed)
    fresh = zoo.build(recipe.network)
    objective = make_objective(recipe, tiny)
    images, labels = objective.batches([(0, recipe.batch)], CPU)(recipe.steps)
    assert_close(found[0], measure(fresh, images, labels))

    settings = hardware.resolve(recipe, CPU)
    training = Trainer(objective, CPU, settings)
    for _ in range(4):
        training.update()
    assert_close(found[4], measure(training.network, images, labels))
    assert found[4] != found[0]


def assert_close(one, other):
    assert [s.layer for s in one] == [s.layer for s in other]
    for mine, theirs in zip(one, other, strict=True):
        for key in ("input", "forward", "gradient", "weight_gradient"):
            assert getattr(mine, key) == pytest.approx(getattr(theirs, key), rel=1e-3)


def test_measuring_does_not_change_the_training(tiny):
    recipe = small_recipe()
    often = measure_training(recipe, tiny, CPU, [0, 1, 2, 3])
    assert measure_training(recipe, tiny, CPU, [3])[3] == often[3]


@pytest.mark.parametrize("steps", [[], [-1], [0, 10_000]])
def test_steps_outside_the_recipe_are_refused(tiny, steps):
    with pytest.raises(UserError, match=r"steps to measure at|the recipe has"):
        measure_training(small_recipe(), tiny, CPU, steps)


def test_a_training_that_diverges_is_an_error(tiny, monkeypatch):
    monkeypatch.setattr(Trainer, "rate", 1e30)
    with pytest.raises(UserError, match="diverged before iteration 4"):
        measure_training(small_recipe(), tiny, CPU, [0, 4])
