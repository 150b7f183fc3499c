"""What is wrong with annotations is said in one line, with file and place; nothing is guessed."""

import json
import os
import subprocess
import sys

import pytest

from resnets.data.boxes.datasets import are_boxes, box_set, open_boxes, read_source
from resnets.data.boxes.source import BoxError
from resnets.data.datasets import open_box_splits
from resnets.support.errors import UserError
from tests.data.boxes import samples


def open_both(folder):
    """Both splits: images that are set aside are in one or the other."""
    return [open_boxes(folder, split) for split in ("train", "test")]


def refused(folder):
    """The line with which a folder is refused."""
    with pytest.raises(UserError) as caught:
        open_both(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    return line


def changed(value):
    """A change of COCO's content: `changed({"bbox": ...})` of the first annotation."""
    return lambda content: content["annotations"][0].update(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed({"bbox": [1, 2, -3, 4]}), "annotation 1: the box is -3 x 4 pixels"),
        (changed({"bbox": [1, 2, float("nan"), 4]}), "has NaN, which is not a number"),
        (changed({"bbox": [1, 2, float("inf"), 4]}), "has Infinity"),
        (changed({"bbox": [1, 2, "3", 4]}), "annotation 1: a number of bbox is '3', not a number"),
        (changed({"bbox": [1, 2, 1e30, 4]}), "1e+30, not a coordinate"),
        (changed({"bbox": [1, 2, 10**400, 4]}), "not a coordinate"),
        (changed({"bbox": [1, 2, 3]}), "has no bbox of four numbers"),
        (changed({"bbox": None}), "has no bbox of four numbers"),
        (changed({"image_id": 99}), "image_id 99 is not the id of an image"),
        (changed({"category_id": 3}), "category_id 3 is not the id of a category"),
        (changed({"category_id": [1]}), "is not the id of a category"),
        (changed({"iscrowd": 2}), "iscrowd is 2"),
        (changed({"area": "x"}), "area is 'x'"),
        (changed({"segmentation": [[1, 2, 3]]}), "no three points"),
        (changed({"segmentation": {"size": 3}}), "no size and counts"),
        (lambda c: c["images"].append(c["images"][0]), "two images have the id 7"),
        (lambda c: c["images"][0].update(width=-1), "size is -1 x 48"),
        (lambda c: c["images"][0].update(width="64"), "width is '64', not a number"),
        (lambda c: c["images"][0].update(width=65), "a.png is 65 x 48 by its annotations, but 64"),
        (lambda c: c["images"][0].update(file_name="z.png"), "image that does not exist: z.png"),
        (lambda c: c["images"][0].update(file_name="../../x"), "does not exist: ../../x"),
        (lambda c: c["images"][0].update(file_name="b.png", width=40, height=80), "twice"),
        (lambda c: c["images"][0].pop("id"), "images[0]: has no id"),
        (lambda c: c["images"].insert(0, 3), "images[0]: has no file_name"),
        (lambda c: c["annotations"].insert(0, None), "annotations[0]: is not a JSON object"),
        (lambda c: c["categories"].append({"id": 10, "name": "cow"}), "again"),
        (lambda c: c["categories"].append({"id": 5}), "categories[2]: has no name"),
        (lambda c: c.pop("categories"), "has no 'categories'"),
        (lambda c: c.update(images=3), "'images' is not a list"),
        (lambda c: c.update(annotations=[]), "no image of the train split has a box"),
        (lambda c: c.update(annotations=[], images=[]), "its annotations name no image"),
    ],
)
def test_coco(change, message, tmp_path):
    path = samples.write_coco(tmp_path)
    samples.write_coco(tmp_path, file="annotations/instances_val2017.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    if "name no image" in message:
        (tmp_path / "annotations" / "instances_val2017.json").unlink()
    assert message in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON:"),
        (lambda text: text[:-1], "is not JSON: it ends too early"),
        (lambda text: "[" * 100_000 + '{"images"', "has no boxes"),
        (lambda text: '{"images": ' + "[" * 100_000, "is not JSON that can be read"),
        (lambda text: text.replace("a.png", "\xe4.png").encode("latin-1"), "is not UTF-8"),
        (lambda text: '{"images": [], "annotations": 5}', "'annotations' is not a list"),
        (lambda text: "", "has no boxes"),
    ],
)
def test_files_that_are_no_json(content, message, tmp_path):
    path = samples.write_coco(tmp_path)
    new = content(path.read_text())
    path.write_bytes(new if isinstance(new, bytes) else new.encode())
    assert message in refused(tmp_path)


