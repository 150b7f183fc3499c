"""`resnets responses` and `resnets deepen` as a user meets them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.analysis.responses import layer_responses
from resnets.data.cifar_classes import CLASSES
from resnets.data.preprocessing import Preprocessing
from resnets.data.samples import random_indices
from resnets.models import zoo
from resnets.weights import model_file
from tests.cli.test_cli import one_line
from tests.conftest import draw_photos
from tests.weights.convert.nets import scramble


def write(path, name, classes=CLASSES["cifar10"]):
    torch.manual_seed(0)
    net = scramble(zoo.build(name, len(classes)))
    card = model_file.make_card(name, list(classes), {"recipe": "none"}, [{"error": 5.0}])
    preprocessing = Preprocessing(32, 36, mean=torch.full((3, 1, 1), 0.4))
    model_file.save(path, net.state_dict(), preprocessing, card)
    return path


@pytest.fixture
def nets(tmp_path):
    """One model file each: residual, plain, and one for photographs."""
    write(tmp_path / "res.safetensors", "cifar-resnet8")
    write(tmp_path / "plain.safetensors", "cifar-plain14")
    write(tmp_path / "photo.safetensors", "resnet18", ("ant", "bee"))
    return tmp_path


@pytest.mark.parametrize("verb", ["responses", "deepen"])
def test_help_fits_a_screen_and_shows_an_example(resnets, verb):
    code, out, _ = resnets(verb, "--help")
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert f"Example: resnets {verb}" in out


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_responses_are_those_of_the_test_images_that_are_drawn(
    resnets, nets, real_shape, statistics
):
    code, out, _ = resnets(
        "responses", "res.safetensors", "--json", "--limit", 50, "--statistics", statistics
    )
    assert code == 0
    facts = json.loads(out)
    model = model_file.load("res.safetensors")
    images = torch.from_numpy(np.array(real_shape.test.images[random_indices(200, 50)]))
    inputs = model.normalize(torch.device("cpu"))(images)
    expected = layer_responses(model.network, [inputs], statistics)
    (found,) = facts["models"]
    assert facts["statistics"] == statistics
    assert found["images"] == "50 of the 200 test images of CIFAR-10"
    assert [row["layer"] for row in found["layers"]] == [r.layer for r in expected]
    stds = [row["std"] for row in found["layers"]]
    assert stds == pytest.approx([r.std for r in expected], rel=1e-5)


def test_responses_of_several_models_side_by_side(resnets, nets, real_shape):
    code, out, _ = resnets(
        "responses", "res.safetensors", "plain.safetensors", "--plot", "figure.png"
    )
    assert code == 0
    header = next(line for line in out.splitlines() if line.startswith("layer"))
    assert header.split() == ["layer", "cifar-resnet8", "cifar-plain14"]
    assert any(line.split()[:1] == ["13"] for line in out.splitlines())
    assert "mean" in out
    assert Image.open(nets / "figure.png").format == "PNG"


def test_responses_on_photographs(resnets, nets):
    draw_photos(nets / "photos", {"ant": 5, "bee": 3})
    code, out, _ = resnets("responses", "photo.safetensors", "--data", "photos", "--limit", 6)
    assert code == 0
    assert "6 of the 8 test images of photos" in out
    assert "layer4.1.conv2" in out
    assert "\nconv1 " not in out  # 7x7


def test_a_deeper_model_is_written_and_trained_on(resnets, nets, real_shape):
    code, out, _ = resnets("deepen", "plain.safetensors", "--to", 20)
    assert code == 0
    assert "largest difference of logits on 600 of the 600 training images" in out
    name = "cifar-plain20-from-cifar-plain14.safetensors"
    assert f"--network cifar-plain20 --init {name}" in out
    model, deep = model_file.load("plain.safetensors"), model_file.load(name)
    images = torch.rand(4, 3, 32, 32)
    assert torch.allclose(model.network(images), deep.network(images), atol=1e-4)
    settings = ("batch=50", "iterations=2", "test_every=2", "log_every=1")
    code, out, _ = resnets(
        *("train", "cifar10-short", "--network", "cifar-plain20", "--init", name),
        *("--out", "run", *(word for s in settings for word in ("--set", s))),
        *("--set", "schedule.warmup=1", "--set", "precision=fp32"),
    )
    assert code == 0
    assert "test error" in out
    assert (nets / "run" / "model.safetensors").exists()


def test_a_deeper_model_has_the_shallow_ones_test_error(resnets, nets, real_shape):
    code, out, _ = resnets("deepen", "res.safetensors", "--to", 20, "--json")
    assert code == 0
    facts = json.loads(out)
    _, shallow, _ = resnets("eval", "res.safetensors", "cifar10", "--json")
    assert facts["shallow_error"] == json.loads(shallow)["error"]
    assert facts["error"] == facts["shallow_error"]


def test_a_deeper_model_of_photographs(resnets, nets):
    draw_photos(nets / "photos", {"ant": 10, "bee": 10})
    code, out, _ = resnets(
        "deepen", "photo.safetensors", "--to", "resnet34", "--data", "photos", "--out",
        "deep.safetensors",
    )  # fmt: skip
    assert code == 0
    assert "8 blocks added" in out
    assert model_file.load("deep.safetensors").card["network"] == "resnet34"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("responses", "res.safetensors", "--statistics", "bach"), "did you mean batch"),
        (("responses", "res.safetensors", "--plot", "x.gif"), "ending in .png"),
        (("responses", "res.safetensors", "--plot", "no/x.png"), "no such folder"),
        (("responses", "res.safetensors", "res.safetensors"), "given twice"),
        (("responses", "photo.safetensors"), "--data FOLDER"),
        (("responses", "photo.safetensors", "--data", "nowhere"), "no such folder"),
        (("responses", "cifar-resnet2O"), "did you mean cifar-resnet20"),
        (("deepen", "res.safetensors", "--to", "8"), "8 layers are not more than the 8"),
        (("deepen", "plain.safetensors", "--to", "8"), "layer1 would shrink from 2 to 1"),
        (("deepen", "res.safetensors", "--to", "57"), "did you mean cifar-resnet56"),
        (("deepen", "res.safetensors", "--to", "cifar-plain20"), "another family"),
        (("deepen", "photo.safetensors", "--to", "50", "--data", "photos"), "another family"),
        (("deepen", "photo.safetensors", "--to", "34"), "--data FOLDER"),
        (("deepen", "res.safetensors", "--to", "20", "--out", "x.pt"), "ending in .safetensors"),
        (("deepen", "res.safetensors", "--to", "20", "--out", "no/x.safetensors"), "no such fold"),
        (("deepen", "res.safetensors", "--to", "20", "--out", "res.safetensors"), "its source"),
        (("deepen", "res.safetensors", "--to", "20", "--out", "plain.safetensors"), "--force"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(resnets, nets, real_shape, arguments, message):
    draw_photos(nets / "photos", {"ant": 10, "bee": 10})
    before = {path: path.stat().st_mtime_ns for path in nets.rglob("*")}
    code, _, err = resnets(*arguments)
    assert code == 2
    assert message in one_line(err)
    assert before == {path: path.stat().st_mtime_ns for path in nets.rglob("*")}
