"""Every format gives the same boxes, whichever way its splits are laid out."""

import json
from unicodedata import normalize

import pytest

from resnets.data.boxes.conversion import convert
from resnets.data.boxes.datasets import (
    are_boxes,
    box_set,
    open_boxes,
    read_source,
    unused_categories,
)
from resnets.support.errors import UserError
from tests.conftest import shared_data
from tests.data.boxes import samples
from tests.data.boxes.test_orientation import coco_with


def everything(folder):
    """Both splits of a folder."""
    source = read_source(folder)
    parts = {"train": source.train, "test": source.test}
    return {split: box_set(source, split) for split, part in parts.items() if part is not None}


@pytest.fixture(autouse=True)
def all_for_training(monkeypatch):
    """Sources without splits stay whole, so that formats can be compared."""

    def whole(part, seed):
        return part, None

    monkeypatch.setattr("resnets.data.boxes.datasets._set_aside", whole)


@pytest.mark.parametrize("format", samples.WRITERS)
def test_every_format_gives_the_same_boxes(format, tmp_path):
    samples.WRITERS[format](tmp_path)
    boxes = open_boxes(tmp_path, "train")
    assert boxes.source == format
    assert boxes.categories == ("cat", "dog")
    assert samples.plain(boxes) == samples.EXPECTED
    assert are_boxes(tmp_path)


