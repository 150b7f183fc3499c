"""Every engine computes the network's outputs; names find the right engine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from resnets.data.preprocessing import Preprocessing, imagenet
from resnets.inference import openvino_model, predictor
from resnets.inference.deployable import Deployable
from resnets.inference.engines import TorchRuntime
from resnets.models import zoo
from resnets.models.batch_norm import fold_batch_norm
from resnets.support.errors import UserError
from resnets.weights import model_file

CPU = torch.device("cpu")


def used(name, classes=7, seed=0):
    """A network whose BN has statistics and weights that are not the initial ones."""
    torch.manual_seed(seed)
    network = zoo.build(name, classes)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            torch.nn.init.normal_(module.running_mean, std=0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "name",
    ["cifar-resnet8", "cifar-plain8", "cifar-resnet8-b", "cifar-preact110", "cifar-highway19",
     "cifar-resnet164-bottleneck", "resnet18-small"],
)  # fmt: skip
def test_folding_batch_norm_keeps_the_outputs(name):
    network = used(name)
    x = torch.randn(2, 3, 32, 32)
    folded = fold_batch_norm(network)
    expected = network(x)
    torch.testing.assert_close(folded(x), expected, rtol=1e-3, atol=1e-3 * expected.std().item())
    before = sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    after = sum(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    blocks = len(network.blocks())
    assert before > blocks
    assert after == (0 if network.architecture.order == "post" else blocks)  # first one shared


@pytest.fixture
def saved(tmp_path):
    """A model file with a mean image."""
    torch.manual_seed(1)
    preprocessing = Preprocessing(
        32, 36, mean=torch.rand(3, 32, 32), std=torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    )
    network = used("cifar-resnet8")
    path = tmp_path / "mine.safetensors"
    card = model_file.make_card("cifar-resnet8", [f"class {i}" for i in range(7)], {}, [])
    model_file.save(path, network.state_dict(), preprocessing, card)
    return path


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.06)])
def test_engines_compute_the_networks_outputs(
    saved, runtime, precision, tolerance, monkeypatch, tmp_path
):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "cache"))
    model = model_file.load(str(saved))
    ready = predictor.open_predictor(str(saved), runtime, precision)
    assert ready.runtime.name == f"{runtime} {precision}"
    assert ready.classes == model.classes
    for batch in (1, 3, 8):
        images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8)
        logits, features = ready.runtime(images)
        x = model.normalize(CPU)(images)
        expected = model.network(x)
        pooled = model.network.features(x)["layer3"].mean((2, 3))
        assert logits.dtype == features.dtype == torch.float32
        for found, wanted in ((logits, expected), (features, pooled)):
            assert found.shape == wanted.shape
            assert (found - wanted).abs().max() < tolerance * wanted.abs().max()
            if precision == "fp32":
                torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_a_converted_network_is_taken_from_the_cache(saved, monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "cache"))
    predictor.open_predictor(str(saved), "openvino", "fp32")

    def refuse(*args):
        raise AssertionError("converted again")

    monkeypatch.setattr(openvino_model, "to_openvino", refuse)
    predictor.open_predictor(str(saved), "openvino", "fp32")
    model = model_file.load(saved)
    weights = model.network.state_dict()
    weights["fc.bias"] += 1
    model_file.save(saved, weights, model.preprocessing, model.card)
    with pytest.raises(AssertionError, match="again"):  # other weights are another network
        predictor.open_predictor(str(saved), "openvino", "fp32")
    monkeypatch.undo()
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "cache"))
    saved.write_bytes(saved.read_bytes()[:-4] + b"\1\2\3\4")
    with pytest.raises(UserError, match="damaged: its tensors"):
        predictor.open_predictor(str(saved), "openvino", "fp32")


def test_a_cache_without_room_is_not_needed(saved, monkeypatch, tmp_path, capsys):
    pytest.importorskip("openvino")
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "cache"))
    save = openvino_model.save_openvino

    def full(model, file):
        if file.is_relative_to(tmp_path):
            raise OSError(28, "No space left on device")
        save(model, file)

    monkeypatch.setattr(openvino_model, "save_openvino", full)
    opened = predictor.open_predictor(str(saved), "openvino", "fp32")
    assert opened.runtime(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).logits.shape == (1, 7)
    assert "No space left on device); a temporary one is used" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".xml", ".bin"])
@pytest.mark.parametrize("content", [b"", b"rubbish"])
def test_a_damaged_network_in_the_cache_is_converted_again(
    saved, monkeypatch, tmp_path, ending, content
):
    """As a power cut leaves it."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("RESNETS_CACHE", str(tmp_path / "cache"))
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    expected = predictor.open_predictor(str(saved), "openvino", "fp32").runtime(images)
    (file,) = (tmp_path / "cache").rglob(f"model{ending}")
    file.write_bytes(content)
    shutil.rmtree(tmp_path / "cache" / "openvino" / "compiled", ignore_errors=True)
    again = predictor.open_predictor(str(saved), "openvino", "fp32").runtime(images)
    torch.testing.assert_close(again.logits, expected.logits)
    assert len(file.read_bytes()) > len(content)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
