"""Int8 files: written after calibration, valid for one model only, used by predict."""

import json
import os
import platform
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from resnets.data.preprocessing import Preprocessing
from resnets.export import accuracy, calibration, exporter, int8
from resnets.export.calibration import CalibrationOptions
from resnets.inference import int8_file
from resnets.inference.deployable import Deployable
from resnets.inference.engines import OpenVinoRuntime, default_precision
from resnets.inference.openvino_model import to_openvino
from resnets.inference.predictor import open_predictor
from resnets.models import zoo
from resnets.support import files
from resnets.support.errors import UserError
from resnets.support.files import cache_folder
from resnets.weights import hub, model_file
from resnets.weights.card import read_card
from tests.conftest import draw_photos
from tests.inference.test_runtimes import used

pytest.importorskip("openvino", reason="OpenVINO is not installed")

FLOAT = f"openvino {default_precision(None)}"
CLASSES = {"red": 16, "green": 16, "blue": 16}


@pytest.fixture(autouse=True)
def _x86(monkeypatch):
    """By default int8 is used on x86 only."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def save(path, seed, network="cifar-resnet8"):
    torch.manual_seed(seed)
    card = model_file.make_card(network, list(CLASSES), {"licence": "MIT"}, [])
    preprocessing = Preprocessing(32, 36, mean=torch.rand(3, 32, 32))
    model_file.save(path, used(network, 3).state_dict(), preprocessing, card)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and photographs of its classes, and the card of its int8 file; not to be changed."""
    pytest.importorskip("nncf", reason="nncf is not installed")
    folder = tmp_path_factory.mktemp("made")
    save(folder / "mine.safetensors", 3)
    draw_photos(folder / "photos", CLASSES)
    lines = []
    options = CalibrationOptions(calibrate=str(folder / "photos"), max_loss=100)
    facts = int8.quantize(str(folder / "mine.safetensors"), options, lines.append)
    return folder, facts, lines


@pytest.fixture
def copied(made, tmp_path):
    """The model and its int8 file, for tests that change them."""
    for name in ("mine.safetensors", "mine.int8"):
        (tmp_path / name).write_bytes((made[0] / name).read_bytes())
    return tmp_path / "mine.safetensors"


def pixels(count=6):
    return np.random.default_rng(5).integers(0, 256, (count, 3, 32, 32), np.uint8)


def test_the_unpacked_network_is_the_calibrated_one(made, tmp_path):
    model = model_file.load(str(made[0] / "mine.safetensors"))
    network = Deployable(model.network, model.preprocessing).eval()
    images = [torch.from_numpy(image) for image in pixels(20)]
    quantized = calibration.quantize(to_openvino(network, 32), "openvino", images)
    file = tmp_path / "other.int8"
    file.write_bytes(int8.pack(quantized, network.weights(), "these"))
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


def test_the_file_holds_no_weights(made):
    file = made[0] / "mine.int8"
    tensors = safetensors.numpy.load_file(file)
    names = {name.removeprefix(int8_file.SCALE) for name in tensors} - {"graph", "rest"}
    network = zoo.build("cifar-resnet8", 3)
    layers = {name for name, layer in network.named_modules() if hasattr(layer, "weight")}
    assert names == {name for name in layers if "bn" not in name}
    assert tensors["rest"].nbytes < 0.5 * sum(p.numel() for p in network.parameters())


def test_the_card_has_the_measurements(made):
    _, facts, lines = made
    assert facts["calibrated_with"] == "24 images of photos"
    assert facts["accuracy"]["images"] == 24
    assert list(facts["speed"]["images_per_second"]) == [FLOAT, "openvino int8"]
    assert lines[0] == "calibrating cifar-resnet8 with 24 images of photos"
    assert facts["licence"] == "MIT"
    assert 0 < facts["accuracy"]["largest_probability_moved"] < 1
    file = int8_file.read(made[0] / "mine.int8")
    assert str(made[0]) not in json.dumps(file.card)
    assert str(made[0]).encode() not in int8_file._decompress(file.tensors["graph"])


def test_a_calibrated_model_runs_in_int8_by_default(copied, monkeypatch):
    def name(**options):
        return open_predictor(str(copied), **options).runtime.name

    assert name() == "openvino int8"
    assert name(precision="int8") == "openvino int8"
    assert name(precision="fp32") == "openvino fp32"
    assert name(allow_int8=False) == FLOAT
    assert name(runtime="torch") == FLOAT.replace("openvino", "torch")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert name() == FLOAT
    assert name(precision="int8") == "openvino int8"


