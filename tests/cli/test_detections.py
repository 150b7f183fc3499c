"""`resnets detect`, and `resnets eval` of detectors."""

import csv
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.data.boxes.conversion import convert
from resnets.data.boxes.datasets import open_boxes
from resnets.inference.image_inputs import SAMPLES
from tests.conftest import draw_photos
from tests.detection.files import save_detector
from tests.detection.shapes import draw_boxes
from tests.inference.test_object_detector import write_video


@pytest.fixture
def detector(trained_detector):
    return trained_detector


@pytest.fixture
def data(tmp_path):
    """Drawn images with boxes as COCO JSON."""
    sets = {
        "train": draw_boxes(tmp_path / "drawn", "train", 3),
        "test": draw_boxes(tmp_path / "drawn", "test", 5, seed=9),
    }
    convert(sets, tmp_path / "data", "coco")
    return tmp_path / "data"


def test_objects_are_printed(resnets, detector, data):
    code, text, _ = resnets("detect", detector, data / "val" / "test0.png", "--score", "0.3")
    assert code == 0
    assert "test0.png (48 x 40)" in text
    assert " %  red " in text
    code, text, _ = resnets("detect", detector, data / "val" / "test0.png", "--score", "1")
    assert text.splitlines()[1:] == ["  no objects"]
    code, text, _ = resnets("detect", detector, data, "--json", "--score", "0.1")
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 8
    assert all(set(row) == {"image", "width", "height", "objects"} for row in rows)


def test_unreadable_images_do_not_stop_the_others(resnets, detector, data):
    (data / "val" / "cut.png").write_bytes((data / "val" / "test0.png").read_bytes()[:200])
    code, text, error = resnets("detect", detector, data / "val", "--out", "found.csv")
    assert code == 1
    assert " in 6 images, written to found.csv" in text
    assert error == "resnets: 1 image could not be read\n"
    code, text, _ = resnets("detect", detector, data / "val", "--out", "found.csv")
    assert code == 1
    assert text == "0 objects in 0 images, written to found.csv, 6 were there already\n"
    (data / "val" / "cut.png").write_bytes((data / "val" / "test0.png").read_bytes())
    assert resnets("detect", detector, data / "val", "--out", "found.csv", "--retry")[0] == 0
    rows = csv.DictReader(Path("found.csv").read_text().splitlines())
    assert {row["error"] for row in rows} == {""}
    command = ("detect", detector, data / "val", "--out", "found.csv", "--score", "0.2")
    code, _, error = resnets(*command)
    assert (code, error) == (
        2, "resnets: found.csv.jsonl: was made with another model or other options; "
        "give another --out\n",
    )  # fmt: skip


def test_boxes_are_drawn_into_copies(resnets, detector, data):
    code, text, _ = resnets("detect", detector, data / "val", "--draw", "pics", "--score", "0.2")
    assert code == 0
    assert text.endswith("Drawn in pics\n")
    assert sorted(path.name for path in Path("pics").iterdir()) == [
        f"test{number}.jpg" for number in range(5)
    ]
    before = np.asarray(Image.open(data / "val" / "test0.png")).astype(int)
    after = np.asarray(Image.open("pics/test0.jpg")).astype(int)
    assert before.shape == after.shape
    assert np.abs(after - before).max() > 60


def test_standard_input_is_an_image(resnets, detector, data, monkeypatch):
    content = (data / "val" / "test0.png").read_bytes()

    def pipe():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    pipe()
    code, text, _ = resnets("detect", detector, "-", "--json")
    assert (code, json.loads(text)["image"]) == (0, "-")
    pipe()
    code, _, error = resnets("detect", detector, "-", "--out", "x.jsonl")
    assert (code, "standard input has no name" in error) == (2, True)


def test_frames_of_a_video(resnets, detector, tmp_path):
    clip = write_video(tmp_path / "clip.mp4")
    code, text, _ = resnets("detect", detector, "clip.mp4", "--every", "3")
    assert code == 0
    assert [line.split(":")[0] for line in text.splitlines()] == [
        "clip.mp4#0 at 0.00 s", "clip.mp4#3 at 0.60 s", "clip.mp4#6 at 1.20 s"
    ]  # fmt: skip
    command = ("detect", detector, clip, "--every", "3", "--out", "frames.jsonl", "--draw", "d")
    assert " in 3 images" in resnets(*command)[1]
    rows = Path("frames.jsonl").read_text().splitlines()
    Path("frames.jsonl").write_text("\n".join(rows[:2]) + "\n")
    assert " in 1 image" in resnets(*command)[1]
    assert Path("frames.jsonl").read_text().splitlines() == rows
    names = ["clip_000000.jpg", "clip_000003.jpg", "clip_000006.jpg"]
    assert sorted(path.name for path in Path("d").iterdir()) == names


