"""Shards that are hostile, damaged, or not what their names say."""

import json
import shutil

import pytest
from filelock import FileLock

from resnets.data import folders
from resnets.data.datasets import open_test, open_training
from resnets.data.shards import index as shard_index
from resnets.data.shards import reader, writer
from resnets.support.errors import UserError
from tests.conftest import draw_photos
from tests.data.shards.test_shards import cut, made, own_cache, photos, refusing_index, serve, tar  # noqa: F401


@pytest.mark.parametrize(
    "name",
    ["../../evil", "/tmp/evil", "a/b.tar", "a\\b.tar", "..", "", "http://h/a.tar", "a\0", "C:a", 7],
)
@pytest.mark.parametrize("which", ["shard", "index"])
def test_a_manifest_cannot_lead_out_of_its_folder(made, serve, tmp_path, name, which):  # noqa: F811
    values = json.loads((made / "shards.json").read_text())
    train = values["splits"]["train"]
    (train["shards"][0] if which == "shard" else train["index"])["file"] = name
    (made / "shards.json").write_text(json.dumps(values))
    for where in (made, serve(made)):
        with pytest.raises(UserError, match=r"not a plain file name|or is damaged"):
            reader.load(where)


def samples(count, key="{}", word="{}"):
    kinds = (("jpg", lambda i: b"x%d" % i), ("cls", lambda i: word.format(i % 2).encode()))
    return [(f"{key.format(i)}.{k}", made_of(i)) for i in range(count) for k, made_of in kinds]


def test_a_damaged_header_is_not_the_end(tmp_path):
    path = tmp_path / "a.tar"
    tar(path, samples(20))
    whole = bytearray(path.read_bytes())
    assert len(reader.load_test(tmp_path)) == 20
    for at in (20 * 1024, 21 * 1024):  # the headers of an image and of a class
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match=f"a.tar: the shard is damaged at byte {at:,}"):
            reader.load(tmp_path)
    path.write_bytes(whole + whole)
    with pytest.raises(UserError, match=rf"a.tar: the shard is damaged at byte {len(whole):,}"):
        reader.load(tmp_path)
    path.write_bytes(bytes(512))
    with pytest.raises(UserError, match=r"a.tar: the shard is truncated"):
        reader.load(tmp_path)


def test_an_empty_range_of_shards(tmp_path):
    with pytest.raises(UserError, match=r"set-\{9..0\}.tar: the pattern names no shards"):
        reader.load((tmp_path / "set-{9..0}.tar").as_uri().replace("%7B", "{").replace("%7D", "}"))


@pytest.mark.parametrize(
    ("pattern", "train", "val"),
    [
        ("test.set/train-{0..1}.tar", 8, 2),
        ("test.set/{train,val}-0.tar", 5, 5),
        ("{train,val}/0.tar", 5, 5),
    ],
)
def test_only_what_tells_shards_apart_says_their_split(tmp_path, pattern, train, val):
    for name in ("test.set/train-0", "test.set/train-1", "test.set/val-0", "train/0", "val/0"):
        tar(tmp_path / f"{name}.tar", samples(5))
    read = reader.load(f"{tmp_path.as_uri()}/{pattern}")
    assert (len(read.train), len(read.val)) == (train, val)


def test_shards_of_one_name_in_two_folders(tmp_path):
    for name in "ab":
        tar(tmp_path / name / "train-0.tar", samples(4))
    read = reader.load_test(f"{tmp_path.as_uri()}/{{a,b}}/train-0.tar")
    assert {read.name(0), read.name(4)} == {"a/train-0/0.jpg", "b/train-0/0.jpg"}
    assert len({read.name(i) for i in range(8)}) == 8


@pytest.mark.parametrize("word", ["0211978{}", "1056566{}", "{}" + "0" * 5000])
def test_long_numbers_are_names(tmp_path, word):
    tar(tmp_path / "a.tar", samples(4, word=word))
    assert reader.load_test(tmp_path).classes == (word.format(0), word.format(1))
    assert reader.load_test(tmp_path).labels.tolist() == [0, 1, 0, 1]


def test_class_folders_win_over_tars_beside_them(tmp_path):
    for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (tmp_path / "imagenet" / name).mkdir(parents=True)
        for i in range(2):
            (tmp_path / "imagenet" / name / f"{i}.jpg").touch()
    tar(tmp_path / "imagenet/ILSVRC2012_img_val.tar", samples(4))
    assert len(open_test(str(tmp_path / "imagenet"))) == 4
    assert open_training(str(tmp_path / "imagenet")).classes == ("cat", "dog")
    tar(tmp_path / "listed/all.tar", samples(4))
    tar(tmp_path / "listed/._all.tar", [])
    assert open_test(str(tmp_path / "listed")).classes == ("0", "1")
    (tmp_path / "listed/0.jpg").touch()
    (tmp_path / "listed/labels.tsv").write_text("file\tclass_index\n0.jpg\t5\n")
    assert open_test(str(tmp_path / "listed")).classes is None


def test_the_seed_of_the_parting_reaches_shards(tmp_path):
    tar(tmp_path / "a.tar", samples(20))
    parts = [open_training(str(tmp_path), seed).val for seed in (0, 1, 0)]
    names = [{part.name(i) for i in range(len(part))} for part in parts]
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("damage", ["gone", "cut", "no index"])
def test_a_finished_set_that_lost_a_shard_is_mended(made, photos, damage):  # noqa: F811
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


def test_shards_of_others_that_changed_at_the_server(tmp_path, serve, cache):  # noqa: F811
    tar(tmp_path / "set/a.tar", samples(4))
    read = reader.load_test(f"{serve(tmp_path / 'set')}/a.tar")
    (kept,) = cache.rglob("*a.tar")
    kept.unlink()
    tar(tmp_path / "set/a.tar", samples(40))
    with pytest.raises(UserError, match=f"if the shards changed, delete {cache}/shards"):
        read.read(0)


def test_a_second_writing_is_told_that_it_is_one(tmp_path):
    draw_photos(tmp_path / "photos", {"ant": 5, "bee": 5})
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(UserError, match="another process"):
        writer.write(folders.load(tmp_path / "photos"), tmp_path / "out")
