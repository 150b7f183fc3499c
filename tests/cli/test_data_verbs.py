"""`resnets doctor` and `resnets shards` as a user meets them."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.cli.test_cli import one_line


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


def test_the_doctor_does_not_condemn_shards(resnets, photos):
    assert resnets("shards", "photos", "s")[0] == 0
    code, _, err = resnets("doctor", "s")
    assert code == 2
    assert "these are shards" in one_line(err)


def test_shards_are_not_written_over_others(resnets, photos):
    assert resnets("shards", "photos", "out", "--images-per-shard", "2")[0] == 0
    assert resnets("shards", "photos", "out", "--images-per-shard", "2")[0] == 0
    code, _, err = resnets("shards", "photos", "out", "--resize", "32")
    assert code == 2
    assert "choose another folder" in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("doctor", "nowhere"), "no such folder"),
        (("doctor", "photos", "--html", "absent/x.html"), "no such folder"),
        (("doctor", "photos", "--quarantine", "photos"), "is a folder"),
        (("shards", "nowhere", "out"), "no such folder"),
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