BOMB = (
    '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;">]>'
    "<annotation><filename>&y;</filename></annotation>"
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<annotation>", "<annotation>\n<", "is not XML: not well-formed"),
        ("</annotation>", "", "is not XML: no element found"),
        (None, BOMB, "declares entities"),
        (None, "<annotation/>" * 2, "is not XML: junk"),
        (None, '<?xml version="1.0" encoding="nothing"?><annotation/>', "unknown encoding"),
        ("annotation>", "results>", "has <results> instead of <annotation>"),
        ("<xmin>5</xmin>", "", "object 1: xmin is None, not a number"),
        ("<xmin>5<", "<xmin>five<", "object 1: xmin is 'five', not a number"),
        ("<xmin>5<", "<xmin>nan<", "xmin is 'nan', not a coordinate"),
        ("<xmin>5<", "<xmin>1e9<", "xmin is '1e9', not a coordinate"),
        ("<xmin>5<", "<xmin>50<", "object 1: the box is -29 x 24 pixels"),
        ("<name>dog</name>", "", "object 1: has no <name>"),
        ("<difficult>0<", "<difficult>maybe<", "<difficult> is 'maybe'"),
        ("<width>64<", "<width>-64<", "size is -64 x 48"),
        ("<width>64<", "<width>640<", "a.png is 640 x 48 by its annotations, but 64 x 48"),
    ],
)
def test_voc(old, new, message, tmp_path):
    samples.write_voc(tmp_path)
    path = tmp_path / "Annotations" / "a.xml"
    (tmp_path / "trainval.txt").write_text("a\nb\n")
    text = path.read_text()
    assert old is None or old in text
    path.write_text(new if old is None else text.replace(old, new))
    assert message in refused(tmp_path)


def test_voc_lists_and_images(tmp_path):
    samples.write_voc(tmp_path)
    (tmp_path / "trainval.txt").write_text("a\nnothing\n")
    assert "lists 'nothing', for which there is no annotation file" in refused(tmp_path)
    (tmp_path / "trainval.txt").write_text("a\nb\n")
    (tmp_path / "JPEGImages" / "b.png").rename(tmp_path / "JPEGImages" / "d.png")
    assert "b.xml: annotates an image that does not exist: b.png" in refused(tmp_path)
    xml = (tmp_path / "Annotations" / "b.xml").read_text()
    # The name in the file counts where no image is named like the file: labelled, then renamed.
    path = tmp_path / "Annotations" / "b.xml"
    path.write_text(xml.replace("b.png", "C:\\photos\\d.png"), "utf-8-sig")
    assert {i.path.name for i in open_boxes(tmp_path, "train").images} <= {"a.png", "d.png"}
    path.write_text(xml.replace("b.png", "a.png").replace("40<", "64<").replace("80<", "48<"))
    assert "a.png is annotated twice" in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.1\n", "line 1: has 4 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9\n", "line 1: has 6 numbers"),
        ("0 0.5 0.5 0.1 0.1\n0 x 0.5 0.1 0.1", "line 2: a number is 'x', not a number"),
        ("0 nan 0.5 0.1 0.1\n", "a number is 'nan', not a coordinate"),
        ("0 32 24 10 10\n", "no fraction from 0 to 1; YOLO's boxes are fractions"),
        ("0 0.5 0.5 -0.1 0.1\n", "the box is -0.1 x 0.1"),
        ("7 0.5 0.5 0.1 0.1\n", "class 7 is not among the 2 classes"),
        ("-1 0.5 0.5 0.1 0.1\n", "category -1 is not a whole number"),
        ("0.5 0.5 0.5 0.1 0.1\n", "category 0.5 is not a whole number"),
        (b"\xff\xfe0 \n", "is not UTF-8"),
    ],
)
def test_yolo(text, message, tmp_path):
    samples.write_yolo(tmp_path)
    path = tmp_path / "labels" / "train" / "a.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in refused(tmp_path)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat, dog\n", "is not YAML"),
        ("names: []\n", "names is no list of classes"),
        ("names: {0: cat, 2: dog}\n", "keys of names are not 0, 1, 2"),
        ("names: [cat, cat]\n", "names has 'cat' twice"),
        ("names: [cat, [dog]]\n", "a name of a class is no text"),
        ("nc: 3\nnames: [cat, dog]\n", "nc is 3, but there are 2 names"),
        ("nc: 1\n", "class 1 is not among the 1 classes"),
        ("nc: many\n", "nc is 'many', which is no number of classes"),
        ("nc: 0\n", "nc is 0, which is no number of classes"),
        ("train: nowhere/else\nnames: [cat, dog]\n", "train is 'nowhere/else', which is not in"),
        ("train: [5]\nnames: [cat, dog]\n", "train is no folder"),
        ("- names\n", "is not a mapping"),
        ("names: !!python/object/apply:os.system ['true']\n", "is not YAML"),
    ],
)
def test_yolo_yaml(yaml, message, tmp_path):
    samples.write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(yaml)
    assert message in refused(tmp_path)


