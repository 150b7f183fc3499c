"""Faster R-CNN's four steps: what each trains, on whose proposals, and resuming in any of them."""

import pytest
import torch

from resnets.detection.alternating import Alternation
from resnets.detection.detector import LOSSES
from resnets.detection.objective import DetectionObjective
from resnets.support.errors import UserError
from resnets.training import hardware, run
from resnets.training.recipe import Recipe
from resnets.training.run_folder import read_metrics
from resnets.training.trainer import Trainer
from tests.detection.shapes import detector, drawn, recipe, settings, target
from tests.training.test_resume import Quiet

CPU = torch.device("cpu")
LENGTH = 2
HASHES = ("2-bc46f795f8c47162", "ed45d96d3c0b899d")
"""Of the recipe below, by the version before these keys."""


def plan_of(tmp_path, **changes):
    own = settings(training="alternating").model_dump(mode="json")
    values = {"iterations": LENGTH, "schedule": {"kind": "linear", "lr": 0.02}, "test_every": 1}
    return recipe(tmp_path, detection=own, **{**values, **changes})


@pytest.fixture
def data(tmp_path):
    return drawn(tmp_path / "images", train=6)


def trainer_of(plan, data, state=None):
    objective = DetectionObjective(plan, data)
    if state is not None:
        objective.resume_with(*state)
    made = Trainer(objective, CPU, hardware.resolve(objective.recipe, CPU))
    if state is not None:
        made.restore(*state)
    return made


def state_of(trainer):
    (tensors, facts), (more, further) = trainer.state(), trainer.objective.state()
    return {k: t.clone() for k, t in (tensors | more).items()}, facts | further


def weights(network):
    """The weights of each part."""
    return {
        name: torch.cat([p.detach().flatten() for m in modules for p in m.parameters()])
        for name, modules in network.parts().items()
    }


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_each_step_trains_its_parts_from_the_weights_it_should(tmp_path, cache, data):
    trainer = trainer_of(plan_of(tmp_path, freeze="stem"), data)
    initial, rates, ends = weights(trainer.network), [], []
    for _ in range(4):
        for _ in range(LENGTH):
            trainer.update()
            rates.append(trainer.last_rate)
        ends.append(weights(trainer.network))
        if len(ends) == 2:
            proposer = weights(trainer.objective._alternation.proposer)
    assert rates == [0.02, 0.01] * 4
    assert changed(initial, ends[0]) == {"layer1", "layer2", "rpn"}
    assert changed(proposer, ends[0]) == set()
    # The second network begins with the initial weights: its RPN still has them.
    assert changed(initial, ends[1]) == {"layer1", "layer2", "layer3", "siblings"}
    assert changed(ends[1], ends[2]) == {"rpn"}
    assert changed(ends[2], ends[3]) == {"layer3", "siblings"}
    assert trainer.objective.state()[0].keys() == {
        "preprocessing.mean"
    }  # nothing else is needed any more


def test_the_second_step_restarts_from_the_initial_weights(tmp_path, cache, data):
    trainer = trainer_of(plan_of(tmp_path), data)
    initial = weights(trainer.network)
    for _ in range(LENGTH):
        trainer.update()
    trainer.objective.begin_stage(trainer.network, 1)
    assert changed(initial, weights(trainer.network)) == set()


def test_training_resumes_bit_for_bit_at_any_step(tmp_path, cache, data):
    plan = plan_of(tmp_path)
    whole = trainer_of(plan, data)
    states = []
    for _ in range(4 * LENGTH):
        states.append(state_of(whole))
        whole.update()
    wanted = whole.network.state_dict()
    for step in (0, 2, 3, 4, 6, 7):
        again = trainer_of(plan, data, states[step])
        assert again.step == step
        while again.step < again.recipe.steps:
            again.update()
        found = again.network.state_dict()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted), step


def test_a_run_is_tested_when_its_network_is_whole(tmp_path, cache, data):
    plan = plan_of(tmp_path)
    objective = DetectionObjective(plan, data)
    made = run.start(tmp_path / "run", objective, CPU, Quiet(), command="test")
    summary = made.train()
    assert summary["iterations"] == 4 * LENGTH
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "test_AP50" in row] == [7, 8]
    kept = {"train_error", *(f"loss_{name}" for name in LOSSES)}
    measured = {row["step"]: kept & row.keys() for row in rows if "train_loss" in row}
    proposals = {f"loss_{name}" for name in LOSSES[:2]}
    regions = kept - proposals
    assert [measured[step] for step in range(1, 9)] == [
        proposals, proposals, regions, regions, proposals, proposals, regions, regions
    ]  # fmt: skip
    assert all(row[key] > 0 for row in rows for key in kept - {"train_error"} if key in row)


