"""What a calibration found is kept beside the weights, fits only them, and predict takes it."""

import platform
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from resnets.data.preprocessing import Preprocessing
from resnets.deploy import conversion, exporting, int8, int8_file, quantizing, testing
from resnets.deploy.graph import Deployable
from resnets.deploy.int8 import Wishes
from resnets.deploy.opening import open_predictor
from resnets.deploy.runtimes import OpenVinoRuntime, default_precision
from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.weights import cards, model_file
from tests.conftest import draw_photos
from tests.deploy.test_runtimes import used

pytest.importorskip("openvino", reason="OpenVINO is not installed")

FLOAT = f"openvino {default_precision(None)}"
CLASSES = {"red": 16, "green": 16, "blue": 16}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    """No test looks into the user's cache; int8 is taken on CPUs of all kinds."""
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def save(path, seed, network="cifar-resnet8"):
    torch.manual_seed(seed)
    card = model_file.make_card(network, list(CLASSES), {"licence": "MIT"}, [])
    look = Preprocessing(32, 36, torch.rand(3, 32, 32))
    model_file.save(path, used(network, 3).state_dict(), look, card)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and photographs of its classes, and the card of its int8 file; not to be changed."""
    pytest.importorskip("nncf", reason="nncf is not installed")
    folder = tmp_path_factory.mktemp("made")
    save(folder / "mine.safetensors", 3)
    draw_photos(folder / "photos", CLASSES)
    lines = []
    wishes = Wishes(str(folder / "photos"), max_loss=100)
    facts = int8.quantize(str(folder / "mine.safetensors"), wishes, lines.append)
    return folder, facts, lines


@pytest.fixture
def copied(made, tmp_path):
    """The model and its int8 file, for tests that change them."""
    for name in ("mine.safetensors", "mine.int8"):
        (tmp_path / name).write_bytes((made[0] / name).read_bytes())
    return tmp_path / "mine.safetensors"


def pixels(count=6):
    return np.random.default_rng(5).integers(0, 256, (count, 3, 32, 32), np.uint8)


def test_the_network_made_anew_is_the_one_that_was_calibrated(made, tmp_path):
    model = model_file.load(str(made[0] / "mine.safetensors"))
    network = Deployable(model.network, model.preprocessing).eval()
    images = [torch.from_numpy(image) for image in pixels(20)]
    quantized = quantizing.quantize(conversion.to_openvino(network, 32), "openvino", images)
    file = tmp_path / "other.int8"
    file.write_bytes(int8_file.pack(quantized, network.weights(), made[0] / "mine.safetensors", {}))
    int8_file.unpack(int8_file.read(file), network.weights(), tmp_path / "model.xml")
    theirs = OpenVinoRuntime(quantized, "int8").arrays(pixels())
    ours = OpenVinoRuntime(tmp_path / "model.xml", "int8").arrays(pixels())
    exact = network(torch.from_numpy(pixels()))

    def rms(values, others):
        return float(np.sqrt(np.square(values - others).mean()))

    away = rms(theirs.logits, exact.logits.numpy())
    # The largest weight of a channel is rounded to 64 steps here and to 63 by NNCF.
    assert rms(ours.logits, theirs.logits) < away
    assert rms(ours.logits, exact.logits.numpy()) < 1.5 * away
    assert 0 < away < 0.25 * rms(exact.logits.numpy(), 0)


def test_it_is_small_for_it_holds_no_weights(made):
    file = made[0] / "mine.int8"
    tensors = safetensors.numpy.load_file(file)
    names = {name.removeprefix(int8_file.SCALE) for name in tensors} - {"graph", "rest"}
    network = zoo.build("cifar-resnet8", 3)
    layers = {name for name, layer in network.named_modules() if hasattr(layer, "weight")}
    assert names == {name for name in layers if "bn" not in name}
    assert tensors["rest"].nbytes < 0.5 * sum(p.numel() for p in network.parameters())


def test_the_card_tells_what_was_measured(made):
    _, facts, lines = made
    assert facts["calibrated_with"] == "24 images of photos"
    assert facts["accuracy"]["images"] == 24
    assert list(facts["speed"]["images_per_second"]) == [FLOAT, "openvino int8"]
    assert lines[0] == "calibrating cifar-resnet8 with 24 images of photos"
    assert str(made[0]) not in int8_file.read(made[0] / "mine.int8").card.values()


def test_a_calibrated_model_is_run_in_int8_unless_told_otherwise(copied, monkeypatch):
    def name(**asked):
        return open_predictor(str(copied), **asked).runtime.name

    assert name() == "openvino int8"
    assert name(precision="int8") == "openvino int8"
    assert name(precision="fp32") == "openvino fp32"
    assert name(exact=True) == FLOAT
    assert name(runtime="torch") == FLOAT.replace("openvino", "torch")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert name() == FLOAT
    assert name(precision="int8") == "openvino int8"


def test_its_answers_are_nearly_the_source_s(copied):
    plain = open_predictor(str(copied), precision="fp32")
    short = open_predictor(str(copied))
    for _ in range(2):  # made, then from the cache
        one, other = (predictor.runtime.arrays(pixels()).logits for predictor in (plain, short))
        assert not np.array_equal(one, other)
        assert np.abs(one - other).max() < 0.3 * np.abs(one).max()
        short = open_predictor(str(copied))
    assert plain.digest != short.digest


def test_other_weights_are_not_run_with_it(copied):
    int8s = open_predictor(str(copied)).digest
    save(copied, 4)
    found = open_predictor(str(copied))
    assert found.runtime.name == FLOAT
    assert found.digest != int8s
    with pytest.raises(UserError, match=r"safetensors has not been calibrated; .*quantize"):
        open_predictor(str(copied), precision="int8")


@pytest.mark.parametrize("spoil", ["cut", "text", "graph", "card", "place", "shape"])
def test_a_damaged_file_is_one_line(copied, spoil):
    file = copied.with_suffix(".int8")
    content = file.read_bytes()
    if spoil == "cut":
        file.write_bytes(content[:-20])
    elif spoil == "text":
        file.write_bytes(b"no tensors at all")
    else:
        tensors, card = safetensors.numpy.load(content), int8_file.read(file).card
        if spoil == "graph":
            tensors["graph"] = tensors["graph"][:-9]
        if spoil == "card":
            card["format"] = "resnets-int8-99"
        if spoil == "place":
            card["places"][0][1] = card["size"]
        if spoil == "shape":
            tensors["scale.conv1"] = tensors["scale.conv1"][:3]
        with_card = {"card": int8_file.json.dumps(card)}
        file.write_bytes(safetensors.numpy.save(tensors, with_card))
    with pytest.raises(UserError, match=r"mine\.(int8|xml)|model\.xml"):
        open_predictor(str(copied))
    assert open_predictor(str(copied), precision="fp32").runtime.name == "openvino fp32"


def test_weights_are_known_by_the_vectors_that_training_changes(tmp_path):
    model = tmp_path / "m.safetensors"
    save(model, 1)
    first = int8_file.fingerprint(model)
    save(model, 1)
    assert int8_file.fingerprint(model) == first
    whole = safetensors.numpy.load_file(model)
    card = {"card": int8_file._header(model)[0]["__metadata__"]["card"]}
    for name in ("bn1.running_mean", "layer1.0.bn2.weight", "fc.bias", cards.MEAN):
        safetensors.numpy.save_file({**whole, name: whole[name] + 1e-3}, model, card)
        assert int8_file.fingerprint(model) != first
    model.write_bytes(b"12345678abc")
    with pytest.raises(UserError, match="not a model file"):
        int8_file.fingerprint(model)


def test_a_channel_without_weights_is_no_trouble():
    weights = np.array([[0.0, 0.0], [-0.5, 0.25]], np.float32)
    found = int8_file._rounded(weights, np.array([[0.0], [0.0078125]], np.float32))
    assert found.tolist() == [[0, 0], [-64, 32]]


def test_a_loss_that_is_not_allowed_leaves_nothing(made, tmp_path, monkeypatch):
    save(tmp_path / "m.safetensors", 3)
    monkeypatch.setattr(
        testing, "loss", lambda before, after: testing.Loss(18, 10, 9, lost=2, gained=1)
    )
    wishes = Wishes(str(made[0] / "photos"))
    with pytest.raises(UserError, match=r"int8 loses 5\.56 points"):
        int8.quantize(str(tmp_path / "m.safetensors"), wishes, lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_mistakes_are_told_before_anything_is_computed(made, tmp_path):
    photos = str(made[0] / "photos")
    exporting.export(
        str(made[0] / "mine.safetensors"), tmp_path / "out", exporting.Wishes("openvino")
    )
    for name, wishes, message in (
        (tmp_path / "out", Wishes(photos), "name the model that it was made from"),
        (made[0] / "mine.safetensors", Wishes(photos, photos), "would calibrate too"),
        (made[0] / "mine.safetensors", Wishes("absent"), "--calibrate absent: no such folder"),
        (made[0] / "none.safetensors", Wishes(photos), "no such model file"),
        (made[0] / "mine.safetensors", Wishes("cifar10"), "not trained on CIFAR-10"),
    ):
        with pytest.raises(UserError, match=message):
            int8.quantize(str(name), wishes, lambda line: None)


def test_the_shipped_one_fits_the_shipped_weights():
    model = cards.find("cifar-resnet20")
    found = int8_file.find(model)
    assert found is not None
    assert found.path == int8_file.beside(model)
    assert found.card["accuracy"]["images"] == 10_000
    assert found.card["accuracy"]["points_lost"] <= testing.MAX_LOSS
    assert "/" not in found.card["calibrated_with"]
    assert open_predictor("cifar-resnet20").runtime.name == "openvino int8"


def test_a_named_source_has_its_file_in_the_package(monkeypatch, tmp_path):
    """Of weights that lie in the cache; another model of the same name there gets none."""
    name = "resnet50@msra"
    shipped = Path(str(cards.resources.files("resnets"))) / "weights" / "shipped" / f"{name}.int8"
    card = int8_file.read(shipped).card
    assert card["accuracy"]["points_lost"] <= testing.MAX_LOSS
    model = tmp_path / f"{name}.safetensors"
    save(model, 3)
    assert int8_file.find(model) is None
    monkeypatch.setattr(int8_file, "fingerprint", lambda path: card["weights_of"])
    found = int8_file.find(model)
    assert found is not None
    assert found.path == shipped
