"""`resnets eval` and `resnets ensemble` as a user meets them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnets.data import cifar
from resnets.data.cifar_classes import CLASSES
from resnets.data.datasets import open_test
from resnets.evaluation import scores
from resnets.support import memory
from tests.cli.test_cli import one_line
from tests.evaluation import photos

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, cache):
    """A model and photographs that it may be tested on."""
    photos.save_model(tmp_path / "m.safetensors")
    photos.write(tmp_path / "photos", 13)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("center", "centre crop of 32 pixels from shorter side 36"),
        ("ten-crop", "10 crops of 32 pixels from shorter side 36, softmax averaged"),
        ("dense", "fully convolutional at shorter sides 32, 37, 55, 69, 91, with flips"),
    ],
)
def test_every_protocol(resnets, here, name, protocol):
    code, out, err = resnets("eval", "m.safetensors", "photos", "--views", name, "--batch", 5)
    assert (code, err) == (0, "")
    assert f"protocol: {protocol}" in out
    assert "95 % interval" in out
    assert "of 13 images" in out
    assert "images/s" in out


def test_json_and_scores_agree(resnets, here):
    code, out, _ = resnets("eval", "m.safetensors", "photos", "--json", "--save-scores", "a.scores")
    assert code == 0
    facts, kept = json.loads(out), scores.load(here / "a.scores")
    assert facts["error"] == pytest.approx(kept.result().error, abs=1e-4)
    assert facts["images"] == len(kept) == 13
    assert kept.model == "cifar-resnet8 (m.safetensors)"
    assert set(facts["class_errors"]) == set(photos.CLASSES)
    assert np.sum(facts["confusion"]) == 13
    for key in ("error_interval", "top5_error", "top5_interval", "worst_pairs"):
        assert key in facts
    smaller = resnets("eval", "m.safetensors", "photos", "--image-size", "64", "--limit", "4")[1]
    assert "centre crop of 64 pixels from shorter side 72; 4 of 13 images at random" in smaller


def test_images_in_quarantine_are_counted(resnets, here):
    (here / "photos/.quarantine").write_text("ant/0.png\nant/nowhere.png\n")
    code, out, err = resnets("eval", "m.safetensors", "photos", "--json", "--limit", "4")
    left_out, idle = err.splitlines()
    assert (code, left_out) == (0, "photos: 1 in quarantine left out")
    assert idle == "photos: .quarantine: 1 of its lines match no image: ant/nowhere.png"
    ending = "1 in quarantine left out; 4 of 12 images at random"
    assert json.loads(out)["protocol"].endswith(ending)


def test_an_ensemble(resnets, here):
    photos.save_model(here / "n.safetensors", seed=1)
    for name in "mn":
        model = f"{name}.safetensors"
        assert resnets("eval", model, "photos", "--save-scores", f"{name}.scores")[0] == 0
    code, out, _ = resnets("ensemble", "m.scores", "n.scores")
    assert code == 0
    assert "protocol: mean of 2 models' probabilities; centre crop" in out
    assert "m.scores: cifar-resnet8 (m.safetensors), error" in out
    facts = json.loads(resnets("ensemble", "m.scores", "n.scores", "--json")[1])
    both = [scores.load(here / f"{name}.scores") for name in "mn"]
    mean = sum(one.probabilities for one in both) / 2
    assert facts["wrong"] == (mean.argmax(1) != both[0].labels).sum()
    assert [one["file"] for one in facts["members"]] == ["m.scores", "n.scores"]
    assert facts["members"][1]["error"] == pytest.approx(both[1].result().error, abs=1e-4)


def test_many_classes_are_told_by_the_worst(resnets, here):
    classes = [*photos.CLASSES, *(f"class{n}" for n in range(120))]
    photos.save_model(here / "many.safetensors", classes)
    code, out, _ = resnets("eval", "many.safetensors", "photos")
    assert code == 0
    assert "Worst classes" in out
    assert " -> " in out
    assert "class119" not in out.split("Most frequent")[0], "classes without images have no error"
    code, _, err = resnets("eval", "many.safetensors", "photos", "--plot", "c.png")
    assert code == 2
    assert "126 classes do not fit into a picture" in one_line(err)


def test_cifar10_scores(resnets, real_shape, tmp_path):
    photos.save_model(tmp_path / "m.safetensors", CLASSES["cifar10"])
    code, out, _ = resnets("eval", "m.safetensors", "--save-scores", "c.scores", "--plot", "c.png")
    assert code == 0
    assert "single view of the original 32x32 image" in out
    assert Image.open(tmp_path / "c.png").format == "PNG"
    kept = scores.load(tmp_path / "c.scores")
    assert (kept.labels == real_shape.test.labels).all()
    code, out, _ = resnets("eval", "m.safetensors", "--limit", "20")
    assert "20 of 200 images at random" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos", "--views", "tencrop"), "did you mean ten-crop"),
        (("nowhere",), "nowhere: no such folder; give a folder of images, or cifar10"),
        (("m.safetensors",), "m.safetensors: not a folder"),
        (("cifar10", "--views", "dense"), "CIFAR-10 is tested on a single view"),
        (("cifar10", "--image-size", "64"), "--image-size: CIFAR-10 is tested on a single view"),
        (("cifar10",), "trained on other classes than those of cifar10"),
        (("photos", "--data", "photos"), "--data: works with cifar10 and cifar100 only"),
        (("photos", "--save-scores", "none/a.scores"), "no such folder"),
        (("photos", "--save-scores", "photos"), "--save-scores photos: is a folder"),
        (("photos", "--plot", "c.gif"), "ending in .png"),
        (("strange",), "class 'yak' is not among the model's 6 classes; use a model with these 2"),
        (("broken",), "bee/1.png: "),
        (("empty",), "no images"),
    ],
)
def test_mistakes_are_one_line(resnets, here, real_shape, arguments, message):
    photos.write(here / "strange", 2, ("yak", "ant"))
    photos.write(here / "broken", 3)
    (here / "broken" / "bee" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (here / "empty").mkdir()
    before = sorted(here.rglob("*"))
    code, out, err = resnets("eval", "m.safetensors", *arguments)
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert {p for p in here.rglob("*") if "cache" not in p.parts} <= set(before)


def test_classes_are_compared_before_a_download(resnets, here, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a download")

    monkeypatch.setattr(cifar, "load", refuse)
    code, _, err = resnets("eval", "cifar-resnet20", "cifar100")
    assert (code, "than those of cifar100; say cifar10" in one_line(err)) == (2, True)


def test_a_batch_that_no_memory_holds_is_one_line(resnets, here, monkeypatch):
    monkeypatch.setattr(memory, "total_memory", lambda: 10 * 4 * (3 * 32**2 + 16 * 32**2))
    options = ("eval", "m.safetensors", "photos", "--batch")
    assert resnets(*options, 10)[0] == 0
    code, out, err = resnets(*options, 11)
    assert (code, out) == (2, "")
    assert "--batch: a test of 11 crops at once needs more than" in one_line(err)


def test_mistakes_with_ensembles_are_one_line(resnets, here):
    photos.write(here / "others", 14)
    with Image.open(photos.write(here / "changed", 13) / "bee" / "7.png") as image:
        image.convert("L").save(here / "changed" / "bee" / "7.png")
    for folder in ("photos", "others", "changed"):
        name = f"{folder}.scores"
        assert resnets("eval", "m.safetensors", folder, "--save-scores", name)[0] == 0
    (here / "cut.scores").write_bytes((here / "photos.scores").read_bytes()[:-9])
    for files, message in (
        (("photos.scores", "others.scores"), "others.scores: has 14 images, not 13"),
        (
            ("photos.scores", "changed.scores"),
            "with the same names differ, the first is bee/7.png",
        ),
        (("photos.scores", "cut.scores"), "cut.scores: not a readable score file"),
        (("m.safetensors",), "m.safetensors: not a score file"),
        (("photos.scores", "photos.scores"), "photos.scores: is given twice"),
        (("nowhere.scores",), "nowhere.scores: no such score file"),
    ):
        code, out, err = resnets("ensemble", *files)
        assert (code, out) == (2, "")
        assert message in one_line(err)


def torchrun(here, *options):
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    return subprocess.run(
        [*start, "-m", "resnets", *options],
        cwd=here, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip


def test_torchrun_prints_once_and_finds_the_same(resnets, here):
    options = ("eval", "m.safetensors", "photos", "--views", "ten-crop", "--json")
    alone = json.loads(resnets(*options, "--save-scores", "alone.scores")[1])
    shared = json.loads(torchrun(here, *options, "--save-scores", "shared.scores").stdout)
    other = {"images_per_second": 0, "threads": 0}  # torchrun gives each process one thread
    assert {**shared, **other} == {**alone, **other}
    found = [scores.load(here / f"{name}.scores") for name in ("alone", "shared")]
    np.testing.assert_allclose(*(one.probabilities for one in found), atol=1e-6)
    assert found[0].images_hash() == found[1].images_hash()


@pytest.mark.parametrize("number", [0, 1])
def test_torchrun_names_an_unreadable_image_once_whoever_reads_it(here, number):
    bad = open_test(str(here / "photos")).name(number)
    (here / "photos" / bad).write_bytes(b"no image")
    done = torchrun(here, "eval", "m.safetensors", "photos")
    lines = [line for line in done.stderr.splitlines() if line.startswith("resnets: ")]
    assert done.returncode != 0
    assert len(lines) == 1
    assert f"photos: {bad}: " in lines[0]