def test_a_reading_is_of_one_step(tmp_path, cache, data):
    plan = plan_of(tmp_path, iterations=3, log_every=2)
    run.start(
        tmp_path / "run", DetectionObjective(plan, data), CPU, Quiet(), command="test"
    ).train()
    rows = [row for row in read_metrics(tmp_path / "run") if "train_loss" in row]
    # Every second iteration, and the last one of each step.
    assert [row["step"] for row in rows] == [2, 3, 4, 6, 8, 9, 10, 12]
    assert ["train_error" in row for row in rows] == [False] * 2 + [True] * 2 + [False] * 2 + [
        True
    ] * 2


def test_proposals_alone_are_trained_without_suppression(monkeypatch):
    one = detector()
    monkeypatch.setattr(one, "training_proposals", None)
    one(torch.randn(1, 3, 64, 64), [target([4, 4, 30, 40], size=(64, 64))], part="proposals")


def test_losses_of_one_part_are_those_of_both():
    one, torch_images = detector(), torch.randn(1, 3, 64, 64)
    targets = [target([4, 4, 30, 40], size=(64, 64))]
    both = one(torch_images, targets)
    proposals = one(torch_images, targets, part="proposals")
    for name in LOSSES[:2]:
        assert torch.equal(both[name], proposals[name])
    assert all(proposals[name] == 0 for name in (*LOSSES[2:], "wrong"))
    regions = one(torch_images, targets, part="regions")
    assert all(regions[name] == 0 for name in LOSSES[:2])
    assert all(regions[name] > 0 for name in LOSSES[2:])


def test_regions_of_the_second_step_are_those_of_the_other_network(monkeypatch):
    one, other = detector(), detector()
    with torch.no_grad():
        for parameter in other.network.parameters():
            parameter.mul_(1.1)
    images, targets = torch.randn(1, 3, 64, 64), [target([4, 4, 30, 40], size=(64, 64))]
    seen = []
    choose = one.siblings.choose_regions
    monkeypatch.setattr(
        one.siblings, "choose_regions",
        lambda proposals, *rest, **more: seen.append(proposals) or choose(proposals, *rest, **more),
    )  # fmt: skip
    one(images, targets, part="regions", proposer=other)
    with torch.no_grad():
        maps = other.maps(images)
        (wanted,) = other.training_proposals(*other.rpn(maps), maps, targets)
    assert torch.equal(seen[0], wanted)
    one(images, targets, part="regions")
    assert not torch.equal(seen[1], wanted)


def test_the_other_network_travels_in_checkpoints():
    one = detector()
    tensors = Alternation.from_start(one).tensors()
    again = Alternation.from_checkpoint({**tensors, "network.x": torch.zeros(1)})
    assert again.weights.keys() == one.state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema": 0.9}, "ema does not apply"),
        ({"schedule": {"kind": "plateau", "lr": 0.1}}, "plateau' does not apply"),
        ({"schedule": {"kind": "linear", "lr": 0.1, "gentle_start": {}}}, "gentle_start does not"),
    ],
)
def test_what_stages_cannot_have_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        plan_of(tmp_path, **changes)


def test_a_step_needs_something_to_train(tmp_path, cache, data):
    with pytest.raises(UserError, match="nothing is left to train in step 3 of 4"):
        trainer_of(plan_of(tmp_path, freeze="rpn"), data)


def test_recipes_of_earlier_versions_keep_their_hashes():
    plan = Recipe.model_validate({
        "dataset": "boxes", "init": "resnet50@msra", "iterations": 5, "batch": 2,
        "batch_norm": "frozen", "schedule": {"kind": "cosine", "lr": 0.1},
        "detection": {"rois": 16},
    })  # fmt: skip
    assert plan.content_hash() == HASHES[0]
    assert plan._hash_v1() == HASHES[1]
    assert plan.steps == 5