def test_int8_outputs_are_close_to_the_sources(copied):
    plain = open_predictor(str(copied), precision="fp32")
    short = open_predictor(str(copied))
    for _ in range(2):  # made, then from the cache
        one, other = (predictor.runtime.arrays(pixels()).logits for predictor in (plain, short))
        assert not np.array_equal(one, other)
        assert np.abs(one - other).max() < 0.3 * np.abs(one).max()
        short = open_predictor(str(copied))
    assert plain.digest != short.digest


def test_a_second_start_hashes_nothing(copied, monkeypatch):
    monkeypatch.setattr(files, "LARGE_FILE_BYTES", 0)
    then = time.time() - 3600
    os.utime(copied, (then, then))
    first = open_predictor(str(copied))

    def refuse(path):
        raise AssertionError(f"{path} is hashed again")

    monkeypatch.setattr(files, "digest", refuse)
    monkeypatch.setattr(int8_file, "_fingerprint", refuse)
    second = open_predictor(str(copied))
    assert (second.digest, second.runtime.name) == (first.digest, "openvino int8")
    os.utime(copied)
    with pytest.raises(AssertionError, match="hashed again"):
        open_predictor(str(copied))


def test_other_weights_ignore_the_int8_file(copied):
    int8s = open_predictor(str(copied)).digest
    save(copied, 4)
    found = open_predictor(str(copied))
    assert found.runtime.name == FLOAT
    assert found.digest != int8s
    with pytest.raises(UserError, match=r"safetensors has not been calibrated; .*quantize"):
        open_predictor(str(copied), precision="int8")


def rewrite(file, change):
    """Change the tensors and the card of a file."""
    found = int8_file.read(file)
    change(found.tensors, found.card)
    file.write_bytes(safetensors.numpy.save(found.tensors, {"card": json.dumps(found.card)}))


def cut(part):
    return lambda tensors, card: tensors.update({part: tensors[part][:-9]})


