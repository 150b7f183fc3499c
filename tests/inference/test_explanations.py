"""Explanations of files: the network's maps over its input, in a folder with page and record."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.analysis import activation_maps
from resnets.data.preprocessing import Preprocessing, to_tensor
from resnets.inference import explanation_files, explanations, export_folder
from resnets.inference.explanation_files import ExplanationOptions
from resnets.models import zoo
from resnets.support.errors import UserError
from resnets.weights import model_file
from resnets.weights.model_file import Model, make_card
from tests.cli.test_files_of_0_1 import FILES
from tests.conftest import draw_photos
from tests.inference.test_runtimes import used

CLASSES = ["cat", "Cat", "bird", "twin", "twin", "2", "dog"]
PREPROCESSING = Preprocessing(
    32, 36, mean=torch.full((3, 1, 1), 0.45), std=torch.full((3, 1, 1), 0.25)
)


@pytest.fixture(scope="module")
def model():
    card = make_card("cifar-resnet8", CLASSES, {}, [])
    return Model(used("cifar-resnet8"), card, PREPROCESSING)


@pytest.fixture
def photos(tmp_path):
    draw_photos(tmp_path / "photos", {"a": 2, "b": 1}, size=(60, 40))
    return sorted(str(path) for path in (tmp_path / "photos").rglob("*.png"))


def run(model, images, folder, **options):
    options = ExplanationOptions(**options)
    explanation_files.prepare_folder(model, folder, options.stage)
    return list(explanation_files.explain_files(model, images, folder, options))


def test_the_maps_are_those_of_the_networks_input(model, photos):
    image = Image.open(photos[0])
    x = model.normalize(torch.device("cpu"))(to_tensor(PREPROCESSING.crop(image))[None])
    with torch.no_grad():
        logits = model.network(x)[0]
    found = explanations.explain(model, image)
    torch.testing.assert_close(torch.from_numpy(found.logits), logits)
    assert found.explained.index == int(logits.argmax())
    other = explanations.explain(model, image, 6)
    expected = activation_maps.stage_maps(model.network, x, 6)
    for mine, its in zip(other.stages, expected.stages, strict=True):
        torch.testing.assert_close(mine.values, its.values)


@pytest.mark.parametrize(("width", "height"), [(120, 60), (60, 120), (64, 64), (200, 41)])
def test_pictures_show_the_part_that_the_network_saw(model, tmp_path, width, height):
    """The crop that the network sees is white, the rest black: the pictures are white."""
    left, top, right, bottom = PREPROCESSING.box(width, height)
    assert right - left == pytest.approx(bottom - top, rel=0.02)
    assert right - left == pytest.approx(min(width, height) * 32 / 36, rel=0.02)
    assert left + right == pytest.approx(width, abs=2.5)  # as whole pixels of the scaled image
    assert top + bottom == pytest.approx(height, abs=2.5)
    image = Image.new("RGB", (width, height), "black")
    image.paste("white", (int(left), int(top), math.ceil(right), math.ceil(bottom)))
    image.save(tmp_path / "white.png")
    (found,) = run(model, [str(tmp_path / "white.png")], tmp_path / "out", opacity=0)
    picture = np.asarray(Image.open(tmp_path / "out" / found.files["layer3"]))
    assert picture.shape == (320, 320, 3)
    edge = 12  # more than one pixel of the photograph, which mixes with those outside
    assert picture[edge:-edge, edge:-edge].min() > 250
    assert picture.min() > 120


def test_every_stage_has_a_picture_and_a_panel_of_the_sheet(model, photos, tmp_path):
    out = tmp_path / "out"
    found = run(model, photos, out)
    for file, one in zip(photos, found, strict=True):
        explanation = explanations.explain(model, Image.open(file))
        assert one.image == file
        best = torch.from_numpy(explanation.logits).softmax(0)
        assert one.explained.name == CLASSES[int(best.argmax())]
        assert one.explained.probability == pytest.approx(float(best.max()), abs=1e-4)
        assert one.top[0] == one.explained
        assert len(one.top) == 5
        assert list(one.files) == ["stem", "layer1", "layer2", "layer3", "stages"]
        sheet = Image.open(out / one.files["stages"])
        assert sheet.width > 5 * 320  # what the network sees, and four stages
    names = [name for one in found for name in one.files.values()]
    assert len(set(names)) == len(names)
    assert {path.name for path in out.iterdir()} == {*names, "index.html", "explanations.json"}
    record = json.loads((out / "explanations.json").read_text())
    assert record["network"] == "cifar-resnet8"
    assert [one["image"] for one in record["images"]] == photos
    stages = record["images"][0]["stages"]
    assert [stage["method"] for stage in stages] == ["grad-cam"] * 3 + ["cam"]
    assert (stages[3]["channels"], stages[3]["height"], stages[3]["width"]) == (64, 8, 8)


def test_a_picture_is_the_map_over_the_photograph(model, photos, tmp_path):
    """At full opacity brightness follows the map's values."""
    (found,) = run(model, photos[:1], tmp_path / "out", index=2, opacity=1)
    values = explanations.explain(model, Image.open(photos[0]), 2).stages[-1].values.numpy()
    picture = Image.open(tmp_path / "out" / found.files["layer3"]).convert("L")
    small = np.asarray(picture.resize((8, 8), Image.Resampling.BOX))
    assert np.corrcoef(small.flatten(), values.flatten())[0, 1] > 0.95
    assert found.explained.index == 2
    assert found.explained.name == "bird"


