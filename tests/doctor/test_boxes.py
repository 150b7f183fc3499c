"""The doctor finds what is wrong with annotated boxes, all of it, and draws it."""

import json
import shutil
import subprocess
import sys

import pytest

from resnets.doctor import boxes, report
from tests.data.boxes import samples
from tests.data.boxes.test_orientation import coco_with


def findings(folder):
    """Kind to the details and paths of its findings."""
    found = boxes.examine(folder, threads=1)
    kinds = {}
    for finding in found.findings:
        kinds.setdefault(finding.kind, []).append((finding.detail, *finding.paths))
    return kinds


def coco(folder, boxes_of_a, change=lambda content: None):
    """A COCO set with these boxes (category, x1, y1, x2, y2) in the image a, 64 x 48."""
    path = samples.write_coco(folder, {"a": [(c, b) for c, *b in boxes_of_a], "b": [], "c": []})
    samples.draw(folder / "val2017" / "v.png", (64, 48), seed=5)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    image = {"id": 1, "file_name": "v.png", "width": 64, "height": 48}
    objects = [
        {"image_id": 1, "category_id": 10 * (i + 1), "bbox": [9, 9, 20, 20]} for i in range(2)
    ]
    content |= {"images": [image], "annotations": objects}
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return folder


GOOD = [("dog", 4, 6, 40, 30), ("cat", 10, 2, 50, 44)]


def test_sound_annotations_have_no_findings(tmp_path):
    assert findings(coco(tmp_path, GOOD)) == {}
    found = boxes.examine(tmp_path)
    assert found.splits == {"train": {"cat": 1, "dog": 1}, "val": {"cat": 1, "dog": 1}}
    assert "train: 2 boxes of 2 classes" in report.to_text(found)
    assert found.facts["without a box"] == 2


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        (("dog", 5, 5, 5, 20), "empty-box"),
        (("dog", 70, 5, 90, 20), "outside-box"),
        (("dog", 5, 5, 5.5, 20), "small-box"),
        (("dog", -3, 5, 30, 20), "clipped-box"),
        (("dog", 4.2, 6, 40, 30), "duplicate-box"),
        (("dog", 0, 0, 64, 48), "huge-box"),
        (("dog", 5, 5, 5.6 + 1, 20), None),  # 20 pixels at the size that a detector sees
        (("dog", -0.8, 5, 30, 20), None),  # rounding
        (("cat", 4.2, 6, 40, 30), None),  # another category at the same place
    ],
)
def test_each_fault_of_a_box(box, kind, tmp_path):
    found = findings(coco(tmp_path, [*GOOD, box]))
    assert list(found) == ([kind] if kind else [])
    if kind and kind != "huge-box":
        ((detail, path),) = found[kind]
        assert detail == f"dog {' '.join(f'{v:g}' for v in box[1:])} (x1 y1 x2 y2)"
        assert path == "train2017/a.png"


def test_tiny_boxes_at_the_size_that_a_detector_sees(tmp_path):
    samples.draw(tmp_path / "a.png", (2000, 1500))
    lines = ["file,class,x1,y1,x2,y2", "a.png,cat,5,5,20,200", "a.png,cat,5,5,30,200"]
    (tmp_path / "test.csv").write_text("\n".join(lines))
    found = findings(tmp_path)
    assert "1 boxes are less than 8 pixels" in found["tiny-box"][0][0]


def test_all_faults_of_the_annotations_are_found(tmp_path):
    def change(content):
        content["annotations"][0]["bbox"][2] = -1
        content["annotations"][1]["category_id"] = 4
        content["images"][1]["file_name"] = "z.png"
        content["images"][2]["width"] = 9

    found = findings(coco(tmp_path, GOOD, change))
    file = "annotations/instances_train2017.json"
    assert found["box-file"] == [("annotation 1: the box is -1 x 24 pixels", file)]
    assert "annotation 2: category_id 4" in found["unknown-category"][0][0]
    assert found["missing-image"][0][1] == file
    assert "c.png is 9 x 50 by its annotations, but 50 x 50" in found["image-size"][0][0]
    assert found["unlabelled"][0][1:] == ("train2017/b.png",)


def test_images_are_examined_as_those_of_class_folders(tmp_path):
    coco(tmp_path, GOOD)
    (tmp_path / "train2017" / "b.png").write_bytes(b"")
    shutil.copy(tmp_path / "train2017" / "a.png", tmp_path / "val2017" / "v.png")
    found = findings(tmp_path)
    assert found["empty-file"][0][1] == "train2017/b.png"
    assert found["leak"] == [("the same file in train and val", "train2017/a.png", "val2017/v.png")]
    assert set(found) == {"empty-file", "leak"}


