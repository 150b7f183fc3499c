"""Frozen parts: they stay as they were, cost nothing, and mix with everything else in a recipe."""

import pytest
import torch

from resnets.data import folders
from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.training import run
from resnets.training.frozen import freeze
from resnets.training.hardware import Settings
from resnets.training.objective import make_objective
from resnets.training.trainer import Trainer
from tests.conftest import draw_photos
from tests.training.test_photo_runs import (
    EVERYTHING,
    Stopping,
    equal,
    make_recipe,
    resume,
    save_model,
    start,
    weights,
)

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path, cache):
    root = tmp_path / "photos"
    draw_photos(root / "train", {"ant": 12, "bee": 12, "cow": 12})
    draw_photos(root / "val", {"ant": 3, "bee": 2, "cow": 4}, seed=1)
    return folders.load(root)


@pytest.fixture
def given(tmp_path):
    """The path of a model, and its weights."""
    path = tmp_path / "given.safetensors"
    return path, save_model(path, ["a", "b"]).state_dict()


def fine_tuning(given, **changes):
    return make_recipe(**{"network": "", "init": str(given[0]), "epochs": 1, **changes})


def changed(before, after):
    """The parts whose tensors differ."""

    def part(name):
        return "stem" if name.startswith(("conv1", "bn1")) else name.split(".")[0]

    return {part(n) for n, t in after.items() if n in before and (t.shape != before[n].shape
            or not torch.equal(t, before[n]))}  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "learning"),
    [
        ("stem,layer1", {"layer2", "layer3", "fc"}),
        ("stem, layer2", {"layer1", "layer3", "fc"}),
        ("all but fc", {"fc"}),
        ("all but layer3, fc", {"layer3", "fc"}),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, EVERYTHING, {"kernels": False}])
def test_frozen_parts_stay_and_the_rest_learns(tmp_path, data, given, chosen, learning, changes):
    recipe = fine_tuning(given, **{**changes, "freeze": chosen})
    start(tmp_path / "run", recipe, data).train()
    assert changed(given[1], weights(tmp_path / "run")) == learning


def test_frozen_parts_use_their_statistics_and_get_no_gradient(data, given):
    settings = Settings(precision="fp32", channels_last=True, compile=False)
    trainer = Trainer(make_objective(fine_tuning(given, freeze="all but fc"), data), CPU, settings)
    images, _targets = trainer.batch()
    trainer.update()
    network = trainer.network
    assert [n for n, p in network.named_parameters() if p.grad is not None] == [
        "fc.weight", "fc.bias",
    ]  # fmt: skip
    twin = zoo.build("cifar-resnet8", 3)
    twin.load_state_dict(
        {**given[1], **{k: t for k, t in network.state_dict().items() if "fc" in k}}
    )
    layer3 = network.features(images)["layer3"]
    assert not layer3.requires_grad  # nothing to compute in the backward pass
    torch.testing.assert_close(layer3, twin.eval().features(images)["layer3"])


def test_captured_updates_keep_frozen_parts(data, given):
    networks = []
    for graphs in (False, True):
        settings = Settings(precision="fp32", channels_last=True, compile=False, graphs=graphs)
        recipe = fine_tuning(given, freeze="stem,layer1,layer2", ema=0.9)
        trainer = Trainer(make_objective(recipe, data), CPU, settings)
        for _ in range(3):
            trainer.update()
        networks.append(trainer.network.state_dict())
        assert changed(given[1], trainer.average.tensors) == {"layer3", "fc"}
    assert equal(*networks)


def test_a_stopped_run_with_frozen_parts_ends_like_one_that_was_not(tmp_path, data, given):
    recipe = fine_tuning(given, freeze="stem,layer1", ema=0.9, epochs=3)
    start(tmp_path / "whole", recipe, data).train()
    out = tmp_path / "stopped"
    with pytest.raises(run.Interrupted):
        start(out, recipe, data, Stopping()).train()
    given[0].unlink()
    resume(out, data).train()
    assert equal(weights(out), weights(tmp_path / "whole"))


def test_muon_with_frozen_parts(data, given):
    recipe = fine_tuning(given, freeze="all but fc", optimizer={"muon": {}})
    settings = Settings(precision="fp32", channels_last=True, compile=False)
    trainer = Trainer(make_objective(recipe, data), CPU, settings)
    trainer.update()
    assert changed(given[1], trainer.network.state_dict()) == {"fc"}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("stem,layer4", "no part 'layer4'"),
        ("all but head", "no part 'head'"),
        ("", "no part ''"),
        ("stem,layer1,layer2,layer3,fc", "nothing is left to train"),
    ],
)
def test_an_unknown_part_is_one_line(chosen, message):
    with pytest.raises(UserError, match=message) as caught:
        freeze(zoo.build("cifar-resnet8"), chosen)
    if "part '" in message:
        assert caught.value.hint == "its parts: stem, layer1, layer2, layer3, fc"


@pytest.mark.parametrize("name", ["cifar-resnet8", "resnet50", "cifar-preact110"])
def test_the_parts_are_the_whole_network(name):
    network = zoo.build(name)
    parts = [p for modules in network.parts().values() for m in modules for p in m.parameters()]
    assert sorted(map(id, parts)) == sorted(map(id, network.parameters()))


def test_freezing_needs_trained_weights():
    with pytest.raises(ValueError, match="needs an init"):
        make_recipe(freeze="stem")
