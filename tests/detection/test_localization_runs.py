"""Runs that train a localizer: learning, tests, model file, killing and resuming, bad input."""

import re
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from resnets.data.boxes.annotations import Object
from resnets.data.boxes.one_class import LocalizationBatches, labelled
from resnets.data.datasets import BoxSplits, open_data
from resnets.detection import localizer_evaluation, localizer_model
from resnets.detection.localization import LocalizationObjective
from resnets.detection.localizer import LOSSES, Localizer
from resnets.inference.object_detector import is_detector, open_detector
from resnets.support.distributed import World
from resnets.support.errors import UserError
from resnets.training import run
from resnets.training.run import Interrupted
from resnets.training.run_folder import read_metrics, read_recipe
from resnets.weights import hub
from tests.detection.localization import CLASSES, classifier, drawn, recipe
from tests.training.test_resume import Quiet

CPU = torch.device("cpu")


def start(folder, plan, data, observer=None):
    objective = LocalizationObjective(plan, data)
    return run.start(folder, objective, CPU, observer or Quiet(), command="test")


def evaluate(model, boxes, views):
    return localizer_evaluation.evaluate(
        model.network, boxes, model.classes, model.preprocessing,
        views=views, device=CPU, world=World(), progress=lambda images: None,
    )  # fmt: skip


