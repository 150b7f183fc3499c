"""What may be an image is found by its ending, else by its first bytes; never by opening much."""

import io
import os

import pytest
from PIL import Image

from resnets.data import folders, image_formats, images
from resnets.data.image_formats import ENDINGS, EXTENSIONS


def content(kind="JPEG"):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "teal").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name",
    ["a.jfif", "a.jpe", "a.JPG", "a.mpo", "a.apng", "a.dib", "a.jp2", "a.jpg_large", "a.jpg!d",
     "a", "a.dat", "a.jpg:large", "a.php?id=3", "0.5", "a.heic"],
)  # fmt: skip
def test_what_can_be_decoded_is_taken_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(content())
    assert images.is_candidate(tmp_path / name)
    assert images.is_candidate(str(tmp_path / name))
    assert images.read_image(tmp_path / name).size == (40, 40)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_each_format_is_known_by_its_first_bytes(tmp_path, kind):
    assert image_formats.identify(content(kind)) == image_formats.Kind(kind, readable=True)
    (tmp_path / "it").write_bytes(content(kind))
    assert images.is_candidate(tmp_path / "it")


def test_what_is_no_image_is_not_taken(tmp_path):
    contents = {
        "notes": b"P1 cat\nP2 dog\n",
        "a.heic": b"\0\0\0\x18ftypheic" + bytes(9),
        "a.mp4": b"\0\0\0\x18ftypisom" + bytes(99),
        "empty": b"",
    }
    for name, text in contents.items():
        (tmp_path / name).write_bytes(text)
        assert not images.is_candidate(tmp_path / name)
    assert not images.is_candidate(tmp_path / "absent")
    assert not images.is_candidate(tmp_path)
    assert not images.is_candidate("a\0b")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert not images.is_candidate(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["1.jpg", "1.JFIF", "labels.txt", "annotation.xml"])
def test_usual_files_are_not_opened(monkeypatch, name):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr("os.path.isfile", fail)
    assert images.is_candidate(name) == name.startswith("1")


def test_half_downloaded_files_are_left_out(tmp_path):
    (tmp_path / "a.jpg.part").write_bytes(content()[:200])
    assert not images.is_candidate(tmp_path / "a.jpg.part")


def test_endings_and_formats_belong_together():
    assert not EXTENSIONS & image_formats.OTHER_ENDINGS
    assert {*images.FORMATS, "MPO"} == set(ENDINGS)
    assert all(images.has_image_ending(f"A{ending.upper()}") for ending in EXTENSIONS)


def test_a_class_folder_may_hold_files_of_any_name(tmp_path):
    for name in ("cat/1.jfif", "cat/2", "dog/3.jpg!d", "dog/notes.txt", "dog/4.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content() if "notes" not in name else b"words")
    samples = folders.load_class_folders(tmp_path)
    assert [samples.name(i) for i in range(len(samples))] == [
        "cat/1.jfif", "cat/2", "dog/3.jpg!d", "dog/4.bin",
    ]  # fmt: skip
