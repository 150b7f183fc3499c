"""Runs on photographs: resumption, bad images, weights to start from, every switch at once."""

import json
import signal

import pytest
import torch

from resnets.data import folders
from resnets.data.preprocessing import imagenet
from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.training import recipe_file, run, run_folder
from resnets.training.objective import make_objective
from resnets.training.recipe import Recipe
from resnets.training.run_folder import read_metrics
from resnets.weights import hub, model_file
from tests.conftest import draw_photos
from tests.training.test_resume import Quiet

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path, cache):
    root = tmp_path / "photos"
    draw_photos(root / "train", {"ant": 12, "bee": 12, "cow": 12})
    draw_photos(root / "val", {"ant": 3, "bee": 2, "cow": 4}, seed=1)
    return folders.load(root)


def make_recipe(**changes):
    values = {
        "dataset": "photos",
        "network": "cifar-resnet8",
        "epochs": 4,
        "batch": 6,
        "test_every": 1,
        "log_every": 1,
        "checkpoint_seconds": 0,
        "precision": "fp32",
        "schedule": {"kind": "cosine", "lr": 0.05, "warmup": 0.5},
        "photos": {"size": 24},
        **changes,
    }
    return Recipe.model_validate_json(json.dumps(values))


def start(folder, recipe, data, watch=None):
    objective = make_objective(recipe, data)
    return run.start(folder, objective, CPU, watch or Quiet(), command="test")


def resume(folder, data, watch=None, bad_images=None):
    recipe = run_folder.read_recipe(folder)
    if bad_images is not None:
        recipe = recipe.allowing_bad_images(bad_images)
    return run.resume(folder, make_objective(recipe, data), CPU, watch or Quiet())


def weights(folder):
    return model_file.safetensors.torch.load_file(folder / "model.safetensors")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


EVERYTHING = {
    "ema": 0.9,
    "recompute_bn": 12,
    "micro_batch": 3,
    "save_memory": True,
    "label_smoothing": 0.1,
    "progressive": {"size": 16, "until": 2},
    "schedule": {"kind": "plateau", "lr": 0.05, "patience": 1, "head": 2.0},
    "photos": {"size": 24, "crop": "area", "mean": "pixel"},
}


class Stopping(Quiet):
    """Stops a run by a signal at two of its steps."""

    def stepped(self, step):
        if step in (7, 13):
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("changes", [{}, EVERYTHING])
def test_a_stopped_run_ends_like_one_that_was_not(tmp_path, data, changes):
    recipe = make_recipe(**changes)
    start(tmp_path / "whole", recipe, data).train()

    out = tmp_path / "stopped"
    with pytest.raises(run.Interrupted):
        start(out, recipe, data, Stopping()).train()
    with pytest.raises(run.Interrupted):
        resume(out, data, Stopping()).train()
    resume(out, data).train()
    assert equal(weights(out), weights(tmp_path / "whole"))
    keys = ("step", "train_loss", "test_error", "learning_rate")
    curves = [
        [{k: r.get(k) for k in keys} for r in read_metrics(f)] for f in (out, tmp_path / "whole")
    ]
    assert curves[0] == curves[1]


def test_the_network_learns_and_its_model_has_the_preprocessing(tmp_path, data):
    summary = start(tmp_path / "run", make_recipe(epochs=8), data).train()
    assert summary["measured"]["images"] == 9
    assert summary["measured"]["error"] < 34  # chance is 67
    assert summary["iterations"] == 48
    model = hub.load(str(tmp_path / "run"))
    assert model.classes == ["ant", "bee", "cow"]
    assert (model.preprocessing.size, model.preprocessing.resize) == (24, 27)
    pixels = torch.rand(2, 3, 24, 24)
    assert model.network(pixels).shape == (2, 3)
    again = run_folder.read_recipe(tmp_path / "run")
    assert (again.iterations, again.epochs, again.schedule.warmup) == (48, None, 3)


