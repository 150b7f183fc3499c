"""`resnets doctor` and `resnets shards` as a user meets them."""

import csv
import json
import re
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from resnets.support.errors import valid_utf8
from resnets.support.names import fitted
from tests.cli.test_cli import one_line
from tests.data.boxes import samples


@pytest.fixture
def photos(tmp_path, cache):
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(3):
                noise = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / "photos" / split / name / f"{i}.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize("verb", ["doctor", "shards"])
def test_help_fits_a_screen_and_shows_an_example(resnets, verb):
    code, out, _ = resnets(verb, "--help")
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert f"Example: resnets {verb}" in out


def test_a_clean_folder(resnets, photos):
    code, out, err = resnets("doctor", "photos")
    assert (code, err) == (0, "")
    assert "12 images" in out
    assert "0 errors, 0 warnings, 0 notes" in out


def test_a_broken_image_is_found_listed_and_left_out(resnets, photos, tmp_path):
    bad = photos / "train/cat/1.jpg"
    bad.write_bytes(bad.read_bytes()[:900])
    code, out, err = resnets("shards", "photos", "out")
    assert code == 2
    assert "train/cat/1.jpg" in one_line(err)
    code, out, _ = resnets("doctor", "photos", "--html", "page.html")
    assert code == 1
    assert "train/cat/1.jpg: the image cannot be read" in out
    assert "<figure>" in (tmp_path / "page.html").read_text()
    code, out, _ = resnets("doctor", "photos", "--json", "--quarantine", "photos/.quarantine")
    assert code == 1
    assert [f["kind"] for f in json.loads(out)["findings"]] == ["truncated"]
    assert bad.exists()
    assert resnets("doctor", "photos")[0] == 0
    code, out, _ = resnets("shards", "photos", "out")
    assert code == 0
    assert "train: 5 images in 1 shard" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("doctor", "photos", "--html", "{}"),
            "--html {}: the ending does not fit.*; give.* in .html",
        ),
        (("doctor", "photos", "--quarantine", "{}"), "--quarantine {}: the ending .* .quarantine"),
        (
            ("eval", "cifar-resnet20", "--save-scores", "{}"),
            "--save-scores {}: the ending .* .scores",
        ),
        (("responses", "m", "--plot", "{}"), "--plot {}: the ending .* .png"),
        (
            ("deepen", "cifar-resnet20", "--to", "56", "--out", "{}"),
            "--out {}: the ending .* .safetensors",
        ),
    ],
)
def test_an_image_is_not_overwritten_by_mistake(resnets, photos, options, message):
    image = photos / "train/cat/1.jpg"
    before = image.read_bytes()
    name = "photos/train/cat/1.jpg"
    code, _, err = resnets(*(option.format(name) for option in options))
    assert code == 2
    assert re.search(message.format(name), one_line(err))
    assert image.read_bytes() == before


def test_the_doctor_does_not_condemn_shards(resnets, photos):
    assert resnets("shards", "photos", "s")[0] == 0
    code, _, err = resnets("doctor", "s")
    assert code == 2
    assert "these are shards" in one_line(err)


def test_shards_are_not_written_among_photographs(resnets, photos, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.jpg").touch()
    code, _, err = resnets("shards", "photos", "mine")
    assert code == 2
    assert "holds other files: holiday.jpg" in one_line(err)
    assert len(list((tmp_path / "mine").iterdir())) == 1


@pytest.fixture
def packed(photos):
    with zipfile.ZipFile(photos.parent / "photos.zip", "w") as file:
        for path in photos.rglob("*.jpg"):
            file.write(path, f"some/photos/{path.relative_to(photos)}")
        file.writestr("__MACOSX/some/._photos", b"")
    return photos.parent / "photos.zip"


def test_an_archive_is_examined_and_packed_like_its_folder(resnets, packed):
    code, out, err = resnets("doctor", "photos.zip")
    assert (code, err) == (0, "")
    assert out.startswith("photos.zip: 12 images")
    assert "0 errors, 0 warnings, 0 notes" in out
    assert json.loads(resnets("doctor", "photos.zip", "--json")[1])["archive"] == "photos.zip"
    assert resnets("shards", "photos.zip", "out")[0] == 0
    code, _, err = resnets("doctor", "photos.zip", "--quarantine", "list")
    assert code == 2
    assert "unpack it" in one_line(err)


def test_a_table_is_examined_and_other_files_are_refused(resnets, photos, tmp_path):
    rows = [f"{path.relative_to(photos)},{path.parent.name}" for path in photos.rglob("*.jpg")]
    (photos / "list.csv").write_text("\n".join(["file,class", *rows]))
    code, out, err = resnets("doctor", "photos/list.csv")
    assert (code, err) == (0, "")
    assert "all: 12 images of 2 classes" in out
    (tmp_path / "photos.rar").write_bytes(b"Rar!")
    assert "pack it as .tar" in one_line(resnets("doctor", "photos.rar")[2])
    (tmp_path / "notes.txt").write_text("")
    err = one_line(resnets("doctor", "notes.txt")[2])
    assert err == "resnets: notes.txt: not a folder; give a folder of images"


def test_boxes_are_converted_from_an_archive(resnets, tmp_path, cache):
    samples.write_yolo(tmp_path / "boxes")
    shutil.make_archive(str(tmp_path / "boxes"), "zip", tmp_path / "boxes")
    code, out, err = resnets("convert-boxes", "boxes.zip", "coco", "--format", "coco")
    assert (code, err) == (0, "")
    assert "boxes of YOLO txt" in out
    assert (tmp_path / "coco").is_dir()


def test_a_training_names_its_classes(resnets, photos, tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("14", "4"))
    code, out, err = resnets("train", "tiny.toml", "--data", "photos", "--out", "run")
    assert (code, err) == (0, "")
    assert "\nclasses: cat, dog\n" in out
    assert fitted(["a" * 30, "b" * 30, "c", "d"], 70) == f"{'a' * 30}, {'b' * 30}, c, d"
    assert fitted(["a" * 30, "b" * 30, "c", "d"], 60) == f"{'a' * 30} and 3 more"


@pytest.mark.parametrize("way", [("--classes", "3"), ("--set", "classes=3")])
def test_more_classes_than_there_are_is_an_error(resnets, photos, tmp_path, way):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    code, _, err = resnets("train", "tiny.toml", "--data", "photos", "--out", "run", *way)
    assert (code, one_line(err)) == (
        2, "resnets: photos: has 2 classes only, not 3; leave out --classes to train on all"
    )  # fmt: skip
    assert not (tmp_path / "run").exists()


ODD = ("$x_1$", "日本", "<b>&", "two\nlines", 'a,"b"', "\udcff", "caf\u00e9 ")
RECIPE = """
dataset = "photos"
network = "cifar-resnet8"
epochs = 1
batch = 14
precision = "fp32"
photos.size = 32
[schedule]
kind = "linear"
lr = 0.01
"""


@pytest.fixture
def odd(tmp_path, cache):
    """A folder whose name, classes and files are as odd as file systems allow."""
    random = np.random.default_rng(0)
    root = tmp_path / "d$a <\n>"
    try:
        for name in ODD:
            (root / name).mkdir(parents=True)
            for i in range(4):
                noise = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / "x.png")
                (tmp_path / "x.png").rename(root / name / f"{name}{i}.png")
        (root / "\udcff" / "broken\udcff.jpg").write_bytes(b"x")
    except (OSError, UnicodeError):
        pytest.skip("this file system refuses such names")
    return root