SPOILT = {
    "graph": cut("graph"),
    "rest": cut("rest"),
    "no graph": lambda tensors, card: tensors.update(graph=int8_file.compress(b"<other/>")),
    "format": lambda tensors, card: card.update(format="resnets-int8-99"),
    "made for": lambda tensors, card: card.update(made_for=None),
    "size": lambda tensors, card: card.update(size=7),
    "no places": lambda tensors, card: card.update(places=[]),
    "far place": lambda tensors, card: card["places"][0].__setitem__(1, card["size"]),
    "shape": lambda tensors, card: tensors.update({"scale.conv1": tensors["scale.conv1"][:3]}),
    "scale": lambda tensors, card: tensors["scale.conv1"].fill(np.nan),
    "small scale": lambda tensors, card: tensors["scale.conv1"].fill(1e-9),
    "not a graph": lambda tensors, card: tensors.update(
        graph=int8_file.compress(b"<net name='x' version='11'><layers><layer/></layers></net>")
    ),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_damaged_file_is_one_line(copied, spoil):
    rewrite(copied.with_suffix(".int8"), SPOILT[spoil])
    with pytest.raises(UserError, match=r"mine\.int8.*quantize --help"):
        open_predictor(str(copied))
    assert open_predictor(str(copied), precision="fp32").runtime.name == "openvino fp32"


@pytest.mark.parametrize("content", [b"", b"no tensors at all", b"\xff" * 40])
def test_another_file_of_that_name_is_one_line(copied, content):
    copied.with_suffix(".int8").write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.int8: not an int8 file of this program"):
        open_predictor(str(copied))


def test_a_file_is_for_one_model_only(tmp_path):
    """For its network, its preprocessing and every number of its weights."""
    model = tmp_path / "m.safetensors"
    save(model, 1)
    first = int8_file.fingerprint(model)
    save(model, 1)
    assert int8_file.fingerprint(model) == first
    whole = safetensors.numpy.load_file(model)
    card, _ = read_card(model)

    def changed(weights, card):
        safetensors.numpy.save_file({**whole, **weights}, model, {"card": json.dumps(card)})
        return int8_file.fingerprint(model)

    assert changed({}, {**card, "measured": ["another test"]}) == first
    for name in ("bn1.running_mean", "layer1.0.conv2.weight", "fc.bias", model_file.MEAN):
        one = whole[name].copy()
        one.flat[-1] += 1e-3
        assert changed({name: one}, card) != first
    assert changed({}, {**card, "network": "cifar-plain8"}) != first
    other = {**card["preprocessing"], "std": [0.2, 0.2, 0.2]}
    assert changed({}, {**card, "preprocessing": other}) != first
    model.write_bytes(b"12345678abc")
    with pytest.raises(UserError, match="not a model file"):
        int8_file.fingerprint(model)


def test_a_model_that_changes_during_calibration_is_refused(made, tmp_path):
    model = tmp_path / "m.safetensors"
    save(model, 3)

    def report(line):
        if line == "measuring the speed":
            save(model, 4)

    with pytest.raises(
        UserError, match=r"m\.safetensors: the model file changed during calibration"
    ):
        int8.quantize(
            str(model), CalibrationOptions(calibrate=str(made[0] / "photos"), max_loss=100), report
        )
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_channel_of_zeros_is_rounded_to_zeros():
    weights = np.array([[0.0, 0.0], [-0.5, 0.25]], np.float32)
    found = int8_file.round_weights(weights, np.array([[0.0], [0.0078125]], np.float32))
    assert found.tolist() == [[0, 0], [-64, 32]]


def test_a_loss_that_is_not_allowed_leaves_nothing(made, tmp_path, monkeypatch):
    save(tmp_path / "m.safetensors", 3)
    monkeypatch.setattr(
        accuracy, "loss", lambda before, after: accuracy.Loss(18, 10, 9, lost=2, gained=1)
    )
    options = CalibrationOptions(calibrate=str(made[0] / "photos"))
    with pytest.raises(UserError, match=r"int8 loses 5\.56 points"):
        int8.quantize(str(tmp_path / "m.safetensors"), options, lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_mistakes_are_found_before_anything_is_computed(made, tmp_path):
    photos = str(made[0] / "photos")
    exporter.export(
        str(made[0] / "mine.safetensors"),
        tmp_path / "out",
        exporter.ExportOptions(engine="openvino"),
    )
    for name, options, message in (
        (
            tmp_path / "out",
            CalibrationOptions(calibrate=photos),
            "name the model that it was made from",
        ),
        (
            made[0] / "mine.safetensors",
            CalibrationOptions(calibrate=photos, test=photos),
            "the test images are among the calibration images",
        ),
        (
            made[0] / "mine.safetensors",
            CalibrationOptions(calibrate="absent"),
            "--calibrate absent: no such folder",
        ),
        (made[0] / "none.safetensors", CalibrationOptions(calibrate=photos), "no such model file"),
        (
            made[0] / "mine.safetensors",
            CalibrationOptions(calibrate="cifar10"),
            "not trained on CIFAR-10",
        ),
    ):
        with pytest.raises(UserError, match=message):
            int8.quantize(str(name), options, lambda line: None)


def test_the_shipped_int8_file_fits_the_shipped_weights():
    model = hub.resolve("cifar-resnet20")
    found = int8_file.find(model)
    assert found is not None
    assert found.path == int8_file.path_for(model)
    assert found.card["accuracy"]["images"] == 10_000
    assert found.card["accuracy"]["points_lost"] <= accuracy.MAX_LOSS
    assert "/" not in found.card["calibrated_with"]
    assert open_predictor("cifar-resnet20").runtime.name == "openvino int8"


@pytest.mark.parametrize(("precision", "name"), [("auto", FLOAT), ("int8", "openvino int8")])
def test_a_server_computes_in_float_by_default(precision, name):
    server = pytest.importorskip("resnets.serve.server", reason="no server's packages")
    options = server.ServerOptions(["cifar-resnet20"], precision=precision)
    ((_, predictor),) = server._open_models(options, "cpu")
    assert predictor.runtime.name == name


def test_a_named_source_has_its_int8_file_in_the_package(tmp_path):
    """It is not used for another model of the same name."""
    name = "resnet50@msra"
    shipped = Path(str(resources.files("resnets"))) / "weights" / "shipped" / f"{name}.int8"
    card = int8_file.read(shipped).card
    assert card["accuracy"]["points_lost"] <= accuracy.MAX_LOSS
    model = tmp_path / f"{name}.safetensors"
    save(model, 3)
    assert int8_file.find(model) is None


def test_the_shipped_int8_file_fits_the_authors_weights(monkeypatch):
    name = "resnet50@msra"
    monkeypatch.delenv("RESNETS_CACHE")
    model = cache_folder("weights", f"{name}.safetensors")
    if not model.exists():
        pytest.skip(f"{name} is not in the cache")
    found = int8_file.find(model)
    assert found is not None
    assert found.path.parent.name == "shipped"
