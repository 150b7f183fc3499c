"""Signals and gradients: against a direct computation, and in the course of a training."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional as F

from resnets.analysis import drawing
from resnets.analysis.deepen import deepened
from resnets.analysis.signals import follow, measure
from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.training import hardware
from resnets.training.objective import make_objective
from resnets.training.trainer import Trainer
from tests.analysis.nets import ALL, batches, network, same, state
from tests.training.test_resume import make_recipe

CPU = torch.device("cpu")


def small_recipe(**changes):
    return make_recipe(progressive=None, **changes)


@pytest.mark.parametrize(
    "kind", ["A", "plain", "bottleneck C", "small", "highway", "pre", "pre bottleneck"]
)
def test_signals_equal_a_direct_computation(kind):
    net = network(kind)
    images, labels = batches((8,))[0], torch.arange(8) % 5
    before = state(net)
    found = measure(net, images, labels)
    assert same(before, state(net))
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())
    assert not net.training

    net.train().requires_grad_(True)
    seen = {}
    net.layer2[0].conv1.register_forward_hook(lambda m, i, o: seen.update(input=i[0]))
    after = net.layer2[0].bn2 if kind.startswith("pre") else net.layer2[0].bn1
    after.register_forward_hook(lambda m, i, o: seen.update(out=o))
    loss = F.cross_entropy(net(images), labels, reduction="sum")
    seen["out"].retain_grad()
    loss.backward()
    signal = next(s for s in found if s.layer == "layer2.0.conv1")
    weight = net.layer2[0].conv1.weight
    assert signal.stage == "layer2"
    assert signal.input == pytest.approx(float(seen["input"].detach().std(correction=0)), rel=1e-4)
    assert signal.forward == pytest.approx(float(seen["out"].detach().std(correction=0)), rel=1e-4)
    rms = float(seen["out"].grad.square().mean().sqrt())
    assert signal.gradient == pytest.approx(rms, rel=1e-4)
    relative = float(weight.grad.norm() / weight.detach().norm()) / len(images)
    assert signal.weight_gradient == pytest.approx(relative, rel=1e-4)


def test_signals_of_branches_that_give_zero_can_be_written_as_json():
    deep = deepened(network("pre"), replace(ALL["pre"], depths=(2, 3)))
    found = measure(deep, batches((8,))[0], torch.arange(8) % 5)
    added = next(s for s in found if s.layer == "layer1.1.conv2")
    assert added.forward == 0
    assert added.gradient > 0
    assert added.weight_gradient is None
    json.dumps([asdict(signal) for signal in found], allow_nan=False)


def test_bn_keeps_the_signals_of_a_fresh_plain_network_alive():
    torch.manual_seed(0)
    net = zoo.build("cifar-plain56")
    found = measure(net, batches((8,))[0], torch.arange(8))
    assert len(found) == 55
    for signal in found:
        assert signal.forward == pytest.approx(1, abs=0.02)  # BN's gamma is 1, beta 0
        assert math.isfinite(signal.gradient)
        assert signal.gradient > 0


def test_following_measures_the_fresh_network_and_the_trained_one(tiny):
    recipe = small_recipe()
    told = []
    found = follow(recipe, tiny, CPU, [4, 0], told.append)
    assert list(found) == [0, 4]
    assert told == [1, 2, 3, 4]
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


def test_measuring_on_the_way_changes_nothing_of_the_training(tiny):
    recipe = small_recipe()
    often = follow(recipe, tiny, CPU, [0, 1, 2, 3])
    assert follow(recipe, tiny, CPU, [3])[3] == often[3]


@pytest.mark.parametrize("steps", [[], [-1], [0, 10_000]])
def test_steps_outside_the_recipe_are_refused(tiny, steps):
    with pytest.raises(UserError, match=r"steps to measure at|the recipe has"):
        follow(small_recipe(), tiny, CPU, steps)


def test_a_training_that_diverges_is_said_to(tiny, monkeypatch):
    monkeypatch.setattr(Trainer, "rate", 1e30)
    with pytest.raises(UserError, match="diverged before iteration 4"):
        follow(small_recipe(), tiny, CPU, [0, 4])


def test_both_pictures_are_png():
    found = measure(network("plain"), batches((4,))[0], torch.arange(4))
    one = drawing.signals_png([("cifar-plain8", True, {0: found, 5: found})])
    two = drawing.responses_png([("a", True, [1.0, 2.0]), ("b", False, [0.5, 0.7, 0.2])])
    assert one.startswith(b"\x89PNG")
    assert two.startswith(b"\x89PNG")