def test_odd_names_pass_through_every_verb(resnets, odd, tmp_path):
    """Classes, folders and files with formulas, tags, line ends, other alphabets, other bytes."""
    code, out, err = resnets("doctor", odd, "--html", "page.html", "--quarantine",
                             odd / ".quarantine")  # fmt: skip
    assert code == 1
    assert "<b>&" not in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert r"broken\udcff.jpg" in out
    code, out, _ = resnets("doctor", odd, "--json")
    assert code == 0
    out.encode()
    assert set(json.loads(out)["splits"]["all"]) == {valid_utf8(name) for name in ODD}
    (tmp_path / "tiny.toml").write_text(RECIPE)
    code, out, err = resnets("train", "tiny.toml", "--data", odd, "--out", "run")
    assert (code, err) == (0, "")
    assert "in quarantine left out" in out
    code, out, err = resnets("eval", "run", odd, "--plot", "plot.png", "--save-scores", "scores")
    assert code == 0
    assert len([line for line in out.splitlines() if line.startswith("two")]) == 1
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert resnets("ensemble", "scores")[0] == 0
    code, out, err = resnets("predict", "run", odd, "--runtime", "torch", "--out", "out.csv")
    assert (code, out[:2]) == (0, "28")
    assert "1 in quarantine left out" in err
    rows = list(csv.DictReader((tmp_path / "out.csv").open(newline="", encoding="utf-8")))
    assert len(rows) == 28
    assert {row["class_1"] for row in rows} <= {valid_utf8(name) for name in ODD}
    picture = odd / "$x_1$" / "$x_1$0.png"
    code, _, err = resnets("explain", "run", picture, odd / "\udcff" / "\udcff1.png", "--out",
                           "why", "--nearest", odd)  # fmt: skip
    assert code == 0
    json.loads((tmp_path / "why/explanations.json").read_text())
    assert "<b>&" not in (tmp_path / "why/index.html").read_text(encoding="utf-8")


def test_shards_are_not_written_over_others(resnets, photos):
    assert resnets("shards", "photos", "out", "--images-per-shard", "2")[0] == 0
    assert resnets("shards", "photos", "out", "--images-per-shard", "2")[0] == 0
    code, _, err = resnets("shards", "photos", "out", "--resize", "32")
    assert code == 2
    assert "choose another folder" in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("doctor", "nowhere"), "no such folder; give a folder of images"),
        (("doctor", "photos", "--html", "absent/x.html"), "no such folder"),
        (("doctor", "photos", "--quarantine", "photos"), "is a folder"),
        (("shards", "nowhere", "out"), "no such folder; give a folder of images"),
        (("train", "finetune", "--data", "nowhere"), "no such folder; give a folder of images"),
        (("eval", "cifar-resnet20", "nowhere"), "no such folder; give a folder of images"),
        (("predict", "cifar-resnet20", "nowhere/"), "no such folder; give a folder of images"),
        (("explain", "cifar-resnet20", "nowhere/", "--out", "x"), "no such folder; give a folder"),
        (("shards", "photos/train/cat", "out"), "no images"),
        (("shards", "photos", "file/out"), "cannot write"),
        (("shards", "photos", "photos"), "is inside the folder of the images"),
        (("shards", "photos", "photos/train/../out"), "is inside the folder of the images"),
    ],
)
def test_mistakes_are_one_line(resnets, photos, arguments, message):
    (photos.parent / "file").touch()
    code, _, err = resnets(*arguments)
    assert code == 2
    assert message in one_line(err)