def weights(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def test_a_run_learns_and_leaves_a_localizer_with_its_result(tmp_path, cache):
    data = drawn(tmp_path / "images", train=96, test=45)
    plan = recipe(
        tmp_path, iterations=80, batch=16, test_every=80, checkpoint_seconds=600,
        schedule={"kind": "cosine", "lr": 0.05, "warmup": 5},
    )  # fmt: skip
    objective = LocalizationObjective(plan, data)
    before = objective.test(objective.build_network(), CPU, World(), lambda images: None)
    assert before.measured["localization_error"] > 85
    folder = tmp_path / "run"
    summary = start(folder, plan, data).train()
    measured = summary["measured"]
    assert measured["localization_error"] < 45
    assert measured["images"] == 45
    assert measured["error"] == before.measured["error"]  # the classifier stays as it was
    assert "top5_localization_error" not in measured  # of three classes
    rows = read_metrics(folder)
    for row in rows:
        if "train_loss" in row:
            parts = sum(row[f"loss_{name}"] for name in LOSSES)
            assert parts == pytest.approx(row["train_loss"], abs=1e-3)
    assert rows[-1]["test_error"] == round(measured["localization_error"], 3)
    with pytest.raises(UserError, match="is a localizer, not a classifier"):
        hub.load(str(folder))
    with pytest.raises(UserError, match="is a classifier, not a localizer"):
        localizer_model.load(str(tmp_path / "init.safetensors"))
    trained = localizer_model.load(str(folder))
    assert isinstance(trained.network, Localizer)
    assert trained.classes == list(CLASSES)
    result = evaluate(trained, data.test, "center")
    assert result.as_dict(CLASSES)["localization_error"] == measured["localization_error"]
    assert is_detector(str(folder))
    (found,) = open_detector(str(folder)).predict(str(data.test.images[0].path), score=0)
    assert [one.name for one in found.objects] != []
    assert sum(one.score for one in found.objects) == pytest.approx(1, abs=1e-4)
    assert all(0 <= v <= 40 for one in found.objects for v in one.box)


@pytest.mark.parametrize("views", ["center", "dense"])
@pytest.mark.parametrize("processes", [1, 2])
def test_boxes_of_all_views_are_those_of_the_image(tmp_path, cache, monkeypatch, views, processes):
    data = drawn(tmp_path / "images", test=5, size=(36, 36))
    objective = LocalizationObjective(recipe(tmp_path), data)
    localizer = objective.build_network().eval()

    def see(images, classes):
        """The bounds of what is bright in the class's colour, in pixels of the view."""
        boxes = torch.zeros(*classes.shape, 4)
        for row, picture in enumerate(images):
            for column, label in enumerate(classes[row].tolist()):
                rows, columns = torch.nonzero(picture[label] > 0.6, as_tuple=True)
                if len(rows):
                    low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
                    boxes[row, column] = torch.tensor([*low, *high])
        return torch.zeros(classes.shape), boxes

    monkeypatch.setattr(localizer, "locate", see)
    plain = replace(
        objective.preprocessing, mean=torch.zeros(3, 1, 1), std=torch.ones(3, 1, 1)
    )  # fmt: skip

    class Another(World):
        """One process of two; the other one's part is computed on the way."""

        def each(self, action):
            return [action(), tested(World(1, 2))]

    def tested(world):
        seen = []
        own = range(world.rank, 5, world.size)
        labels = labelled(data.test).labels
        shown = localizer_evaluation.protocols.make(views, localizer.classifier, plain)
        tester = localizer_evaluation._Tester(localizer, shown, plain.normalize(CPU), CPU)
        found = tester.all(data.test.images, labels, own, seen.append)
        assert seen[-1] == len(own)
        return found

    world = World() if processes == 1 else Another(0, 2)
    result = localizer_evaluation.evaluate(
        localizer, data.test, CLASSES, plain,
        views=views, device=CPU, world=world, progress=lambda images: None,
    )  # fmt: skip
    assert result.images == 5
    assert not result.given.any()


def test_a_stopped_run_ends_like_one_that_was_not(tmp_path, cache):
    plan, data = recipe(tmp_path), drawn(tmp_path / "images")
    start(tmp_path / "whole", plan, data).train()

    class Stopping(Quiet):
        def stepped(self, step):
            if step == 4:
                made._stop = 15

    made = start(tmp_path / "stopped", plan, data, Stopping())
    with pytest.raises(Interrupted):
        made.train()
    (tmp_path / "init.safetensors").unlink()
    objective = LocalizationObjective(read_recipe(tmp_path / "stopped"), data)
    again = run.resume(tmp_path / "stopped", objective, CPU, Quiet())
    assert again.trainer.step == 4
    again.train()
    one, other = weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_micro_batches_give_the_same_gradients(tmp_path, cache):
    data = drawn(tmp_path / "images")
    runs = {}
    for parts in (8, 2):
        plan = recipe(tmp_path, iterations=2, test_every=2, micro_batch=parts, kernels=False)
        start(tmp_path / str(parts), plan, data).train()
        runs[parts] = weights(tmp_path / str(parts))
    for key, tensor in runs[8].items():
        torch.testing.assert_close(runs[2][key], tensor, atol=1e-5, rtol=1e-4)


def test_targets_are_on_the_objects_of_their_crops(tmp_path, cache):
    data = drawn(tmp_path / "images", train=12)
    plan = recipe(tmp_path, batch=12)
    objective = LocalizationObjective(plan, data)
    batches = objective.batches([(0, 12)], CPU)
    assert isinstance(batches, LocalizationBatches)
    images, (labels, targets) = batches(3)
    batches.close()
    normalize = objective.preprocessing.normalize(CPU)
    pixels = images * normalize.std + normalize.mean
    seen = 0
    for picture, label, one in zip(pixels, labels.tolist(), targets, strict=True):
        assert one.labels.tolist() == [label] * len(one.boxes)
        for x1, y1, x2, y2 in one.boxes.round().int().tolist():
            inside = picture[label, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
            outside = picture[label].clone()
            outside[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = 0
            assert inside.min() > 0.7
            assert outside.max() < 0.5
            seen += 1
    assert seen >= 10


def test_an_image_that_cannot_be_read_has_no_target(tmp_path, cache):
    data = drawn(tmp_path / "images", train=8)
    data.train.images[2].path.write_bytes(b"")
    batches = LocalizationObjective(recipe(tmp_path), data).batches([(0, 8)], CPU)
    images, (labels, targets) = batches(0)
    batches.close()
    assert len(images) == len(labels) == len(targets) == 7
    assert [*batches.bad] == ["train2.png"]


def test_boxes_of_two_classes_are_refused(tmp_path, cache):
    data = drawn(tmp_path / "images")
    image = data.train.images[1]
    more = replace(image, objects=(*image.objects, Object((0, 0, 9, 9), 2)))
    images = (data.train.images[0], more)
    with pytest.raises(UserError, match=r"boxes of 2 classes \(green, blue\).*train1\.png|train1"):
        labelled(replace(data.train, images=images))


def test_images_without_a_box_are_left_out_and_counted(tmp_path, cache):
    data = drawn(tmp_path / "images")
    first, *others = data.train.images
    bare = replace(data.train, images=(replace(first, objects=()), *others))
    objective = LocalizationObjective(recipe(tmp_path), BoxSplits(bare, data.test))
    assert objective.train_images == 23
    assert "1 image without a box left out" in objective.describe()


def test_a_classifier_of_more_classes_keeps_the_outputs_of_these(tmp_path, cache):
    names = ("a", "blue", "green", "b", "red")
    model = hub.load(str(classifier(tmp_path / "more.safetensors", names)))
    plan = recipe(tmp_path, init=str(tmp_path / "more.safetensors"))
    made = LocalizationObjective(plan, drawn(tmp_path / "images")).build_network()
    assert torch.equal(made.classifier.fc.weight, model.network.fc.weight[[4, 2, 1]])
    assert torch.equal(made.network.layer2[0].conv1.weight, model.network.layer2[0].conv1.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_norm": "batch"}, "needs batch_norm = 'frozen'"),
        ({"classes": 2}, "classes does not apply"),
        ({"label_smoothing": 0.1}, "label_smoothing does not apply"),
        ({"compile": True}, "compile = true is not for localization"),
        ({"localization": {"object_iou": 0.2}}, "background_iou must not be above"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(tmp_path, cache, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe(tmp_path, **changes)


def test_a_classifier_of_other_classes_is_refused(tmp_path, cache):
    classifier(tmp_path / "other.safetensors", ("red", "yellow"))
    plan = recipe(tmp_path, init=str(tmp_path / "other.safetensors"))
    objective = LocalizationObjective(plan, drawn(tmp_path / "images"))
    with pytest.raises(UserError, match=r"does not know green, blue.*train one on the same"):
        objective.build_network()


def test_tiny_imagenet_is_read_with_its_table(tmp_path, cache):
    lines = ["split\twnid\tfile\tx0\ty0\tx1\ty1"]
    for split, seed in (("train", 0), ("val", 1)):
        for name in ("n1", "n2"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}_0.JPEG")
            lines.append(f"{split}\t{name}\t{name}_0.JPEG\t1\t2\t7\t7")
    table = tmp_path / "data" / "boxes.tsv"
    table.write_text("\n".join(lines) + "\n")
    (tmp_path / "data" / "classes.tsv").write_text("wnid\tname\nn1\tfish\n")
    found = open_data("localization", str(tmp_path / "data"))
    assert found.train.categories == ("n1", "n2")
    assert [image.name for image in found.test.images] == ["val/n1/n1_0.JPEG", "val/n2/n2_0.JPEG"]
    assert found.train.images[0].objects[0].box == (1, 2, 8, 8)  # the last pixel belongs to it
    table.write_text("\n".join([*lines, "train\tn1\tmissing.JPEG\t0\t0\t1\t1"]) + "\n")
    with pytest.raises(UserError, match=r"does not exist: train/n1/missing\.JPEG"):
        open_data("localization", str(tmp_path / "data"))
    table.write_text("\n".join([*lines, "train\tn1\tn1_0.JPEG\t0\t0\t1"]) + "\n")
    with pytest.raises(UserError, match="line 6: has 6 cells instead of 7"):
        open_data("localization", str(tmp_path / "data"))