def test_one_stage_alone(model, photos, tmp_path):
    found = run(model, photos, tmp_path / "out", stage="layer2")
    assert all(list(one.files) == ["layer2"] for one in found)
    assert "layer2.png" in (tmp_path / "out" / "index.html").read_text()


def test_unreadable_images_have_an_error_and_the_rest_are_explained(model, photos, tmp_path):
    bad = tmp_path / "bad<b>&.png"
    bad.write_bytes(b"no image")
    found = run(model, [str(bad), str(tmp_path / "absent.png"), photos[0]], tmp_path / "out")
    kind = 'not an image, but a text file that begins "no image"'
    reason = f"{kind}; remove it, or get the image again"
    assert [one.error for one in found] == [reason, "no such image", None]
    record = json.loads((tmp_path / "out" / "explanations.json").read_text())
    assert record["images"][0] == {"image": str(bad), "error": reason}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "bad&lt;b&gt;&amp;.png" in page
    assert "<b>" not in page
    assert "not an image" in page
    assert found[2].files["stages"] in page


def test_images_of_one_name_do_not_overwrite_each_other(model, tmp_path):
    names = ["a/same.png", "b/same.png", "c/SAME.png", "same_2.png", "a b.png", "a?b.png", "ä.png"]
    for number, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (36, 36), (number * 30, 80, 80)).save(path)
    images = [str(tmp_path / name) for name in names]
    found = run(model, images, tmp_path / "out", stage="stem")
    files = [one.files["stem"] for one in found]
    assert len({file.lower() for file in files}) == len(names)
    assert all((tmp_path / "out" / file).is_file() for file in files)
    assert all(file.isascii() and " " not in file for file in files)


def test_folders_with_other_files_are_refused(model, photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        explanation_files.prepare_folder(model, other)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="in the way"):
        explanation_files.prepare_folder(model, other / "thesis.tex")
    out = tmp_path / "out"
    with pytest.raises(UserError, match="known: all, stem, layer1, layer2, layer3"):
        explanation_files.prepare_folder(model, out, "layer4")
    assert not out.exists()
    run(model, photos[:1], out)
    run(model, photos[1:2], out)  # its own may be used again
    record = json.loads((out / "explanations.json").read_text())
    assert [one["image"] for one in record["images"]] == photos[1:2]
    listed = {name for one in record["images"] for name in one["files"].values()}
    assert {path.name for path in out.iterdir()} == listed | {"explanations.json", "index.html"}
    (out / ".DS_Store").touch()
    (out / "thesis-final.png").touch()
    with pytest.raises(UserError, match=r"holds other files: thesis-final\.png; give a new folder"):
        run(model, photos[:1], out)
    assert {path.name for path in out.iterdir()} > listed
    (out / "thesis-final.png").unlink()
    run(model, photos[:1], out, stage="layer2")
    assert len(list(out.glob("*.png"))) == 1
    assert (out / ".DS_Store").exists()


@pytest.mark.parametrize(
    ("wanted", "index"),
    [("bird", 2), ("BIRD", 2), ("cat", 0), ("Cat", 1), ("2", 5), (2, 2), ("3", 3), (" dog ", 6)],
)
def test_a_class_is_found_by_name_or_number(wanted, index):
    assert explanations.find_class(CLASSES, wanted) == index


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("brid", "did you mean bird"), ("7", "from 0 to 6"), ("9" * 5000, "from 0 to 6"),
     ("\u0663", "known: "), ("-1", "from 0 to 6"),
     (7, "from 0 to 6"), (-1, "from 0 to 6"),
     ("twin", "give 3 or 4"), ("CAT", "give 0 or 1"), ("", "no such class")],
)  # fmt: skip
def test_unknown_and_ambiguous_classes_are_errors(wanted, words):
    with pytest.raises(UserError, match=words):
        explanations.find_class(CLASSES, wanted)


def save(path, network, preprocessing):
    card = make_card(network, CLASSES, {}, [])
    with torch.device("cpu"):
        model_file.save(path, zoo.build(network, len(CLASSES)).state_dict(), preprocessing, card)
    return path


def test_networks_without_stages_are_refused(monkeypatch):
    with torch.device("meta"):
        network = zoo.build("vgg16", 2)
    monkeypatch.setattr(model_file, "load", lambda name: Model(network, {}, PREPROCESSING))
    with pytest.raises(UserError, match="without stages"):
        explanations.load_network("cifar-resnet20")  # any that is there


def test_an_export_is_explained_by_the_model_file_in_its_folder(tmp_path):
    export = tmp_path / "export"
    export.mkdir()
    for name in (export_folder.CONFIG, "model.onnx"):
        shutil.copy(FILES / "export-onnx" / name, export)
    with pytest.raises(UserError, match="weights that the export was made from") as error:
        explanations.load_network(str(export))
    assert error.value.location == str(export / "model.safetensors")
    source = save(Path(export) / "model.safetensors", "cifar-resnet8", PREPROCESSING)
    assert explanations.load_network(str(export)).classes == CLASSES
    assert explanations.load_network(str(source)).classes == CLASSES
