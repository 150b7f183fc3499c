"""Runs that train a detector: results, pictures, model file, killing and resuming."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from PIL import Image

from resnets.detection import model
from resnets.detection.detector import LOSSES, Detector
from resnets.detection.objective import DetectionObjective
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.training import run
from resnets.training.run_folder import read_metrics, read_recipe
from resnets.training.trainer import Trainer
from resnets.weights import hub
from tests.detection.shapes import CATEGORIES, draw_boxes, drawn, recipe, settings
from tests.training.test_resume import Quiet

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def start(folder, plan, data):
    return run.start(folder, DetectionObjective(plan, data), CPU, Quiet(), command="test")


def weights(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def test_a_run_learns_and_leaves_a_detector_with_its_result(tmp_path, cache):
    data = drawn(tmp_path / "images", train=10, test=9, empty=(4,))
    plan = recipe(tmp_path, iterations=60, test_every=30, schedule={"kind": "cosine", "lr": 0.05})
    folder = tmp_path / "run"
    summary = start(folder, plan, data).train()
    assert summary["measured"]["images"] == 9
    rows = read_metrics(folder)
    losses = [row["train_loss"] for row in rows if "train_loss" in row]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    for row in rows:
        if "train_loss" in row:
            parts = sum(row[f"loss_{name}"] for name in LOSSES)
            assert parts == pytest.approx(row["train_loss"], abs=1e-3)
    assert [row["step"] for row in rows if "test_AP50" in row] == [30, 60]
    sheets = sorted(path.name for path in (folder / "pictures").iterdir())
    assert sheets == ["detections-00000030.jpg", "detections-00000060.jpg"]
    assert Image.open(folder / "pictures" / sheets[0]).size == (4 * 320, 2 * 320)
    with pytest.raises(UserError, match="is a detector, not a classifier"):
        hub.load(str(folder))
    trained = model.load(str(folder))
    assert isinstance(trained.network, Detector)
    assert trained.classes == list(CATEGORIES)
    image = Image.open(data.test.images[0].path)
    (found,) = model.detect(trained.network, [image], trained.normalize(CPU), CPU)
    assert (found.boxes[:, 2:] <= [48, 40]).all()
    assert (found.scores[:-1] >= found.scores[1:]).all()


def test_a_killed_run_ends_like_one_that_was_not(tmp_path, cache):
    plan = recipe(tmp_path)
    start(tmp_path / "whole", plan, drawn(tmp_path / "images", empty=(2,))).train()
    out = tmp_path / "killed"
    command = [
        sys.executable, "-m", "tests.detection.driver", str(out), str(tmp_path / "images"),
        plan.model_dump_json(),
    ]  # fmt: skip
    with subprocess.Popen([*command, "4"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line == "step 4\n":
                process.kill()
    objective = DetectionObjective(read_recipe(out), drawn(tmp_path / "images", empty=(2,)))
    again = run.resume(out, objective, CPU, Quiet())
    assert again.trainer.step in (3, 4)
    again.train()
    one, other = weights(out), weights(tmp_path / "whole")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    timeless = [
        [{k: v for k, v in row.items() if "second" not in k and k != "data_wait"} for row in rows]
        for rows in (read_metrics(out), read_metrics(tmp_path / "whole"))
    ]
    assert timeless[0] == timeless[1]


def test_a_detector_starts_from_another_one(tmp_path, cache):
    data = drawn(tmp_path / "images")
    start(tmp_path / "run", recipe(tmp_path), data).train()
    first = model.load(str(tmp_path / "run")).network
    renamed = draw_boxes(tmp_path / "more", "train", 4)
    categories = ("blue", "red")
    more = type(data)(
        *(
            type(renamed)(one.images, categories, one.split, one.source)
            for one in (renamed, data.test)
        )
    )
    plan = recipe(tmp_path, init=str(tmp_path / "run"))
    second = DetectionObjective(plan, more).build_network()
    assert torch.equal(second.rpn.conv.weight, first.rpn.conv.weight)
    assert torch.equal(second.network.layer3[0].conv1.weight, first.network.layer3[0].conv1.weight)
    own, other = second.siblings, first.siblings
    assert torch.equal(own.categories.weight[2], other.categories.weight[1])  # red
    assert torch.equal(own.categories.weight[0], other.categories.weight[0])  # background
    assert torch.equal(own.boxes.weight[4:], other.boxes.weight[:4])
    assert not torch.equal(own.categories.weight[1], other.categories.weight[2])


def test_a_detector_starts_from_weights_of_another_program(tmp_path, cache, monkeypatch):
    plan = recipe(tmp_path, init="~/w.pth", network="cifar-resnet8")
    first = hub.load(str(tmp_path / "init.safetensors")).network
    (tmp_path / "home").mkdir()
    torch.save(first.state_dict(), tmp_path / "home" / "w.pth")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made = DetectionObjective(plan, drawn(tmp_path / "images")).build_network()
    assert torch.equal(made.network.layer3[0].conv1.weight, first.layer3[0].conv1.weight)


def test_an_unreadable_test_image_is_named_before_the_first_step(tmp_path, cache):
    data = drawn(tmp_path / "images")
    cut_off(data.test.images[1].path)
    with pytest.raises(
        UserError, match=r"images: 1 of the 3 test images.*test1\.png.*--quarantine"
    ):
        start(tmp_path / "run", recipe(tmp_path), data).train()
    assert not read_metrics(tmp_path / "run")


def test_few_training_images_may_be_unreadable(tmp_path, cache):
    data = drawn(tmp_path / "images")
    cut_off(data.train.images[3].path)
    summary = start(tmp_path / "run", recipe(tmp_path), data).train()
    assert summary["provenance"]["bad_images"] == ["train3.png"]
    cut_off(data.train.images[4].path)
    made = start(tmp_path / "more", recipe(tmp_path), data)
    with pytest.raises(UserError, match=r"2 of 8 training images cannot be read \(25 %; 1 may be"):
        made.train()


def cut_off(path):
    """Leave the start of an image file, which has its size."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_images_that_cannot_be_read_add_nothing(tmp_path, cache):
    data = drawn(tmp_path / "images")
    objective = DetectionObjective(recipe(tmp_path), data)
    network = objective.build_network()
    found = objective.loss(network, torch.zeros(0, 3, 16, 16), [])
    assert [float(value.detach()) for value in found[:3]] == [0, 0, 0]
    found.loss.backward()
    assert all(not p.grad.any() for p in network.parameters() if p.grad is not None)


