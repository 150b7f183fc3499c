"""Files of detections: four formats, each resumed and never mixed with another run's."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from resnets.data.boxes.datasets import open_boxes
from resnets.detection.metrics.detections import Thresholds
from resnets.inference import detection_files
from resnets.inference.detection_results import DetectedObject, ImageDetections
from resnets.inference.prediction_files import write_predictions
from resnets.inference.predictor import Identity
from resnets.support.errors import UserError

CATEGORIES = ["raccoon", "trash panda"]
FOUND = {
    "a/000042.jpg": [("raccoon", 0.75, (1, 2, 31, 22)), ("trash panda", 0.5, (0, 0, 64, 48))],
    "a/b.jpg": [],
    "b.jpg": [("raccoon", 0.9, (10.254, 5, 20, 15))],
}


def origin(**changes):
    options = {"tile": None, "every": 1, **changes}
    identity = Identity("resnet50", "digest", "torch fp32", 2)
    return detection_files.origin_of(identity, Thresholds(0.5, 0.3, 100), **options)


def predict(names):
    for name in names:
        if name not in FOUND:
            yield ImageDetections(name, error="no such image")
            continue
        objects = [
            DetectedObject(label, score, box, CATEGORIES.index(label))
            for label, score, box in FOUND[name]
        ]
        yield ImageDetections(name, 64, 48, objects)


def write(path, names, *, origin=origin(), retry=False):  # noqa: B008
    with detection_files.open_file(path, origin, CATEGORIES, retry=retry) as output:
        return write_predictions(output, names, predict, batch=1)


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.json", "labels"])
def test_a_second_command_adds_what_is_missing(tmp_path, name):
    path = tmp_path / name
    names = [*FOUND, "gone.jpg"]
    first = write(path, [names[0], "gone.jpg"])
    assert (first.computed, first.skipped, first.failed) == (2, 0, 1)
    second = write(path, names)
    assert (second.computed, second.skipped, second.failed) == (2, 2, 1)
    whole = tmp_path / f"whole{path.suffix}"
    write(whole, [names[0], "gone.jpg", *names[1:3]])
    if path.is_dir():
        assert {p.relative_to(path): p.read_text() for p in path.rglob("*.txt")} == {
            p.relative_to(whole): p.read_text() for p in whole.rglob("*.txt")
        }
    else:
        assert path.read_text() == whole.read_text()
    assert write(path, names, retry=True).computed == 1
    with pytest.raises(UserError, match="made with another model or other options"):
        write(path, names, origin=origin(tile=500))


def test_a_killed_command_loses_nothing(tmp_path):
    path = tmp_path / "out.csv"
    write(path, ["b.jpg"])
    path.unlink()  # as if the kill had come before it was written
    lines = tmp_path / "out.csv.jsonl"
    lines.write_bytes(lines.read_bytes() + b'{"image": "a/b.j')
    assert write(path, list(FOUND)).computed == 2
    assert {row["image"] for row in csv.DictReader(path.read_text().splitlines())} == set(FOUND)


def test_an_interrupted_command_leaves_a_whole_file(tmp_path):
    path = tmp_path / "out.json"

    def interrupted():
        with detection_files.open_file(path, origin(), CATEGORIES) as output:
            output.write(list(predict(["b.jpg"])))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(json.loads(path.read_text())) == 1


def test_csv_has_a_row_for_each_object(tmp_path):
    path = tmp_path / "out.csv"
    write(path, [*FOUND, "gone.jpg"])
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["category"] for row in rows] == ["raccoon", "trash panda", "", "raccoon", ""]
    assert rows[3]["x1"] == "10.25"
    assert rows[4]["error"] == "no such image"
    assert rows[2]["width"] == "64"


def test_coco_results_have_ids_and_names(tmp_path):
    path = tmp_path / "out.json"
    write(path, list(FOUND))
    first, _, last = json.loads(path.read_text())
    assert first == {
        "image_id": 42, "category_id": 1, "bbox": [1, 2, 30, 20], "score": 0.75,
        "file_name": "a/000042.jpg", "category": "raccoon",
    }  # fmt: skip
    assert (last["image_id"], last["file_name"]) == ("b.jpg", "b.jpg")
    write(tmp_path / "none.json", ["a/b.jpg"])
    assert json.loads((tmp_path / "none.json").read_text()) == []


def test_yolo_labels_are_read_as_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in FOUND:
        Path("data/images", name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(Path("data/images", name))
    found = dict(FOUND)
    for name, objects in found.items():
        FOUND[f"data/images/{name}"] = objects
    try:
        write(Path("data/labels"), [f"data/images/{name}" for name in found])
    finally:
        for name in found:
            del FOUND[f"data/images/{name}"]
    assert Path("data/labels/a/b.txt").read_text() == ""
    sets = [open_boxes(Path("data"), split) for split in ("train", "test")]
    assert sets[0].categories == tuple(CATEGORIES)
    objects = {image.name: image.objects for one in sets for image in one.images}
    (own,) = objects["images/b.jpg"]
    assert own.box == pytest.approx((10.25, 5, 20, 15), abs=1e-3)


def test_labels_of_one_name_are_refused():
    texts = detection_files.label_files(["x/a.jpg", "x/y/a.jpg", "x/clip.mp4#25"])
    assert [text.replace("\\", "/") for text in texts.values()] == [
        "a.txt", "y/a.txt", "clip_000025.txt"
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"x/a\.jpg and x/a\.png would have the same labels"):
        detection_files.label_files(["x/a.jpg", "x/a.png"])


def test_pictures_have_names_of_their_own():
    names = detection_files.picture_files(["x/a.jpg", "x/A.png", "x/y/a.jpg", "x/b#3.jpg"])
    assert [name.replace("\\", "/") for name in names.values()] == ["a", "A_2", "y/a", "b#3"]
    url = "https://x.example/p/cat.jpg?size=3"
    assert list(detection_files.picture_files([url]).values()) == ["cat"]


@pytest.mark.parametrize("name", ["out.parquet", "out.xml"])
def test_unknown_outputs_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"unknown kind of output.*without an ending"):
        detection_files.check_path(tmp_path / name)


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "labels"])
def test_files_of_others_are_kept(tmp_path, name):
    path = tmp_path / name
    if path.suffix:
        path.write_text("mine")
    else:
        path.mkdir()
    with pytest.raises(UserError, match="was not written by this command"):
        write(path, ["b.jpg"])
    assert not path.suffix or path.read_text() == "mine"