def test_yolo_texts_without_image_and_two_yamls(tmp_path):
    samples.write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "z.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    assert "z.txt: there is no image of this name" in refused(tmp_path)
    (tmp_path / "other.yaml").write_text("names: [cow]\n")
    assert "two YAML files name classes: data.yaml and other.yaml" in refused(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": 3}, "has no list of shapes"),
        ({"shapes": [3]}, "shape 1: has no label"),
        ({"shapes": [{"label": "cat", "points": [[1]]}]}, "no list of points x, y"),
        ({"shapes": [{"label": "cat", "points": [[1, "2"], [3, 4], [5, 6]]}]}, "is '2', not a nu"),
        (
            {"shapes": [{"label": "cat", "points": [[1, 2]], "shape_type": "point"}]},
            "a point of 1 points has no box",
        ),
        ({"imagePath": 3}, "imagePath is no text"),
        ({"imageWidth": 3}, "a.png is 3 x 48 by its annotations"),
    ],
)
def test_labelme(change, message, tmp_path):
    samples.write_labelme(tmp_path)
    (tmp_path / "trainval.txt").write_text("a\nb\n")
    (tmp_path / "test.txt").write_text("c\n")
    path = tmp_path / "a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert message in refused(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class,x1,y1,x2,y2\na.png,cat,1,2,x,4\n", "line 2: a coordinate is 'x'"),
        ("file,class,x1,y1,x2,y2\na.png,cat,1,2,,4\n", "line 2: a coordinate is ''"),
        ("file,class,x1,y1,x2,y2\na.png,cat,5,2,1,4\n", "line 2: the box is -4 x 2"),
        ("file,class,x1,y1,x2,y2\na.png,,1,2,3,4\n", "line 2: has no class"),
        ("file,class,x1,y1,x2,y2\n,cat,1,2,3,4\n", "line 2: names no image"),
        ("file,class,x1,y1,x2,y2\nz.png,cat,1,2,3,4\na.png,cat,1,2,3,4\n", "not exist: z.png"),
        ("file,class,x1,y1,x2,y2\na.png,cat,.1,.2,.3,.4\n", "all coordinates are at most 1"),
        ("file,class,x1,y1\na.png,cat,1,2\n", "no column for the box height"),
        ("file,x1,y1,x2,y2\na.png,1,2,3,4\n", "no column for the category"),
        ("file,class,x1,y1,x2,y2,split\na.png,cat,1,2,3,4,foo\n", "'foo' is no split"),
        (
            "file,x1,y1,x2,y2,class\na.png,1,2,3,4,dog, big\n",
            "line 2: has 7 cells, but there are 6",
        ),
        ("file,x1,y1,x2,y2,class,Class\na.png,1,2,3,4,a,b\n", "has two columns 'class'"),
        ("file,class,x1,y1,x2,y2\n", "its annotations name no image"),
    ],
)
def test_csv(text, message, tmp_path):
    samples.draw_all(tmp_path)
    (tmp_path / "boxes.csv").write_text(text)
    assert message in refused(tmp_path)