def test_detections_are_tested(resnets, detector, data):
    code, text, error = resnets(
        "eval", detector, data, "--save-scores", "found.json", "--plot", "curves.png",
        "--draw", "worst",
    )  # fmt: skip
    assert (code, error) == (0, "")
    for part in ("5 images with 7 objects; shorter side 40; metric coco", "AP50 ", "ARl ",
                 "95 % interval", "localization", "background", "images/s"):  # fmt: skip
        assert part in text
    assert Image.open("curves.png").size[0] > 400
    assert len(list(Path("worst").iterdir())) >= 1
    code, again, _ = resnets("eval", "found.json", data, "--json")
    code, fresh, _ = resnets("eval", detector, data, "--json")
    for key in ("AP", "AP50", "intervals", "errors", "confusion", "categories"):
        assert json.loads(again)[key] == json.loads(fresh)[key]
    for metric in ("voc07", "voc12"):
        code, text, _ = resnets("eval", detector, data, "--metric", metric, "--limit", "3")
        assert code == 0
        assert "3 images with" in text
        assert "mAP " in text


def test_results_of_detect_are_tested_by_name(resnets, detector, data):
    assert resnets("detect", detector, data, "--out", "x.json", "--score", "0.05")[0] == 0
    code, text, error = resnets("eval", "x.json", data, "--json")
    assert code == 0
    assert "left out" in error  # those of training images
    facts = json.loads(resnets("eval", detector, data, "--json")[1])
    assert json.loads(text)["AP50"] == pytest.approx(facts["AP50"], abs=0.5)
    assert "run lengths" not in error  # it has no masks at all


def test_a_detection_without_run_lengths_is_counted(resnets, detector, data):
    assert resnets("eval", detector, data, "--save-scores", "found.json")[0] == 0
    path = Path("found.json")
    rows = json.loads(path.read_text())
    rows[0]["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    path.write_text(json.dumps(rows))
    code, text, error = resnets("eval", "found.json", data, "--json")
    assert code == 0
    count = f"{len(rows)} of {len(rows)} detections have"
    assert error == f"found.json: {count} no run lengths, so masks are not measured\n"
    assert not [key for key in json.loads(text) if "mask" in key]


def test_data_may_have_less_and_not_more_categories(resnets, detector, data):
    path = data / "annotations" / "instances_val.json"
    facts = json.loads(path.read_text())
    for split in ("train", "val"):
        file = data / "annotations" / f"instances_{split}.json"
        facts = json.loads(file.read_text())
        facts["categories"] = [one for one in facts["categories"] if one["name"] == "red"]
        facts["annotations"] = [one for one in facts["annotations"] if one["category_id"] == 1]
        file.write_text(json.dumps(facts))
    assert open_boxes(data, "test").categories == ("red",)
    code, _, error = resnets("eval", detector, data)
    assert (code, error) == (0, f"{data}: not annotated, so left out: green\n")
    for split in ("train", "val"):
        file = data / "annotations" / f"instances_{split}.json"
        file.write_text(file.read_text().replace('"red"', '"zebra"'))
    code, _, error = resnets("eval", detector, data)
    assert code == 2
    assert "the detector knows red, green, not zebra; train one on these images" in error


def one_line(result, *parts):
    code, _, error = result
    assert code == 2
    assert len(error.splitlines()) == 1
    for part in parts:
        assert part in error


def test_wrong_models_get_the_right_verb(resnets, detector, data, tmp_path):
    image = data / "val" / "test0.png"
    one_line(resnets("detect", "cifar-resnet20", image), "is a classifier", "resnets predict")
    one_line(resnets("detect", image, image), "the model comes first", "resnets detect")
    draw_photos(tmp_path / "photos", {"a": 2, "b": 2})
    for command in (
        ("predict", detector, image),
        ("predict", detector, image, "--precision", "int8"),
        ("explain", detector, image, "--out", "why"),
        ("explain", detector, image, "--out", "why", "--nearest", data),
        ("deepen", detector, "--to", "14", "--out", "deep.safetensors"),
        ("responses", detector),
    ):
        one_line(resnets(*command), "is a detector, not a classifier", "resnets detect")
    assert not Path("why").exists()
    command = ("quantize", detector, "--calibrate", tmp_path / "photos")
    one_line(resnets(*command), "a detector runs in int8 as an export", "resnets export")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ((), ("cifar10 has no boxes", "FOLDER")),
        (("PHOTOS",), ("has no boxes to compare with", "resnets detect")),
        (("nowhere",), ("no such folder",)),
        (("DATA", "--views", "ten-crop"), ("--views", "is for classifiers")),
        (("DATA", "--image-size", "64"), ("--image-size", "is for classifiers")),
        (("DATA", "--metric", "voc"), ("unknown metric", "voc07")),
        (("DATA", "--save-scores", "x.scores"), ("--save-scores", ".json")),
        (("DATA", "--plot", "x.pdf"), ("--plot", ".png")),
        (("DATA", "--precision", "int8"), ("unknown option",)),
    ],
)
def test_tests_that_cannot_be_are_refused(resnets, detector, data, tmp_path, options, parts):
    draw_photos(tmp_path / "photos", {"a": 2, "b": 2})
    names = {"DATA": data, "PHOTOS": tmp_path / "photos"}
    one_line(resnets("eval", detector, *(names.get(one, one) for one in options)), *parts)