@pytest.mark.parametrize("target", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("format", samples.WRITERS)
def test_conversions_keep_splits_names_and_boxes(format, target, tmp_path):
    samples.WRITERS[format](tmp_path / "in")
    boxes = open_boxes(tmp_path / "in", "train")
    assert convert({"train": boxes}, tmp_path / "out", target) == []
    again = open_boxes(tmp_path / "out", "train")
    assert again.categories == boxes.categories
    found = samples.plain(again)
    assert found.keys() == samples.EXPECTED.keys()
    for name, (size, objects) in samples.EXPECTED.items():
        assert found[name][0] == size
        assert [c for c, _ in found[name][1]] == [c for c, _ in objects]
        for (_, one), (_, other) in zip(found[name][1], objects, strict=True):
            assert one == pytest.approx(other, abs=0.01)


def test_coco_keeps_ids_areas_crowds_segments_and_difficult(tmp_path):
    path = samples.write_coco(tmp_path / "in")
    content = json.loads(path.read_text())
    content["annotations"][0] |= {"segmentation": [[4, 6, 20, 6, 20, 30]], "difficult": 1}
    rle = {"size": [48, 64], "counts": [0, 48 * 64]}
    content["annotations"][1] |= {"segmentation": rle, "iscrowd": 1}
    path.write_text(json.dumps(content))
    boxes = open_boxes(tmp_path / "in", "train")
    convert({"train": boxes}, tmp_path / "out", "coco")
    again = open_boxes(tmp_path / "out", "train")
    assert again.category_ids == boxes.category_ids == (10, 20)
    assert [i.id for i in again.images] == [7, 8, 9]
    assert [i.objects for i in again.images] == [i.objects for i in boxes.images]
    first, second = again.images[0].objects
    assert first.polygons == ((4, 6, 20, 6, 20, 30),)
    assert (first.difficult, first.area, second.crowd, second.rle) == (True, 5, True, rle)


def test_conversion_says_what_the_format_cannot_express(tmp_path):
    path = samples.write_coco(tmp_path / "in")
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    boxes = open_boxes(tmp_path / "in", "train")
    assert "1 crowd left out" in convert({"train": boxes}, tmp_path / "yolo", "yolo")[0]
    assert sum(len(i.objects) for i in open_boxes(tmp_path / "yolo", "train").images) == 2
    assert "difficult" in convert({"train": boxes}, tmp_path / "voc", "voc")[0]
    assert open_boxes(tmp_path / "voc", "train").images[0].objects[0].difficult


def test_conversion_leaves_nothing_half_written(tmp_path):
    samples.write_voc(tmp_path / "in")
    boxes = open_boxes(tmp_path / "in", "train")
    boxes.images[-1].path.unlink()
    with pytest.raises(UserError, match="the image cannot be read"):
        convert({"train": boxes}, tmp_path / "out", "yolo")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        convert({"train": boxes}, tmp_path / "out", "yolo")


@pytest.mark.parametrize("target", ["coco", "voc", "yolo"])
def test_names_of_any_language_convert_and_others_are_refused(target, tmp_path):
    samples.write_csv(tmp_path / "in")
    table = tmp_path / "in" / "boxes.csv"
    text = table.read_text().replace("a.png", "a.jpg.png")
    name = "Kätzchen: 小猫 🐈 'a' & <b>"
    table.write_text(text.replace("cat", name), "utf-8")
    (tmp_path / "in" / "images" / "a.png").rename(tmp_path / "in" / "images" / "a.jpg.png")
    boxes = open_boxes(tmp_path / "in", "train")
    convert({"train": boxes}, tmp_path / "out", target)
    again = open_boxes(tmp_path / "out", "train")
    assert again.categories == boxes.categories == (name, "dog")
    assert len(again) == len(boxes) == 3
    table.write_text(text.replace("cat", "c\x07t"))
    boxes = open_boxes(tmp_path / "in", "train")
    with pytest.raises(UserError, match="the name of a category cannot be written"):
        convert({"train": boxes}, tmp_path / "other", target)


@pytest.mark.parametrize("target", ["coco", "voc", "yolo"])
def test_images_without_an_ending(target, tmp_path):
    samples.write_voc(tmp_path / "in.v1")
    for path in (tmp_path / "in.v1" / "JPEGImages").iterdir():
        path.rename(path.with_suffix(""))
    boxes = open_boxes(tmp_path / "in.v1", "train")
    assert samples.plain(boxes) == samples.EXPECTED
    convert({"train": boxes}, tmp_path / "out.v1", target)
    again = open_boxes(tmp_path / "out.v1", "train")
    assert samples.plain(again).keys() == samples.EXPECTED.keys()


def test_images_turned_by_exif_data_convert(tmp_path):
    image = coco_with(tmp_path / "in", 6, (40, 24))
    boxes = box_set(read_source(tmp_path / "in"), "test")
    for target in ("coco", "voc", "yolo"):
        convert({"test": boxes}, tmp_path / target, target)
        again = box_set(read_source(tmp_path / target), "test").images[0]
        assert again.objects[0].box == pytest.approx(image.objects[0].box, abs=1e-6)
        assert (again.width, again.height) == (24, 40)


def test_images_of_the_same_name_in_both_splits_convert(tmp_path):
    samples.write_yolo(tmp_path / "in", images="train/images", labels="train/labels", yaml=False)
    samples.write_yolo(tmp_path / "in", images="valid/images", labels="valid/labels", yaml=False)
    sets = everything(tmp_path / "in")
    convert(sets, tmp_path / "out", "voc")
    again = everything(tmp_path / "out")
    assert [len(again[split]) for split in ("train", "test")] == [3, 3]
    assert {i.objects for i in again["test"].images} == {i.objects for i in sets["test"].images}


def test_voc_corners_count_from_one(tmp_path):
    samples.write_voc(tmp_path)
    xml = samples.voc_xml("c", (50, 50), [("dog", (0, 0, 50, 50))])
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>50</xmax>" in xml
    (tmp_path / "Annotations" / "c.xml").write_text(xml)
    image = next(i for i in open_boxes(tmp_path, "train").images if i.path.stem == "c")
    assert image.objects[0].box == (0, 0, 50, 50)  # the whole image


@pytest.mark.parametrize("write", [samples.write_voc, samples.write_labelme])
def test_segments_of_the_same_name_are_no_images(write, tmp_path):
    write(tmp_path)
    for path in tmp_path.rglob("*.png"):
        path.rename(path.with_suffix(".jpg"))
    for path in [*tmp_path.rglob("*.xml"), *tmp_path.rglob("*.json")]:
        path.write_text(path.read_text().replace(".png", ".jpg"))
    samples.draw_all(tmp_path / "SegmentationClass")
    assert samples.plain(open_boxes(tmp_path, "train")) == samples.EXPECTED


def test_other_images_beside_those_of_yolo(tmp_path):
    samples.write_yolo(tmp_path, yaml=False)
    samples.draw(tmp_path / "masks" / "a.png", (9, 9))
    samples.draw(tmp_path / "preview.png", (9, 9))
    assert len(open_boxes(tmp_path, "train")) == 3


def test_voc_lists_choose_the_images(tmp_path):
    samples.write_voc(tmp_path)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, names in {"train": "a", "val": "b", "trainval": "a\nb", "test": "c"}.items():
        (lists / f"{split}.txt").write_text(names)
    (lists / "cat_train.txt").write_text("a  1\n")
    xml = samples.voc_xml("c", (50, 50), [("dog", (1, 1, 5, 5))])
    (tmp_path / "Annotations" / "c.xml").write_text(xml)
    sets = everything(tmp_path)
    assert [i.path.stem for i in sets["train"].images] == ["a", "b"]
    assert [i.path.stem for i in sets["test"].images] == ["c"]
    (lists / "test.txt").unlink()
    sets = everything(tmp_path)
    assert [i.path.stem for i in sets["train"].images] == ["a"]
    assert [i.path.stem for i in sets["test"].images] == ["b"]


def test_voc_2007_and_2012_together(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        samples.write_voc(tmp_path / year)
        lists = tmp_path / year / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        (lists / "trainval.txt").write_text("a\nb\n")
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("c\n")
    boxes = open_boxes(tmp_path, "train")
    names = [image.name for image in boxes.images]
    assert names == [f"VOC20{y}/JPEGImages/{n}.png" for y in ("07", "12") for n in "ab"]


@pytest.mark.parametrize("yaml", [True, False])
def test_yolo_layouts(yaml, tmp_path):
    samples.write_yolo(tmp_path, images="train/images", labels="train/labels", yaml=False)
    samples.write_yolo(tmp_path, images="valid/images", labels="valid/labels", yaml=False)
    if yaml:  # Roboflow's, with folders that are relative to nothing; Windows' elsewhere
        text = "path: C:\\data\\set\ntrain: ..\\train\\images\nval: ../valid/images\n"
        (tmp_path / "data.yaml").write_text(text + "names:\n  0: cat\n  1: dog\n", "utf-8-sig")
    sets = everything(tmp_path)
    assert samples.plain(sets["train"]) == samples.plain(sets["test"])
    assert sets["test"].categories == (("cat", "dog") if yaml else ("0", "1"))


def test_yolo_lists_of_images_and_class_files(tmp_path):
    samples.write_yolo(tmp_path, images="images", labels="labels", yaml=False)
    (tmp_path / "labels" / "classes.txt").write_text("cat\ndog\n")
    assert samples.plain(open_boxes(tmp_path, "train")) == samples.EXPECTED
    (tmp_path / "train.txt").write_text("./images/a.png\n")
    (tmp_path / "val.txt").write_text("/elsewhere/images/b.png\n")
    (tmp_path / "set.yaml").write_text("train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
    sets = everything(tmp_path)
    assert [i.path.stem for i in sets["train"].images] == ["a"]
    assert [i.path.stem for i in sets["test"].images] == ["b"]


def test_yolo_polygons_give_boxes(tmp_path):
    samples.write_yolo(tmp_path)
    text = "1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75\n"
    (tmp_path / "labels" / "train" / "c.txt").write_text(text)
    image = next(i for i in open_boxes(tmp_path, "train").images if i.path.stem == "c")
    assert image.objects[0].box == (12.5, 12.5, 37.5, 37.5)
    assert image.objects[0].polygons == ((12.5, 25, 25, 12.5, 37.5, 25, 25, 37.5),)


def test_labelme_shapes(tmp_path):
    samples.write_labelme(tmp_path)
    shapes = [
        {"label": "cat", "points": [[1, 2], [9, 4], [5, 8]], "shape_type": "polygon"},
        {"label": "dog", "points": [[10, 10], [13, 14]], "shape_type": "circle"},
    ]
    (tmp_path / "c.json").write_text(json.dumps({"shapes": shapes, "imagePath": "x\\c.png"}))
    image = next(i for i in open_boxes(tmp_path, "train").images if i.path.stem == "c")
    assert [one.box for one in image.objects] == [(1, 2, 9, 8), (5, 5, 15, 15)]


@pytest.mark.parametrize(
    ("headings", "cells"),
    [
        ("image_id;label;x;y;w;h", "a;dog;4;6;16;24"),
        ("x_min,y_min,width,height,file,category", "4,6,16,24,C:\\x\\a.PNG,dog"),
        ("Path,Class,X1,Y1,X2,Y2,Width,Height", "in/a.png,dog,4,6,20,30,64,48"),
    ],
)
def test_csv_columns_are_found_by_their_headings(headings, cells, tmp_path):
    samples.draw(tmp_path / "a.png", samples.SIZES["a"])
    (tmp_path / "boxes.csv").write_text(f"{headings}\n{cells}\n", "utf-8-sig")
    boxes = open_boxes(tmp_path, "train")
    assert samples.plain(boxes) == {"a": ((64, 48), [("dog", (4, 6, 20, 30))])}


def test_csv_with_a_column_of_splits(tmp_path):
    samples.draw_all(tmp_path)
    (tmp_path / "all.csv").write_text(
        "file,class,x1,y1,x2,y2,split\na.png,cat,1,1,5,5,training\nb.png,cat,1,1,5,5,validation\n"
    )
    sets = everything(tmp_path)
    assert [i.path.stem for i in sets["train"].images] == ["a"]
    assert [i.path.stem for i in sets["test"].images] == ["b"]


def test_images_that_are_named_after_a_split_are_of_any(tmp_path):
    samples.write_voc(tmp_path, annotations="train/labels", images="train")
    samples.write_voc(tmp_path, annotations="valid/labels", images="valid")
    for ending, folder in ((".png", ""), (".xml", "labels")):
        path = tmp_path / "train" / folder / f"a{ending}"
        path.rename(path.with_name(f"test-drive{ending}"))
    sets = everything(tmp_path)
    assert [len(one) for one in sets.values()] == [3, 3]
    assert sets["train"].images[-1].name == "train/test-drive.png"


def test_categories_of_both_splits_match_by_name(tmp_path):
    samples.write_coco(tmp_path)
    samples.draw_all(tmp_path / "val2017")
    only_dogs = {"a": [samples.BOXES["a"][0]]}
    file = "annotations/instances_val2017.json"
    samples.write_coco(tmp_path, only_dogs, ["dog"], file)
    sets = everything(tmp_path)
    assert sets["test"].categories == ("cat", "dog")
    assert [o.category for i in sets["test"].images for o in i.objects] == [1]
    assert sets["test"].category_ids == (1, 10)  # dog's own, and one that is free
    assert unused_categories(sets["test"]) == ("cat",)
    assert "val2017/a.png" in [i.name for i in sets["test"].images]
    samples.write_coco(tmp_path, {"a": []}, ["cow"], file)
    with pytest.raises(UserError, match=r"category 'cow' .* is not one of .*: cat, dog"):
        open_boxes(tmp_path, "test")


def test_a_source_for_testing_only(tmp_path):
    samples.write_coco(tmp_path, file="annotations/instances_val2017.json")
    (tmp_path / "train2017").rename(tmp_path / "val2017")
    assert samples.plain(open_boxes(tmp_path, "test")) == samples.EXPECTED
    with pytest.raises(UserError, match="has annotations for testing only"):
        open_boxes(tmp_path, "train")


def test_quarantined_images_are_left_out(tmp_path):
    samples.write_voc(tmp_path)
    samples.draw(tmp_path / "no-box.png", (9, 9))
    (tmp_path / ".quarantine").write_text("JPEGImages/a.png\nno-box.png\nnowhere.png\n")
    assert [i.path.stem for i in open_boxes(tmp_path, "train").images] == ["b", "c"]
    assert read_source(tmp_path).notes() == (
        "2 in quarantine left out",
        ".quarantine: 1 of its lines match no image: nowhere.png",
    )


@pytest.mark.parametrize("format", samples.WRITERS)
@pytest.mark.parametrize(("on_disk", "written"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_are_the_same_in_either_unicode_form(format, on_disk, written, tmp_path):
    samples.WRITERS[format](tmp_path)
    image = normalize(on_disk, "b\xe9.png")
    next(tmp_path.rglob("b.png")).rename(next(tmp_path.rglob("b.png")).with_name(image))
    (tmp_path / ".quarantine").write_text(normalize(written, "c\xe9.png"))
    samples.draw(tmp_path / normalize(on_disk, "c\xe9.png"), (9, 9))
    for path in [p for s in ("json", "xml", "csv") for p in tmp_path.rglob(f"*.{s}")]:
        path.write_text(path.read_text().replace("b.png", normalize(written, "b\xe9.png")))
    for path in [p for s in ("xml", "txt") for p in tmp_path.rglob(f"b.{s}")]:
        path.rename(path.with_stem(normalize(written, "b\xe9")))
    if format == "VOC XML":
        (tmp_path / "trainval.txt").write_text(normalize(on_disk, "a\nb\xe9\nc"))
    found = samples.plain(open_boxes(tmp_path, "train"))
    assert found[normalize(on_disk, "b\xe9")] == samples.EXPECTED["b"]
    assert read_source(tmp_path).quarantine.matched == 1


def test_categories_are_the_same_in_either_unicode_form(tmp_path):
    one, other = normalize("NFC", "caf\xe9"), normalize("NFD", "caf\xe9")
    samples.draw_all(tmp_path)
    lines = ["file,class,x1,y1,x2,y2,split", f"a.png,{one},1,1,5,5,train"]
    lines += [f"a.png,{other},1,1,9,9,train", f"b.png,{other},1,1,5,5,val"]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    sets = everything(tmp_path)
    assert sets["train"].categories == sets["test"].categories == (one,)
    assert [len(i.objects) for i in (*sets["train"].images, *sets["test"].images)] == [2, 1]


@pytest.mark.parametrize(
    ("name", "split", "images", "objects"),
    [
        ("voc2007-subset", "train", 765, 2456),
        ("voc2007-subset", "test", 400, 1252),
        ("raccoon", "train", 160, 173),
        ("raccoon", "test", 40, 44),
        ("balloon", "train", 61, 255),
        ("balloon", "test", 13, 50),
        ("coco-samples", "test", 60, 822),
    ],
)
def test_real_data_open(name, split, images, objects):
    boxes = open_boxes(shared_data(name), split)
    assert len(boxes) == images
    assert sum(len(image.objects) for image in boxes.images) == objects


class TestSetAside:
    """Sources without splits: a fifth of the images with objects, and of those without."""

    @pytest.fixture(autouse=True)
    def all_for_training(self):
        """In place of the fixture of the module."""

    @staticmethod
    def write(folder, order):
        lines = ["file,class,x1,y1,x2,y2"]
        for number in order:
            samples.draw(folder / f"{number}.png", (40, 30))
            cells = ",,,," if number % 2 else "cat,1,1,9,9"
            lines.append(f"{number}.png,{cells}")
        (folder / "boxes.csv").write_text("\n".join(lines))

    def test_the_same_for_the_same_seed_in_any_order(self, tmp_path):
        self.write(tmp_path / "a", range(20))
        self.write(tmp_path / "b", reversed(range(20)))
        sets = {}
        for folder in ("a", "b"):
            for seed in (0, 1):
                parts = [open_boxes(tmp_path / folder, split, seed) for split in ("train", "test")]
                names = [{image.name for image in part.images} for part in parts]
                assert len(names[0] | names[1]) == 20
                assert [len(one) for one in names] == [16, 4]
                assert sum(bool(image.objects) for image in parts[1].images) == 2
                sets[folder, seed] = names[1]
        assert sets["a", 0] == sets["b", 0]
        assert sets["a", 0] != sets["a", 1]

    def test_one_image_with_objects_is_too_few(self, tmp_path):
        self.write(tmp_path, range(2))
        with pytest.raises(UserError, match="fewer than two images have boxes"):
            open_boxes(tmp_path, "train")