def test_other_images_than_at_the_start_are_refused(tmp_path, data):
    start(tmp_path / "run", make_recipe(), data)
    (tmp_path / "photos" / "train" / "ant" / "0.png").unlink()
    with pytest.raises(UserError, match=r"run: the images have changed since .*; restore them"):
        resume(tmp_path / "run", folders.load(tmp_path / "photos"))
    environment = tmp_path / "run" / "environment.json"
    began = json.loads(environment.read_text())
    environment.write_text(json.dumps(began | {"place": str(tmp_path / "my photos")}))
    for other, message in (
        (tmp_path / "other", "--data .*/other: not the images .*, which are .*/my photos; give "
         "--data '.*/my photos', or leave it out"),
        (tmp_path / "my photos", "my photos: the images have changed"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            run_folder.refuse_other_images(tmp_path / "run", "another", str(other))
    environment.write_text(json.dumps(began))  # as of CIFAR, which is nowhere
    with pytest.raises(UserError, match=r"--data x: not the images .* began with; leave it out"):
        run_folder.refuse_other_images(tmp_path / "run", "another", "x")


def test_too_many_bad_images_stop_a_run_and_a_few_are_counted(tmp_path, data):
    (tmp_path / "photos" / "train" / "bee" / "3.png").write_bytes(b"")

    class Notes(Quiet):
        def __init__(self):
            self.notes = []
            super().__init__()

        def note(self, text):
            self.notes.append(text)

    none = make_recipe(photos={"size": 24, "bad_images": 0})
    with pytest.raises(
        UserError, match=r"1 of 36 training images.*2\.8 %; 0 may.*bee/3\.png.*empty"
    ):
        start(tmp_path / "strict", none, data).train()
    watch = Notes()
    summary = start(tmp_path / "lenient", make_recipe(), data, watch).train()
    assert [n for n in watch.notes if "left out" in n] == ["left out: bee/3.png: the file is empty"]
    assert summary["provenance"]["bad_images"] == ["bee/3.png"]
    assert read_metrics(tmp_path / "lenient")[-2]["bad_images"] == 1


@pytest.mark.parametrize(
    ("images", "share", "most"),
    [(10, 0.001, 1), (36, 0.001, 1), (837, 0.001, 5), (9000, 0.001, 9), (837, 0, 0), (50, 0.5, 25)],
)
def test_a_few_bad_images_are_allowed_in_small_data_sets(images, share, most):
    recipe = make_recipe(photos={"size": 24, "bad_images": share})
    assert recipe.photos.most_bad_images(images) == most


@pytest.mark.parametrize("recompute", [0, 12])
def test_batches_of_two_survive_an_unreadable_image(tmp_path, data, recompute):
    number = int(data.train.order(0, 0)[0])
    data.train.path(number).write_bytes(b"")
    recipe = make_recipe(network="resnet18", batch=2, epochs=None, iterations=2,
                         schedule={"kind": "linear", "lr": 0.01}, photos={"size": 32},
                         recompute_bn=recompute)  # fmt: skip
    made = start(tmp_path / "run", recipe, data)
    assert made.trainer.batches(0)[0].shape == (2, 3, 32, 32)
    summary = made.train()
    assert summary["provenance"]["bad_images"] == [data.train.name(number)]


def test_an_unreadable_test_image_is_named_before_there_is_a_run(tmp_path, data):
    bad = tmp_path / "photos" / "val" / "cow" / "1.png"
    whole, message = bad.read_bytes(), r"1 of the 9 test images.*cow/1\.png.*--quarantine"
    bad.write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        start(tmp_path / "run", make_recipe(), data)
    assert not (tmp_path / "run").exists()
    bad.unlink()  # as the message advises
    start(tmp_path / "run", make_recipe(), folders.load(tmp_path / "photos"))
    bad.write_bytes(whole)
    start(tmp_path / "other", make_recipe(), data)
    bad.write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        resume(tmp_path / "other", data)


def test_limits_shrink_the_data(tmp_path, data):
    recipe = make_recipe(classes=2, limit=10)
    made = start(tmp_path / "run", recipe, data)
    assert made.objective.classes == ("ant", "bee")
    assert (made.objective.train_images, made.objective.test_images) == (10, 5)


def test_limits_shrink_cifar_10_too(tmp_path, tiny):
    recipe = Recipe(network="cifar-resnet8", iterations=2, batch=4, classes=3, limit=50,
                    schedule={"kind": "linear", "lr": 0.1})  # fmt: skip
    made = start(tmp_path / "run", recipe, tiny)
    assert made.objective.classes == ("airplane", "automobile", "bird")
    assert (made.objective.train_images, made.objective.test_images) == (50, 50)
    summary = made.train()
    assert summary["measured"]["images"] == 50
    assert len(summary["measured"]["confusion"]) == 3


def test_another_image_size_scales_the_rest():
    short = recipe_file.load("imagenet-short").at_size(88)
    sizes = (short.photos.size, short.photos.test_size, short.progressive.size)
    assert sizes == (88, 112, 64)
    with pytest.raises(UserError, match="32 pixels a side"):
        recipe_file.load("cifar10-fast").at_size(16)


@pytest.mark.parametrize("name", ["imagenet-paper", "imagenet-90", "imagenet-short", "finetune"])
def test_every_recipe_for_photographs_shrinks_to_a_laptop(tmp_path, data, name):
    settings = ["batch=4", "iterations=2", "test_every=1", "recompute_bn=4", "network=resnet18"]
    if name != "imagenet-paper":  # whose length is in iterations already
        settings[1:3] = ["epochs=0.3", "test_every=0.1", "schedule.warmup=0.1"]
    if name == "finetune":
        save_model(tmp_path / "given.safetensors", ["a", "b"], "resnet18")
        settings[-2:] = [f"init={tmp_path / 'given.safetensors'}"]
    recipe = recipe_file.load(name, settings).at_size(32)
    summary = start(tmp_path / "run", recipe, data).train()
    assert summary["measured"]["images"] == 9
    assert summary["iterations"] in (2, 3)


def test_a_micro_batch_without_readable_images_adds_nothing(tmp_path, data):
    (tmp_path / "photos" / "train" / "bee" / "3.png").write_bytes(b"")
    recipe = make_recipe(batch=4, micro_batch=1, epochs=1, photos={"size": 24, "bad_images": 0.1})
    summary = start(tmp_path / "run", recipe, data).train()
    assert summary["provenance"]["bad_images"] == ["bee/3.png"]
    assert all(r["train_loss"] < 20 for r in read_metrics(tmp_path / "run") if "train_loss" in r)


def test_a_run_with_too_many_bad_images_resumes_with_a_higher_limit(tmp_path, data):
    (tmp_path / "photos" / "train" / "bee" / "3.png").write_bytes(b"")
    out = tmp_path / "run"
    with pytest.raises(UserError, match=r"--resume --set photos\.bad_images=0\.06"):
        start(out, make_recipe(photos={"size": 24, "bad_images": 0}), data).train()
    allowed = make_recipe(photos={"size": 24, "bad_images": 0.06})
    assert run_folder.is_run_of(out, allowed)
    made = resume(out, data, bad_images=0.06)
    assert made.trainer.step > 0
    made.train()
    whole = tmp_path / "whole"
    start(whole, allowed, data).train()
    assert equal(weights(out), weights(whole))


def test_no_images_of_the_classes_left_to_test_on_is_one_line(tmp_path, cache):
    root = tmp_path / "photos"
    draw_photos(root / "train", {"ant": 3, "bee": 3, "cow": 3})
    draw_photos(root / "val", {"cow": 3})
    with pytest.raises(UserError, match="no images to test on"):
        start(tmp_path / "run", make_recipe(classes=2), folders.load(root))


def test_resuming_does_not_need_the_initial_model(tmp_path, data):
    path = tmp_path / "given.safetensors"
    save_model(path, ["a", "b"])
    out = tmp_path / "run"
    start(out, make_recipe(network="", init=str(path)), data)
    path.unlink()
    resume(out, data).train()


def save_model(path, classes, name="cifar-resnet8"):
    torch.manual_seed(5)
    network = zoo.build(name, len(classes))
    preprocessing = imagenet().resized_to(32)
    model_file.save(
        path, network.state_dict(), preprocessing, model_file.make_card(name, classes, {}, [])
    )
    return network


def test_fine_tuning_starts_from_given_weights_and_their_preprocessing(tmp_path, data):
    path = tmp_path / "given.safetensors"
    given = save_model(path, ["x", "y"])
    made = start(tmp_path / "run", make_recipe(network="", init=str(path)), data)
    assert made.recipe.network == "cifar-resnet8"
    own = made.trainer.network.state_dict()
    for name, tensor in given.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(own[name], tensor)
    assert own["fc.weight"].shape[0] == 3
    assert "initial_model" not in vars(made.objective)  # its weights are freed
    torch.testing.assert_close(made.objective.preprocessing.std, imagenet().std)


def test_fine_tuning_starts_from_a_state_dict_without_a_classifier(tmp_path, data):
    state = zoo.build("cifar-resnet8").state_dict()
    path = tmp_path / "backbone.pth"
    torch.save({f"module.{n}": t for n, t in state.items() if not n.startswith("fc.")}, path)
    recipe = make_recipe(network="cifar-resnet8", init=str(path), epochs=1)
    made = start(tmp_path / "run", recipe, data)
    assert torch.equal(made.trainer.network.state_dict()["conv1.weight"], state["conv1.weight"])
    assert made.trainer.network.fc.out_features == 3
    assert made.objective.preprocessing.std is None  # CIFAR's mean alone
    made.train()
    assert model_file.load(tmp_path / "run" / "model.safetensors").classes == list(data.classes)


def test_the_classifier_stays_where_the_classes_are_the_same(tmp_path, data):
    path = tmp_path / "given.safetensors"
    for classes, same in ((data.classes, True), (data.classes[::-1], False)):
        given = save_model(path, list(classes))
        network = make_objective(make_recipe(network="", init=str(path)), data).build_network()
        assert torch.equal(network.fc.weight, given.fc.weight) == same


def test_weights_of_another_network_are_refused(tmp_path, data):
    path = tmp_path / "given.safetensors"
    save_model(path, ["a", "b"])
    for other in ("cifar-resnet14", "cifar-plain8", "cifar-resnet8-b"):
        recipe = make_recipe(network=other, init=str(path))
        with pytest.raises(UserError, match=r"weights are of a cifar-resnet8.*use the net"):
            start(tmp_path / "run", recipe, data)


def test_frozen_statistics_stay_and_the_rest_learns(tmp_path, data):
    path = tmp_path / "given.safetensors"
    given = save_model(path, ["a", "b"]).state_dict()
    recipe = make_recipe(network="", init=str(path), batch_norm="frozen", epochs=1)
    start(tmp_path / "run", recipe, data).train()
    for name, tensor in weights(tmp_path / "run").items():
        if ".bn" in name or name.startswith("bn1"):
            assert torch.equal(tensor, given[name]), name
        elif "conv" in name:
            assert not torch.equal(tensor, given[name]), name
