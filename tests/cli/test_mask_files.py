"""Masks on the command line: `detect`, `eval`, `train` and `info`."""

import json

import pytest

from resnets.data.boxes import run_lengths
from resnets.data.boxes.conversion import convert
from resnets.data.boxes.datasets import open_boxes
from tests.detection.files import noisy_blocks, save_detector
from tests.detection.shapes import draw_boxes, draw_discs


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_detector(tmp_path_factory.mktemp("masks") / "shapes.safetensors", masks=True)


@pytest.fixture
def image(tmp_path):
    noisy_blocks((300, 200)).save(tmp_path / "blocks.png")
    return tmp_path / "blocks.png"


@pytest.fixture
def data(tmp_path):
    """Drawn discs as COCO JSON, with their polygons."""
    sets = {"train": draw_discs(tmp_path / "drawn", "train", 2),
            "test": draw_discs(tmp_path / "drawn", "test", 3, seed=9)}  # fmt: skip
    convert(sets, tmp_path / "data", "coco")
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["out.jsonl", "out.json", "labels"])
def test_files_hold_masks(resnets, path, image, name):
    code, *_ = resnets(
        "detect", path, image, "--out", name, "--score", "0.3", "--precision", "fp32"
    )
    assert code == 0
    if name == "labels":
        lines = (image.parent / name / "blocks.txt").read_text().splitlines()
        assert all(len(line.split()) > 7 for line in lines)
        values = [float(value) for line in lines for value in line.split()[1:]]
        assert 0 <= min(values) <= max(values) <= 1
        return
    text = (image.parent / name).read_text()
    objects = json.loads(text)["objects"] if name == "out.jsonl" else json.loads(text)
    assert objects
    for one in objects:
        assert run_lengths.decode(one["segmentation"]).shape == (200, 300)


def test_labels_of_yolo_are_read_as_segments(resnets, path, image):
    root = image.parent
    resnets("detect", path, image, "--out", root / "labels", "--score", "0.3")
    folder = root / "set"
    for part in ("images", "labels"):
        (folder / part / "train").mkdir(parents=True)
    image.rename(folder / "images" / "train" / "blocks.png")
    (root / "labels" / "blocks.txt").rename(folder / "labels" / "train" / "blocks.txt")
    (root / "labels" / "classes.txt").rename(folder / "classes.txt")
    for part, ending in (("images", "png"), ("labels", "txt")):
        file = folder / part / "train" / f"blocks.{ending}"
        (file.parent / f"again.{ending}").write_bytes(file.read_bytes())
    (one,) = open_boxes(folder, "train").images
    assert all(each.polygons for each in one.objects)


def test_eval_measures_boxes_and_masks(resnets, path, data, tmp_path):
    code, text, _ = resnets("eval", path, data, "--save-scores", "found.json", "--plot", "c.png",
                            "--draw", "worst")  # fmt: skip
    assert code == 0
    for part in ("\nmask AP50 ", "\nmask AR100 ", "AP50   mask AP   mask AP50"):
        assert part in text, text
    before = json.loads(resnets("eval", path, data, "--json")[1])
    after = json.loads(resnets("eval", "found.json", data, "--json")[1])
    assert after["mask_AP"] == pytest.approx(before["mask_AP"], abs=0.01)
    assert {"mask_AP", "mask_AP50"} <= set(before["categories"][0])


def test_eval_without_segments_says_that_masks_are_not_measured(resnets, path, tmp_path):
    sets = {"train": draw_boxes(tmp_path / "d", "train", 2),
            "test": draw_boxes(tmp_path / "d", "test", 2, seed=9)}  # fmt: skip
    convert(sets, tmp_path / "data", "coco")
    code, text, error = resnets("eval", path, tmp_path / "data")
    assert code == 0
    assert "mask AP" not in text
    assert error.endswith("objects without a segment, so masks are not measured\n")


def test_training_masks_without_segments_is_refused_in_one_line(resnets, path, tmp_path):
    sets = {"train": draw_boxes(tmp_path / "d", "train", 2),
            "test": draw_boxes(tmp_path / "d", "test", 2, seed=9)}  # fmt: skip
    convert(sets, tmp_path / "data", "coco")
    code, _, error = resnets("train", "segment-finetune", "--data", tmp_path / "data",
                             "--init", path, "--network", "cifar-resnet8")  # fmt: skip
    assert code == 2
    assert len(error.splitlines()) == 1
    assert "3 of 3 objects have no segment to train or test masks with" in error


def test_info_of_the_recipe(resnets):
    assert "segment-finetune: Mask R-CNN on resnet50" in resnets("info", "segment-finetune")[1]