def test_categories_without_boxes(tmp_path):
    coco(tmp_path, GOOD[:1])
    found = findings(tmp_path)
    assert found == {"empty-class": [("category cat has no box in train",)]}
    coco(tmp_path, GOOD)
    path = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]
    path.write_text(json.dumps(content))
    assert findings(tmp_path) == {"missing-in-val": [("category cat has no box in val",)]}


def test_shifts_by_a_pixel(tmp_path):
    samples.write_voc(tmp_path / "voc", {"a": [("dog", (-1, 3, 20, 30))], "b": [], "c": []})
    (tmp_path / "voc" / "trainval.txt").write_text("a\nb\n")
    (tmp_path / "voc" / "test.txt").write_text("c\n")
    detail = findings(tmp_path / "voc")["shifted-boxes"][0][0]
    assert detail == "train: 1 of VOC's boxes has a corner at 0; they should count from 1"
    from_one = [("dog", 1, 5 * i + 1, 20 + i, 5 * i + 9) for i in range(5)]
    found = findings(coco(tmp_path / "one", [*from_one, ("cat", 9, 9, 64, 40)]))
    assert "5 boxes begin at 1 and none at 0" in found["shifted-boxes"][0][0]
    early = [("dog", 40 - i, 5 * i + 2, 63, 5 * i + 9) for i in range(5)]
    found = findings(coco(tmp_path / "early", [*early, ("cat", 0, 9, 60, 40)]))
    assert "5 boxes end a pixel before the edge" in found["shifted-boxes"][0][0]
    both = [("dog", 1, 5 * i + 1, 20 + i, 5 * i + 9) for i in range(5)]
    found = findings(coco(tmp_path / "both", [*both, ("cat", 0, 9, 64, 40)]))
    assert "shifted-boxes" not in found


def test_images_whose_frame_is_open(tmp_path):
    coco_with(tmp_path / "half", 3, (40, 24))  # a half turn: both frames have one size
    assert findings(tmp_path / "half")["turned-image"][0][1] == "a.jpg"
    coco_with(tmp_path / "quarter", 6, (40, 24))
    assert "turned-image" not in findings(tmp_path / "quarter")


def test_folders_that_cannot_be_read_are_findings(tmp_path):
    samples.write_voc(tmp_path)
    samples.write_coco(tmp_path)
    assert "has both COCO JSON" in findings(tmp_path)["layout"][0][0]
    shutil.rmtree(tmp_path / "Annotations")
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text()[:-1])
    found = findings(tmp_path)
    assert found["box-file"][0][1] == "annotations/instances_train2017.json"


def test_the_verb_draws_boxes(tmp_path):
    coco(tmp_path / "data", [*GOOD, ("dog", 5, 5, 5, 20)])
    command = [sys.executable, "-m", "resnets", "doctor", "data", "--html", "page.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning: boxes without width or height" in done.stdout
    page = (tmp_path / "page.html").read_text()
    assert "Some images with their boxes" in page
    assert page.count("data:image/jpeg;base64") == 3  # the finding's, and one of each split


def test_what_a_training_leaves_out_or_refuses(tmp_path):
    coco(tmp_path, GOOD)
    (tmp_path / ".quarantine").write_text("train2017/c.png\nnowhere.png\n")
    (tmp_path / "@eaDir").mkdir()
    samples.draw(tmp_path / "test2017" / "t.png", (64, 48), seed=6)
    content = json.loads((tmp_path / "annotations" / "instances_val2017.json").read_text())
    content["images"][0]["file_name"] = "t.png"
    (tmp_path / "annotations" / "instances_test2017.json").write_text(json.dumps(content))
    found = boxes.examine(tmp_path, threads=1)
    assert found.ignored == {"in quarantine": 1, "folder of the system (@eaDir)": 1}
    assert [(one.kind, one.detail) for one in found.findings] == [
        ("quarantine", ".quarantine: 1 of its lines match no image: nowhere.png"),
        ("not-used", "not used: 1 image of test"),
    ]
    voc = tmp_path / "voc"
    samples.write_voc(voc)
    (voc / "trainval.txt").write_text("a\nb\nc\n")
    (voc / "test.txt").write_text("a\nb\n")
    assert "2 images are in both trainval and test" in findings(voc)["in-both-splits"][0][0]