def test_a_full_disk_at_the_first_use_is_one_line_and_leaves_no_files(saved, tmp_path):
    pytest.importorskip("openvino")
    Image.new("RGB", (40, 40)).save(tmp_path / "photo.png")
    command = f"ulimit -f 100; exec {sys.executable} -m resnets predict mine.safetensors photo.png"
    found = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "RESNETS_CACHE": "cache"},
    )  # fmt: skip
    assert found.returncode == 2
    (line,) = found.stderr.strip().splitlines()
    assert "cannot write: OpenVINO" in line
    assert not list((tmp_path / "cache").rglob("model.*"))


def test_a_model_that_cannot_be_read_is_one_line(saved, monkeypatch):
    def refuse(path, *more, **others):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # files have no secrets from root
    with pytest.raises(UserError, match=r"mine.*: permission denied"):
        predictor.open_predictor(str(saved), "torch", "fp32")


def test_unknown_engines_and_precisions_are_errors(saved):
    with pytest.raises(UserError, match=r"--runtime: .*'openvin'.*openvino"):
        predictor.open_predictor(str(saved), "openvin")
    with pytest.raises(UserError, match=r"--precision: .*'fp16'"):
        predictor.open_predictor(str(saved), precision="fp16")


def test_unknown_precisions_are_errors_before_a_model_is_downloaded(monkeypatch):
    monkeypatch.setattr(predictor.hub, "resolve", lambda name: pytest.fail("downloaded"))
    with pytest.raises(UserError, match="unknown precision 'fp16'"):
        predictor.open_predictor("resnet50@msra", precision="fp16")


def test_the_torch_engine_takes_networks_without_pooled_features():
    network = used("vgg16", 3)
    engine = TorchRuntime(Deployable(network, imagenet()), CPU, "fp32")
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    logits, features = engine(images)
    expected = network(imagenet().normalize(CPU)(images))
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)
    assert features.shape == (1, 0)


SIGNAL_AFTER_USE = """
import faulthandler, os, signal, threading
faulthandler.enable()
import torch
from resnets.inference.engines import OpenVinoRuntime
from resnets.inference.openvino_model import to_openvino
from resnets.data.preprocessing import imagenet
from resnets.inference.deployable import Deployable
from resnets.models import zoo

model = to_openvino(Deployable(zoo.build("cifar-resnet8").eval(), imagenet()), 32)
kept = [OpenVinoRuntime(model, "fp32")]
kept[0](torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
dropping = threading.Thread(target=kept.clear)
dropping.start()
dropping.join()
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_is_heard_after_another_thread_dropped_a_network():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", SIGNAL_AFTER_USE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
