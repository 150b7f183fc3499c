"""The trainer and the run know only the objective: here one that is not a classification."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from resnets.data.preprocessing import Preprocessing
from resnets.evaluation.results import Result
from resnets.support.errors import UserError
from resnets.training import recipe_file, run
from resnets.training.hardware import Settings
from resnets.training.objective import (
    IGNORE_INDEX,
    BatchLoss,
    Objective,
    TestMetrics,
    make_objective,
    refuse_unfit_init,
)
from resnets.training.run_folder import read_metrics
from resnets.training.trainer import Trainer
from resnets.weights import hub, model_file
from tests.training.test_resume import Quiet, make_recipe

CPU = torch.device("cpu")


class Brightness(Objective):
    """Regression of an image's mean; its targets are a dictionary, unlike labels."""

    preprocessing = Preprocessing(8, 8, mean=torch.zeros(3, 1, 1))
    fingerprint = "noise"

    def __init__(self, plan):
        super().__init__(plan, train_images=40, test_images=10)

    def describe(self):
        return "40 images of noise"

    def build_network(self):
        torch.manual_seed(self.recipe.seed)
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), pooled, nn.Linear(4, 1))

    def batches(self, parts, device, processes=1):
        def batch(step, part=0):
            first, last = parts[part]
            generator = torch.Generator().manual_seed(step)
            images = torch.randn(self.recipe.batch, 3, 8, 8, generator=generator)[first:last]
            return images, {"mean": images.mean((1, 2, 3))}

        batch.bad, batch.close = {}, lambda: None
        batch.epoch_of = lambda step: step * self.recipe.batch / self.train_images
        return batch

    def loss(self, forward, images, targets):
        off = (forward(images)[:, 0] - targets["mean"]).square()
        return BatchLoss(off.sum(), (off.detach() > 0.1).float().sum(), torch.tensor(len(images)))

    def test(self, network, device, world, progress):
        progress(self.test_images)
        return TestMetrics(
            {"test_distance": 0.5}, {"dataset": "noise", "distance": 0.5}, "distance 0.5"
        )

    def card(self, provenance, measured):
        return model_file.make_card("cifar-resnet8", ["brightness"], provenance, [measured])


def test_a_run_trains_an_objective_of_another_kind(tmp_path):
    recipe = make_recipe(batch=8, micro_batch=4, iterations=6, test_every=3, log_every=1)
    made = run.start(tmp_path / "run", Brightness(recipe), CPU, Quiet(), command="test")
    summary = made.train()
    assert summary["measured"] == {"dataset": "noise", "distance": 0.5}
    assert summary["provenance"]["data"] == "noise"
    rows = read_metrics(tmp_path / "run")
    assert [r["test_distance"] for r in rows if "test_distance" in r] == [0.5, 0.5]
    assert all(math.isfinite(r["train_loss"]) for r in rows if "train_loss" in r)
    again = run.resume(tmp_path / "run", Brightness(recipe), CPU, Quiet())
    assert again.trainer.step == 6


def test_an_objective_whose_loss_cannot_be_captured_refuses_graphs(tmp_path):
    settings = Settings("fp32", False, False, graphs=True)
    with pytest.raises(
        UserError, match=r"graphs = true is only for classification; .*graphs=false"
    ):
        Trainer(Brightness(make_recipe(batch=8)), CPU, settings)


@pytest.mark.parametrize(("split", "kind"), [("50k/10k", "test"), ("45k/5k", "held-out")])
def test_the_headline_names_the_kind_of_error(tiny, split, kind):
    objective = make_objective(make_recipe(), tiny)
    confusion = np.eye(10, dtype=np.int64) * 9
    confusion[3, 5] = 10
    metrics = objective._metrics(Result(confusion, "one view"), dataset="cifar10", split=split)
    assert metrics.headline == f"{kind} error 10.00 %"


def test_a_blank_image_adds_nothing_to_the_loss(tiny):
    objective = make_objective(make_recipe(), tiny)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, IGNORE_INDEX, 2])

    def forward(pixels):
        return pixels.flatten(1)[:, :10]

    whole = objective.loss(forward, images, labels)
    shown = labels != IGNORE_INDEX
    part = objective.loss(forward, images[shown], labels[shown])
    torch.testing.assert_close(whole.loss, part.loss)
    assert int(whole.images) == int(part.images) == 3
    empty = objective.loss(forward, images[:0], labels[:0])
    assert [float(value) for value in empty[:3]] == [0, 0, 0]


def test_an_objective_resolves_its_recipe_once(tiny):
    plan = make_recipe(iterations=None, epochs=2, batch=50, test_every=1, progressive=None)
    objective = make_objective(plan, tiny)
    assert objective.plan is plan
    assert objective.recipe.steps == round(2 * objective.train_images / 50)
    assert Trainer(objective, CPU, Settings("fp32", False, False)).recipe is objective.recipe


def test_weights_of_another_network_are_refused_before_they_are_downloaded(monkeypatch):
    monkeypatch.setattr(hub, "fetch", lambda name: pytest.fail(f"{name} is downloaded"))
    plan = recipe_file.load("finetune", [], {"network": "resnet18"})
    with pytest.raises(UserError, match="are of a resnet50, not of a resnet18; use --network res"):
        refuse_unfit_init(plan)
    refuse_unfit_init(recipe_file.load("finetune"))
    refuse_unfit_init(recipe_file.load("finetune", [], {"network": "resnet50"}))
    with pytest.raises(UserError, match="unknown model 'nope'"):
        refuse_unfit_init(recipe_file.load("finetune", [], {"init": "nope"}))