def test_options_of_detectors_are_not_for_classifiers(resnets):
    for option in (("--metric", "coco"), ("--draw", "worst")):
        one_line(resnets("eval", "cifar-resnet20", "cifar10", *option), "is for detectors")


@pytest.mark.parametrize(
    "options",
    [
        ("--score", "1.5"), ("--score", "nan"), ("--nms", "-1"), ("--limit", "0"),
        ("--tile", "0"), ("--every", "0"), ("--out", "x.parquet"), ("--retry",),
        ("--json", "--out", "x.jsonl"), ("--out", "nowhere/x.jsonl"), ("--runtime", "openvino"),
        ("--precision", "int8"),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(resnets, detector, options):
    one_line(resnets("detect", detector, SAMPLES, *options))


def test_large_images_are_searched_in_tiles(resnets, detector, tmp_path):
    boxes = draw_boxes(tmp_path / "one", "test", 1, seed=9)
    large = Image.new("RGB", (240, 200))
    large.paste(Image.open(boxes.images[0].path), (150, 120))
    large.save("large.png")
    code, text, _ = resnets("detect", detector, "large.png", "--tile", "48", "--json")
    assert code == 0
    x1, y1, x2, y2 = boxes.images[0].objects[0].box
    centres = [
        ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        for box in (one["box"] for one in json.loads(text)["objects"])
    ]
    wanted = 150 + (x1 + x2) / 2, 120 + (y1 + y2) / 2
    assert min(abs(x - wanted[0]) + abs(y - wanted[1]) for x, y in centres) < 20


@pytest.fixture
def second(detector, tmp_path):
    """Another detector of the same categories."""
    return save_detector(tmp_path / "second.safetensors", score=0.05)


def test_improvements_are_part_of_the_protocol(resnets, detector, second, data):
    code, text, error = resnets(
        "eval", detector, data, "--refine", "--scales", "20,40,60", "--with", second, "--json"
    )
    assert code == 0, error
    facts = json.loads(text)
    wanted = "shorter side 40, box refinement, scales 20 40 60, 2 models"
    assert facts["protocol"] == wanted
    assert facts["model"] == f"cifar-resnet8 ({detector} with {second})"
    code, text, _ = resnets("eval", detector, data)
    assert "shorter side 40; metric coco" in text


def test_improved_detections_are_not_mixed_with_others(resnets, detector, data):
    command = ["detect", detector, data / "val", "--score", "0.2", "--out", "found.csv"]
    assert resnets(*command, "--refine", "--scales", "paper")[0] == 0
    assert resnets(*command, "--refine", "--scales", "paper")[0] == 0
    code, _, error = resnets(*command, "--refine")
    assert code == 2
    assert "was made with another model or other options" in error


def test_improvements_that_cannot_be_are_refused(resnets, detector, data):
    found = data / "found.json"
    assert resnets("eval", detector, data, "--save-scores", found)[0] == 0
    for arguments, message in (
        (("eval", found, data, "--refine"), "these detections are there already"),
        (("eval", "cifar-resnet20", "--refine"), "--refine: is for detectors"),
        (("eval", detector, data, "--with", detector), "is given twice"),
        (("eval", detector, data, "--with", "cifar-resnet20"), "is a classifier, not a detector"),
        (("detect", detector, data, "--scales", "40"), "two or more sides that rise"),
        (("detect", detector, data, "--scales", "x"), "not shorter sides in pixels"),
    ):
        code, text, error = resnets(*arguments)
        assert (code, text) == (2, ""), error
        assert message in error
        assert "Traceback" not in error
