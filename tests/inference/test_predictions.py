"""Predictions are the network's, whatever the batch; images that cannot be read have an error."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.data.images import read_image
from resnets.data.preprocessing import CentralCrop, Preprocessing, to_tensor
from resnets.inference.deployable import Deployable
from resnets.inference.engines import TorchRuntime
from resnets.inference.image_inputs import find_images
from resnets.inference.predictor import Predictor
from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.weights.model_file import Model, make_card

CPU = torch.device("cpu")
CLASSES = [f"class {number}" for number in range(10)]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = zoo.build("cifar-resnet8", 10).eval()
    preprocessing = Preprocessing(32, 36, mean=torch.full((3, 32, 32), 0.4))
    return Model(network, make_card("cifar-resnet8", CLASSES, {}, []), preprocessing)


def predictor(model):
    engine = TorchRuntime(Deployable(model.network, model.preprocessing), CPU, "fp32")
    return Predictor("a model", model.card, model.preprocessing, engine, "digest")


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(1)
    for number in range(5):
        pixels = random.integers(0, 256, (40 + number, 50, 3)).astype(np.uint8)
        folder = tmp_path / "photos" / f"sub{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.PNG")
    return find_images([str(tmp_path / "photos")])


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_predictions_are_the_networks(model, images, batch):
    found = list(predictor(model).iter_predictions(images, top=3, batch=batch, embeddings=True))
    assert [answer.image for answer in found] == images
    for answer in found:
        image = CentralCrop(32, 36).crop(read_image(Path(answer.image)))
        x = model.normalize(CPU)(to_tensor(image)[None])
        with torch.no_grad():
            chances = model.network(x).softmax(1)[0]
            features = model.network.features(x)["layer3"].mean((2, 3))[0]
        best, index = chances.topk(3)
        assert [entry.name for entry in answer.top] == [CLASSES[i] for i in index.tolist()]
        assert [entry.index for entry in answer.top] == index.tolist()
        np.testing.assert_allclose([entry.probability for entry in answer.top], best, atol=1e-4)
        np.testing.assert_allclose(answer.embedding, features, rtol=1e-3, atol=1e-4)


def test_top_beyond_the_number_of_classes_is_all_classes(model, images):
    (answer,) = predictor(model).predict(images[:1], top=50)
    assert sorted(entry.name for entry in answer.top) == sorted(CLASSES)
    assert sum(entry.probability for entry in answer.top) == pytest.approx(1, abs=1e-3)


def test_images_that_cannot_be_read_have_an_error_among_the_others(model, images, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    names = [images[0], str(bad), "absent.png", images[1]]
    found = predictor(model).predict(names, batch=2)
    assert [answer.error is None for answer in found] == [True, False, False, True]
    assert "no such image" in found[2].error
    assert found[1].as_dict() == {"image": str(bad), "error": found[1].error}


def test_networks_without_pooled_features_say_so(images):
    network = zoo.build("vgg16", 2)
    model = Model(
        network,
        make_card("vgg16", ["a", "b"], {}, []),
        Preprocessing(32, 32, mean=torch.zeros(3, 1, 1)),
    )
    with pytest.raises(UserError, match="no pooled features"):
        next(predictor(model).iter_predictions(images, embeddings=True))
    with pytest.raises(UserError, match="no pooled features"):
        predictor(model).features(images)


def test_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "a/b/2.JPEG", "a/.hidden/3.jpg", "a/notes.txt", "c[1].png", ".x.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert find_images(["a"]) == ["a/1.jpg", "a/b/2.JPEG"]
    assert find_images(["a/**/*.JPEG", "a", "a/notes.txt"]) == [
        "a/b/2.JPEG", "a/1.jpg", "a/notes.txt"
    ]  # fmt: skip
    assert find_images(["c[1].png"]) == ["c[1].png"]  # a file, though it looks like a pattern
    assert find_images([str(tmp_path / "a" / "*.jpg")]) == [str(tmp_path / "a" / "1.jpg")]
    same = ["./a/1.jpg", "a", "a//1.jpg", str(tmp_path / "a" / "1.jpg"), "a/b/../1.jpg"]
    assert find_images(same) == ["./a/1.jpg", "a/b/2.JPEG"]  # each once, by its first name
    assert find_images(["absent.png"]) == ["absent.png"]
    far = "x" * 300 + ".jpg"  # longer than a file's name may be
    assert find_images([far]) == [far]
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "there").symlink_to(tmp_path / "a")
    (tmp_path / "linked" / "back").symlink_to(tmp_path / "linked")
    assert find_images(["linked"]) == ["linked/there/1.jpg", "linked/there/b/2.JPEG"]
    (tmp_path / "empty").mkdir()
    for name in ("empty", "a/*.gif"):
        with pytest.raises(UserError):
            find_images([name])