def test_a_long_gradient_is_shortened(tmp_path, cache):
    data = drawn(tmp_path / "images")
    lengths = []
    for clip in (None, 0.01):
        plan = recipe(tmp_path, optimizer={"clip": clip, "weight_decay": 0.0})
        made = Trainer(DetectionObjective(plan, data), CPU, run.hardware.resolve(plan, CPU))
        before = [p.detach().clone() for p in made.network.parameters()]
        made.update()
        steps = zip(made.network.parameters(), before, strict=True)
        lengths.append(float(sum((p.detach() - b).square().sum() for p, b in steps).sqrt()))
    assert lengths[1] == pytest.approx(0.01 * 0.02, rel=0.01)
    assert lengths[0] > lengths[1]


def test_new_layers_have_a_rate_of_their_own(tmp_path, cache):
    plan = recipe(tmp_path, schedule={"kind": "cosine", "lr": 0.02, "head": 3.0})
    objective = DetectionObjective(plan, drawn(tmp_path / "images"))
    made = Trainer(objective, CPU, run.hardware.resolve(plan, CPU))
    names = {id(p): name for name, p in made.network.named_parameters()}
    scales = {
        names[id(p)].split(".")[0]: group["lr_scale"]
        for group in made.optimizers[0].param_groups
        for p in group["params"]
    }
    assert scales == {"network": 1.0, "rpn": 3.0, "siblings": 3.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_norm": "batch"}, "needs batch_norm = 'frozen'"),
        ({"compile": True}, "compile = true is not for boxes"),
        ({"classes": 2}, "classes does not apply"),
        ({"progressive": {"size": 16, "until": 2}}, "progressive"),
        ({"detection": {"scales": [2.0, 1.0]}}, "scales must rise"),
        ({"detection": {"anchors": []}}, "at least 1 item"),
        ({"detection": {"size": 500, "max_size": 400}}, "max_size must not be below size"),
    ],
)
def test_recipes_that_do_not_fit_boxes_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(tmp_path, **changes)


def test_other_sizes_scale_with_the_shorter_side(tmp_path):
    made = recipe(tmp_path).at_size(80).detection
    assert (made.size, made.max_size, made.anchors) == (80, 160, (24.0, 48.0))
    assert json.loads(made.model_dump_json())["rois"] == 8


def test_the_test_images_may_be_shared_by_processes(tmp_path, cache):
    objective = DetectionObjective(recipe(tmp_path), drawn(tmp_path / "images", test=5))
    network = objective.build_network()
    seen = []
    alone = objective.test(network, CPU, World(), seen.append)
    assert seen == [1, 2, 3, 4, 5]

    def each(action):
        parts = [action(), objective._detect(network, CPU, range(1, 5, 2), seen.append)]
        assert [len(part) for part in parts] == [3, 2]
        return parts

    shared = SimpleNamespace(rank=0, size=2, each=each, broadcast_object=lambda one: one)
    assert objective.test(network, CPU, shared, seen.append).metrics == alone.metrics


def test_images_of_one_size_give_the_same_gradients_one_by_one(tmp_path, cache):
    data, found = drawn(tmp_path / "images"), []
    same_size = settings(scales=(1.0, 1.0)).model_dump(mode="json")
    for micro in (None, 1):
        plan = recipe(tmp_path, micro_batch=micro, detection=same_size)
        made = Trainer(DetectionObjective(plan, data), CPU, run.hardware.resolve(plan, CPU))
        made.update()
        found.append(made.network.rpn.conv.weight.detach().clone())
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)