def test_folders_as_a_whole(tmp_path):
    assert "has no boxes; the formats are COCO JSON" in refused(tmp_path)
    samples.write_voc(tmp_path)
    path = samples.write_coco(tmp_path)
    assert "has both COCO JSON" in refused(tmp_path)
    (tmp_path / "Annotations").rename(tmp_path / ".Annotations")
    path.rename(tmp_path / "train.json")
    samples.write_coco(tmp_path)
    assert "two annotation files for train" in refused(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        open_boxes(tmp_path / "none", "train")


def test_images_of_one_name_are_not_guessed(tmp_path):
    samples.write_coco(tmp_path)
    samples.draw_all(tmp_path / "other")
    assert "'a.png' could be other/a.png or train2017/a.png" in refused(tmp_path)
    (tmp_path / "other").rename(tmp_path / "val2017")  # another split's
    assert len(open_boxes(tmp_path, "train")) == 2
    (tmp_path / "train2017" / "a.png").unlink()
    assert "does not exist: a.png" in refused(tmp_path)


def test_an_image_that_cannot_be_read(tmp_path):
    samples.write_coco(tmp_path)
    for path in (tmp_path / "train2017").iterdir():
        path.write_bytes(b"<html>")
    assert "not an image" in refused(tmp_path)
    with pytest.raises(UserError, match=r"not an image.*exclude such images: .* --quarantine"):
        open_box_splits(str(tmp_path))


def test_faults_are_collected_where_the_caller_wants_them_all(tmp_path):
    path = samples.write_coco(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = -1
    content["annotations"][1]["category_id"] = 4
    path.write_text(json.dumps(content))
    samples.write_coco(tmp_path, file="annotations/instances_val2017.json")
    faults = []
    source = read_source(tmp_path, 0, faults.append)
    assert [fault.kind for fault in faults] == ["box-file", "unknown-category"]
    assert sum(len(entry.objects) for entry in source.train.entries) == 1


def test_the_verb_exits_with_2_and_writes_nothing(tmp_path):
    path = samples.write_coco(tmp_path / "in")
    path.write_text(path.read_text()[:-9])
    command = [sys.executable, "-m", "resnets", "convert-boxes", "in", "out", "--format", "voc"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "instances_train2017.json: is not JSON" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_other_json_in_a_folder_of_classes_is_no_annotation(tmp_path):
    samples.draw_all(tmp_path / "cats")
    for content in (
        {"categories": ["cats"]},
        {"images": 3},
        {"a": {"images": 1, "annotations": 2}},
    ):
        (tmp_path / "metadata.json").write_text(json.dumps(content))
        assert not are_boxes(tmp_path)


def test_links_to_themselves_and_pipes_are_left_out(tmp_path):
    samples.write_coco(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "train2017" / "pipe.png")
    assert sum(len(one) for one in open_both(tmp_path)) == 3


def images_of(folder):
    """The names of the images of both splits of a folder, and its notes."""
    source = read_source(folder)
    sets = [box_set(source, split) for split in ("train", "test")]
    return [sorted(image.path.stem for image in one.images) for one in sets], source.notes()


def voc_lists(folder, **lists):
    samples.write_voc(folder, samples.BOXES | {"c": [("dog", (1, 1, 9, 9))]})
    for name, members in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(members))


def test_images_in_both_splits_are_refused(tmp_path):
    voc_lists(tmp_path, trainval="abc", test="b")
    assert "1 image is in both trainval and test: JPEGImages/b.png" in refused(tmp_path)
    faults = []
    source = read_source(tmp_path, 0, faults.append)
    assert [fault.kind for fault in faults] == ["in-both-splits"]
    assert (len(source.train.entries), len(source.test.entries)) == (3, 0)
    yolo = tmp_path / "yolo"
    samples.write_yolo(yolo)
    (yolo / "data.yaml").write_text("train: images/train\nval: images\nnames: [cat, dog]\n")
    assert "3 images are in both train and val" in refused(yolo)


def test_images_of_trainval_and_val_are_only_tested_on(tmp_path):
    voc_lists(tmp_path / "voc", trainval="abc", val="b")
    splits, notes = images_of(tmp_path / "voc")
    assert splits == [["a", "c"], ["b"]]
    assert notes == ("1 image is in both trainval and val, and only tested on",)
    samples.write_coco(tmp_path / "coco", file="instances_trainval.json")
    one = {"b": samples.BOXES["b"]}
    samples.write_coco(tmp_path / "coco", one, file="instances_val.json")
    (tmp_path / "coco" / "train2017").rename(tmp_path / "coco" / "images")
    assert images_of(tmp_path / "coco")[0] == [["a", "c"], ["b"]]


def test_annotations_that_are_not_used_are_said(tmp_path):
    voc_lists(tmp_path / "voc", train="a", val="b", test="c")
    assert images_of(tmp_path / "voc") == ([["a"], ["b"]], ("not used: 1 image of test",))
    coco = tmp_path / "coco"
    samples.write_coco(coco, file="annotations.json")
    samples.write_coco(coco, {"b": samples.BOXES["b"]}, file="val.json")
    (coco / "train2017").rename(coco / "images")
    line = refused(coco)
    assert "has annotations for testing only; not used: 2 images of annotations.json, which" in line
    assert line.endswith("name annotations after their split, such as train.json")


def test_the_part_of_a_path_that_names_the_split_is_not_dropped(tmp_path):
    samples.write_yolo(tmp_path)
    samples.write_yolo(tmp_path, images="images/val", labels="labels/val", yaml=False)
    path = tmp_path / "data.yaml"
    path.write_text("train: ../train/images\nval: ../valid/images\nnames: [cat, dog]\n")
    assert "train is '../train/images', which is not in the data folder" in refused(tmp_path)
    for start in ("/x/train-2/set", "C:\\training"):  # the folder above may be called anything
        lines = f"path: {start}\ntrain: ./images/train\nval: {start}/images/val\n"
        path.write_text(f"{lines}names: [cat, dog]\n")
        assert [len(one) for one in open_both(tmp_path)] == [3, 3]


def test_folders_of_the_system_are_left_out(tmp_path):
    samples.write_voc(tmp_path)
    for name in ("$RECYCLE.BIN", "@eaDir", ".hidden"):
        samples.write_voc(tmp_path / name)
    (tmp_path / "readme.md").touch()
    assert sum(len(one) for one in open_both(tmp_path)) == 3
    (line,) = read_source(tmp_path).notes()
    assert line.startswith("left out: not an image by its ending: 1 (.md 1)")
    assert "folder of the system ($RECYCLE.BIN): 1" in line


@pytest.mark.parametrize(
    ("encoding", "more", "line"),
    [("utf-16", "", ""), ("utf-16-le", "", ""), ("latin-1", "# \xe4\n", ", line 4")],
)
def test_texts_that_are_not_utf_8_are_faults_of_the_file(encoding, more, line, tmp_path):
    samples.write_yolo(tmp_path)
    path = tmp_path / "data.yaml"
    path.write_text(path.read_text() + more, encoding)
    with pytest.raises(BoxError, match="is not UTF-8") as caught:
        read_source(tmp_path)
    assert (caught.value.kind, caught.value.location) == ("box-file", f"{path}{line}")
    assert caught.value.hint == "save it as UTF-8"
