"""Shards hold what the folder holds; an interrupted writing is resumed."""

import io
import shutil

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from resnets.data import folders
from resnets.data.shards import index as shard_index
from resnets.data.shards import reader, writer
from resnets.support.errors import UserError
from tests.conftest import draw_photos
from tests.data.shards.helpers import assert_same, cut, refusing_index


def test_other_formats_become_png_with_the_same_pixels(photos, made):
    folder, read = folders.load(photos).train, reader.load(made).train
    (index, *_) = [i for i in range(len(read)) if read.name(i).endswith("bmp")]
    image = Image.open(io.BytesIO(read.read(index)))
    assert image.format == "PNG"
    expected = Image.open(io.BytesIO(folder.read(index)))
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_a_single_folder_keeps_its_split(photos, tmp_path):
    images = folders.load(photos / "train", split_seed=3)
    writer.write(images, tmp_path / "out")
    read = reader.load(tmp_path / "out")
    assert_same(images.train, read.train)
    assert_same(images.val, read.val)


def test_the_webdataset_library_reads_them(photos, made):
    webdataset = pytest.importorskip("webdataset")
    folder = folders.load(photos).train
    urls = [str(path) for path in sorted(made.glob("train-*.tar"))]
    rows = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8")
    labels = []
    for row in rows:
        (kind,) = {"jpg", "png", "webp"} & set(row)
        assert kind == "webp" or row[kind].shape[-1] == 3
        labels.append(row["cls"])
    assert sorted(labels) == sorted(folder.labels.tolist())
    assert labels != sorted(labels)  # classes are mixed


@pytest.mark.parametrize(("resize", "quality"), [(16, 95), (16, 30), (25, 90)])
def test_resizing(photos, tmp_path, resize, quality):
    folder = folders.load(photos)
    writer.write(folder, tmp_path / "out", resize=resize, quality=quality)
    read = reader.load(tmp_path / "out").train
    sizes = []
    for i in range(len(read)):
        image = Image.open(io.BytesIO(read.read(i)))
        before = Image.open(io.BytesIO(folder.train.read(i)))
        sizes.append(len(read.read(i)))
        if min(before.size) <= resize:
            assert image.size == before.size
        else:
            assert min(image.size) == resize
            assert image.format == "JPEG"
    if resize == 16:
        assert (np.mean(sizes) < 700) == (quality == 30)


def test_an_interrupted_writing_is_resumed(photos, tmp_path, monkeypatch, made):
    images, out = folders.load(photos), tmp_path / "again"
    real = writer._encode
    calls = []

    def failing(samples, resize, quality, index):
        calls.append(index)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return real(samples, resize, quality, index)

    monkeypatch.setattr(writer, "_encode", failing)
    with pytest.raises(KeyboardInterrupt):
        writer.write(images, out, images_per_shard=2)
    assert not (out / "shards.json").exists()
    finished = {p.name: p.stat().st_mtime_ns for p in out.glob("*.tar")}
    assert len(finished) >= 8
    with (out / ".writing.jsonl").open("a") as state:
        state.write('{"file": {"file": "train-0000')  # as a power cut leaves it
    writer.write(images, out, images_per_shard=2)
    assert finished.items() <= {p.name: p.stat().st_mtime_ns for p in out.glob("*.tar")}.items()
    there = {p.name: p.read_bytes() for p in out.iterdir()}
    assert there == {p.name: p.read_bytes() for p in made.iterdir()}
    monkeypatch.setattr(writer, "_encode", None)  # a finished set is left alone
    writer.write(images, out, images_per_shard=2)


def test_an_interrupted_writing_of_other_images_is_discarded(photos, tmp_path, monkeypatch, made):
    images, out = folders.load(photos), tmp_path / "again"
    monkeypatch.setattr(shard_index, "write_bytes", refusing_index(shard_index.write_bytes))
    with pytest.raises(UserError, match="full"):
        writer.write(images, out, images_per_shard=1)
    monkeypatch.undo()
    writer.write(images, out, images_per_shard=2)
    there = {p.name: p.read_bytes() for p in out.iterdir()}
    assert there == {p.name: p.read_bytes() for p in made.iterdir()}


def test_a_finished_set_is_not_overwritten(photos, made):
    before = (made / "shards.json").read_bytes()
    with pytest.raises(UserError, match="other images or settings"):
        writer.write(folders.load(photos), made, resize=16, images_per_shard=2)
    assert (made / "shards.json").read_bytes() == before


def test_a_broken_image_is_named_and_no_partial_shard_is_left(tmp_path, photos):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (20, 20)).save(tmp_path / "d" / name / f"{i}.jpg")
    (tmp_path / "d/b/2.jpg").write_bytes((tmp_path / "d/b/1.jpg").read_bytes()[:300])
    with pytest.raises(UserError, match=r"b/2\.jpg: the image cannot be read.*resnets doctor"):
        writer.write(folders.load(tmp_path / "d"), tmp_path / "out", threads=2)
    assert not list((tmp_path / "out").glob("*.json"))
    assert not list((tmp_path / "out").glob(".*.tar.*"))


@pytest.mark.parametrize("damage", ["gone", "cut", "no index"])
def test_a_finished_set_that_lost_a_shard_is_completed(made, photos, damage):
    before = {p.name: p.read_bytes() for p in made.iterdir()}
    path = made / ("val.index.npz" if damage == "no index" else "train-000003.tar")
    if damage == "cut":
        cut(path)
    else:
        path.unlink()
    writer.write(folders.load(photos), made, images_per_shard=2)
    assert {p.name: p.read_bytes() for p in made.iterdir()} == before


def test_a_set_whose_images_changed_is_not_finished(tmp_path):
    draw_photos(tmp_path / "photos", {"ant": 4, "bee": 4})
    out = tmp_path / "out"
    writer.write(folders.load(tmp_path / "photos"), out)
    shutil.copy(tmp_path / "photos/ant/0.png", tmp_path / "photos/ant/1.png")
    with pytest.raises(UserError, match="images changed since"):
        writer.write(folders.load(tmp_path / "photos"), out)


def test_a_writing_is_not_resumed_with_changed_images(tmp_path, monkeypatch):
    draw_photos(tmp_path / "photos", {"ant": 4, "bee": 4})
    images, out = folders.load(tmp_path / "photos"), tmp_path / "out"
    monkeypatch.setattr(shard_index, "write_bytes", refusing_index(shard_index.write_bytes))
    with pytest.raises(UserError, match="full"):
        writer.write(images, out)
    monkeypatch.undo()
    shutil.copy(tmp_path / "photos/ant/0.png", tmp_path / "photos/ant/1.png")
    shutil.copy(tmp_path / "photos/ant/0.png", tmp_path / "photos/ant/2.png")
    writer.write(images, out)
    read = reader.load(out).train
    assert [read.read(i) for i in range(len(read))] == [
        images.train.read(i) for i in range(len(images.train))
    ]


def test_two_processes_cannot_write_to_the_same_folder(tmp_path):
    draw_photos(tmp_path / "photos", {"ant": 5, "bee": 5})
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(UserError, match="another process"):
        writer.write(folders.load(tmp_path / "photos"), tmp_path / "out")
