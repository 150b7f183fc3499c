"""A predictor in Python, on the shipped model: every kind of image; predictions, features, maps."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.inference.image_inputs import SAMPLES
from resnets.inference.predictions import ClassProbability, Prediction
from resnets.inference.predictor import open_predictor
from resnets.support.errors import UserError
from resnets.weights import hub, model_file

NAMES = ["horse", "ship", "cat"]
FILES = [SAMPLES / f"{name}.png" for name in NAMES]


@pytest.fixture(scope="module")
def model():
    return open_predictor("cifar-resnet20", "torch", "fp32", "cpu")


@pytest.fixture(scope="module")
def arrays():
    return [np.asarray(Image.open(file).convert("RGB")) for file in FILES]


def tops(predictions):
    return [prediction.top for prediction in predictions]


def test_paths_pictures_arrays_and_tensors_give_the_same(model, arrays):
    expected = model.predict(FILES, top=3)
    assert [one.image for one in expected] == list(map(str, FILES))
    assert [one.top[0].name for one in expected] == NAMES
    assert all(len(one.top) == 3 and one.error is None for one in expected)
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    for images in (
        list(map(str, FILES)),
        [Image.open(file) for file in FILES],
        arrays,
        np.stack(arrays),
        tensors,
        torch.stack(tensors),
        (array for array in arrays),
        [FILES[0], arrays[1], tensors[2]],
    ):
        for batch in (2, 16):
            found = model.predict(images, top=3, batch=batch)
            if isinstance(images, list | np.ndarray | torch.Tensor):
                assert len(found) == 3
            for one, wanted in zip(tops(found), tops(expected), strict=False):
                assert [entry.name for entry in one] == [entry.name for entry in wanted]
                for entry, other in zip(one, wanted, strict=True):
                    assert entry.probability == pytest.approx(other.probability, abs=1e-5)


def test_a_single_image_is_a_list_of_one(model, arrays):
    for image in (FILES[1], str(FILES[1]), Image.open(FILES[1]), arrays[1]):
        (found,) = model.predict(image)
        best = found.top[0]
        assert (best.name, best.index, best.id) == ("ship", 8, None)
        assert best.name == model.classes[best.index]
    assert model.predict(arrays[1])[0].image == "images[0]"
    assert model.predict([]) == []


def test_pictures_of_other_modes_are_read_as_their_files_are(model, tmp_path):
    picture = Image.open(FILES[0]).convert("RGB").resize((60, 40))
    variants = {"grey": picture.convert("L"), "clear": picture.convert("RGBA"), "turned": picture}
    variants["clear"].putalpha(120)
    for name, variant in variants.items():
        file = tmp_path / f"{name}.png"
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "turned" else 1
        variant.save(file, exif=exif)
        assert tops(model.predict(Image.open(file))) == tops(model.predict(file))


def test_images_that_cannot_be_read_have_an_error(model, arrays, tmp_path):
    (tmp_path / "cut.png").write_bytes(FILES[0].read_bytes()[:700])
    cut = Image.open(tmp_path / "cut.png")
    found = model.predict(["absent.png", arrays[0], tmp_path / "cut.png", cut])
    assert [one.error is None for one in found] == [False, True, False, False]
    assert found[0].error == "no such image"
    assert found[3].image == str(tmp_path / "cut.png")
    with pytest.raises(UserError, match=r"absent\.png: no such image"):
        model.features([FILES[0], "absent.png"])
    with pytest.raises(UserError, match=r"absent\.png: no such image"):
        model.explain("absent.png")


@pytest.mark.parametrize("image", [
    np.zeros((3, 32, 32), np.uint8), np.zeros((32, 32), np.uint8), np.zeros((32, 32, 4), np.uint8),
    np.zeros((32, 32, 3), np.float32), np.zeros((0, 32, 3), np.uint8),
    torch.zeros(32, 32, 3, dtype=torch.uint8), torch.zeros(3, 32, 32), torch.zeros(32),
])  # fmt: skip
def test_arrays_of_other_shapes_and_types_are_refused(model, image):
    with pytest.raises(ValueError, match="uint8 RGB pixels"):
        model.predict([image])
    with pytest.raises(ValueError, match="uint8 RGB pixels"):
        model.predict(image)


def test_other_types_are_refused(model):
    for wrong in (3, [3]):
        with pytest.raises(TypeError, match="not an image: int"):
            model.predict(wrong)


def test_features_are_the_networks(model, arrays):
    network = hub.load("cifar-resnet20")
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        maps = network.network.features(network.normalize(torch.device("cpu"))(pixels))
    pooled = model.features(FILES, batch=2)
    assert (pooled.shape, pooled.dtype) == ((3, 64), np.float32)
    np.testing.assert_allclose(pooled, maps["layer3"].mean((2, 3)), rtol=1e-3, atol=1e-4)
    for stage in ("stem", "layer1", "layer2", "layer3"):
        found = model.features(FILES, stage, batch=2)
        assert found.shape == tuple(maps[stage].shape)
        np.testing.assert_allclose(found, maps[stage], rtol=1e-3, atol=1e-4)
    assert model.features(FILES[0]).shape == (1, 64)
    with pytest.raises(UserError, match="layer4: no such stage; known: stem, layer1"):
        model.features(FILES, "layer4")
    with pytest.raises(ValueError, match="no images"):
        model.features([])


def test_features_are_not_rounded_to_int8(model):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    short = open_predictor("cifar-resnet20", precision="int8")
    assert short.runtime.name == "openvino int8"
    expected = model.features(FILES)
    found = short.features(FILES)
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    assert short.runtime.name == "openvino int8"


def test_the_most_probable_class_or_another_is_explained(model):
    found = model.explain(FILES[0])
    assert found.image == str(FILES[0])
    assert found.explained == found.top[0]
    assert found.explained.name == "horse"
    assert [stage.stage for stage in found.stages] == ["stem", "layer1", "layer2", "layer3"]
    assert found.overlay("layer3").size == (320, 320)
    assert found.sheet().width > 5 * 320
    for wanted in ("deer", "DEER", 4, "4"):
        other = model.explain(Image.open(FILES[0]), wanted, stage="layer2")
        assert (other.explained.name, other.explained.index) == ("deer", 4)
        assert [stage.stage for stage in other.stages] == ["layer2"]
        assert other.top == found.top
    with pytest.raises(UserError, match="no such stage; known: layer2"):
        other.overlay("layer3")
    with pytest.raises(UserError, match="did you mean deer"):
        model.explain(FILES[0], "deeer")
    with pytest.raises(UserError, match="no such stage"):
        model.explain(FILES[0], stage="layer9")


def test_results_are_readable_as_text_and_in_notebooks(model):
    assert repr(model) == "<Predictor cifar-resnet20: 10 classes, torch fp32>"
    top = [ClassProbability("a<b", 0.75, 1), ClassProbability("c", 0.25, 0)]
    found = Prediction("<x>.png", top)
    assert repr(found) == "<Prediction of <x>.png: a<b 75.0 %, c 25.0 %>"
    page = found._repr_html_()
    assert "&lt;x&gt;.png" in page
    assert "a&lt;b" in page
    assert "75.00 %" in page
    bad = Prediction("x.png", error="not <an> image")
    assert repr(bad) == "<Prediction of x.png: not <an> image>"
    assert "not &lt;an&gt; image" in bad._repr_html_()
    explanation = model.explain(FILES[0], stage="layer3")
    assert repr(explanation).endswith("horse.png: horse 100.0 %, stages layer3>")
    page = explanation._repr_html_()
    assert "data:image/png;base64,iVBOR" in page
    assert "horse" in page


def test_classes_have_the_identifiers_of_the_card(model, tmp_path):
    shipped = hub.load("cifar-resnet20")
    ids = [f"n{number:08}" for number in range(10)]
    card = model_file.make_card("cifar-resnet20", shipped.classes, {}, [], ids)
    path = tmp_path / "named.safetensors"
    model_file.save(path, shipped.network.state_dict(), shipped.preprocessing, card)
    found = open_predictor(str(path), "torch", "fp32")
    assert found.predict(FILES[1])[0].top[0].id == ids[8]
    assert found.explain(FILES[1]).explained.id == ids[8]
    assert found.predict(FILES[1])[0].as_dict()["top"][0].keys() == {"class", "probability"}


@pytest.mark.parametrize("name", ["top", "batch"])
def test_counts_that_are_none_are_refused(model, arrays, name):
    for value, error in (("a", TypeError), (2.5, TypeError), (None, TypeError), (0, ValueError),
                         (-1, ValueError)):  # fmt: skip
        with pytest.raises(error, match=f"{name} must be .*{value!r}"):
            model.predict(arrays, **{name: value})
    assert len(model.predict(arrays, **{name: np.int64(1)})) == len(arrays)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        model.features(arrays, batch=0)


def test_images_without_pixels_are_errors(model):
    for size in ((0, 5), (5, 0), (0, 0)):
        (found,) = model.predict(Image.new("RGB", size))
        assert found.error == "the image has no pixels"
    with pytest.raises(ValueError, match="uint8 RGB"):
        model.predict(np.zeros((0, 5, 3), np.uint8))
    assert model.predict([]) == model.predict(np.zeros((0, 5, 5, 3), np.uint8)) == []


def test_what_is_no_image_is_named(model, tmp_path):
    for name, message in (
        ("", "the name of the image is empty"),
        (tmp_path, "cannot be read (is a folder)"),
        ("a\0b.png", "cannot be read (embedded null byte)"),
    ):
        assert message in model.predict(name)[0].error
        with pytest.raises(UserError, match=re.escape(message)):
            model.features(name)
        with pytest.raises(UserError, match=re.escape(message)):
            model.explain(name)
    for value, kind in ((None, "NoneType"), (b"x", "bytes"), ({}, "dict"), ([None], "NoneType")):
        with pytest.raises(TypeError, match=f"not an image: {kind}; give a path"):
            model.predict(value)
