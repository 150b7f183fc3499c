"""Training of detectors from the command line, and what `info` says of them."""

import json
from pathlib import Path

import pytest

from resnets.training import recipe_file
from tests.detection.shapes import draw_boxes, recipe


@pytest.fixture
def folder(tmp_path):
    """Drawn images with boxes as COCO JSON."""
    root = tmp_path / "data"
    for split, count in (("train", 6), ("val", 2)):
        boxes = draw_boxes(root / split, split, count)
        images = [
            {"id": i, "file_name": one.name, "width": one.width, "height": one.height}
            for i, one in enumerate(boxes.images)
        ]
        objects = [(i, o) for i, one in enumerate(boxes.images) for o in one.objects]
        annotations = [
            {"id": n, "image_id": i, "category_id": 1 + o.category, "iscrowd": 0,
             "bbox": [o.box[0], o.box[1], o.box[2] - o.box[0], o.box[3] - o.box[1]]}
            for n, (i, o) in enumerate(objects)
        ]  # fmt: skip
        if split == "train":  # a box that cannot be trained on
            annotations.append(annotations[0] | {"id": 99, "bbox": [3, 3, 0, 5]})
        categories = [{"id": 1 + n, "name": name} for n, name in enumerate(boxes.categories)]
        facts = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"instances_{split}.json").write_text(json.dumps(facts))
    return root


@pytest.fixture
def plan(tmp_path):
    """A tiny recipe as a file."""
    made = recipe(tmp_path, iterations=4, test_every=2)
    lines = [f'dataset = "boxes"\ninit = "{made.init}"\nbatch_norm = "frozen"\niterations = 4']
    lines.append('batch = 2\ntest_every = 2\nlog_every = 1\nprecision = "fp32"')
    lines.append('[schedule]\nkind = "cosine"\nlr = 0.02\n[detection]')
    for key, value in made.detection.model_dump(mode="json").items():
        lines.append(f"{key} = {json.dumps(value)}")
    path = tmp_path / "tiny.toml"
    path.write_text("\n".join(lines))
    return path


def test_a_detector_is_trained_resumed_and_shown(resnets, folder, plan, tmp_path):
    out = tmp_path / "run"
    command = ("train", str(plan), "--data", str(folder), "--out", str(out))
    code, text, _ = resnets(*command)
    assert code == 0
    assert "6 images with 9 boxes to train, 2 to test, 2 categories; 1 box left out" in text
    assert "iteration      2  test AP50" in text
    assert f"Detections in test images: {out / 'pictures'}" in text
    assert (out / "curve.png").exists()
    text = resnets("resume", str(out), "--data", str(folder))[1]
    assert text.startswith(f"{out} is finished; use it with: ")
    assert f" detect {out} photo.jpg" in text
    shown = resnets("info", str(out))[1]
    assert "detection on its test images: AP50" in shown
    assert "detector: shorter side 40, longer side up to 80, bilinear" in shown
    assert json.loads(resnets("info", str(out), "--json")[1])["detection"]["rois"] == 8
    code, _, error = resnets("predict", str(out), str(folder / "val" / "val0.png"))
    assert code == 2
    assert "is a detector, not a classifier" in error
    code, _, error = resnets("train", str(plan), "--data", str(folder / "nothing"))
    assert code == 2
    assert len(error.splitlines()) == 1


def test_detection_needs_images(resnets):
    code, _, error = resnets("train", "detect-finetune")
    assert (code, error) == (
        2, "resnets: detect-finetune needs images; give a folder of images: --data FOLDER\n"
    )  # fmt: skip


def test_info_shows_what_a_recipe_costs(resnets):
    text = resnets("info", "detect-finetune")[1]
    for part in ("Faster R-CNN on resnet50", "7.545 G", "2.241 G", "732.17 M", "[schedule]"):
        assert part in text
    (Path.cwd() / "mine.toml").write_text(recipe_file.source("detect-finetune"))
    assert resnets("info", "mine.toml")[1] == text.replace("detect-finetune: F", "mine.toml: F")
    facts = json.loads(resnets("info", "detect-coco", "--image-size", "600", "--json")[1])
    assert facts["network"] == "resnet101"
    assert facts["recipe"]["dataset"] == "boxes"
    assert [cost["width"] for cost in facts["costs"]] == [800]
    code, _, error = resnets("info", "detect-cocoo")
    assert (code, "did you mean detect-coco" in error) == (2, True)
