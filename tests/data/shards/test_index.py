"""Damaged or hostile indices, and the index of shards from other writers."""

import json

import pytest

from resnets.data.shards import reader
from resnets.data.shards.index import expand_braces
from resnets.support.errors import UserError
from tests.data.shards.helpers import RecordingHandler, cut, samples, tar


@pytest.mark.parametrize("name", ["shards.json", "train.index.npz"])
@pytest.mark.parametrize("damage", ["cut", "junk", "gone"])
def test_a_damaged_index_is_one_clear_error(made, name, damage):
    path = made / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
        for tar in made.glob("*.tar"):
            tar.unlink()
    else:
        path.write_bytes(content[:-20] if damage == "cut" else b"\0" * len(content))
    with pytest.raises(UserError, match=r"shards"):
        reader.load(made)


def test_a_later_format(made):
    values = json.loads((made / "shards.json").read_text())
    (made / "shards.json").write_text(json.dumps({**values, "format": 2}))
    with pytest.raises(UserError, match="later version"):
        reader.load(made)


@pytest.mark.parametrize(
    "name",
    ["../../evil", "/tmp/evil", "a/b.tar", "a\\b.tar", "..", "", "http://h/a.tar", "a\0", "C:a", 7],
)
@pytest.mark.parametrize("which", ["shard", "index"])
def test_a_manifest_cannot_lead_out_of_its_folder(made, serve, tmp_path, name, which):
    values = json.loads((made / "shards.json").read_text())
    train = values["splits"]["train"]
    (train["shards"][0] if which == "shard" else train["index"])["file"] = name
    (made / "shards.json").write_text(json.dumps(values))
    for where in (made, serve(made)):
        with pytest.raises(UserError, match=r"not a plain file name|or is damaged"):
            reader.load(where)


def others(root, classes=("0", "1", "2")):
    for split, count in (("train", 6), ("validation", 2)):
        for s in range(2):
            members = []
            for i in range(count):
                key = f"{split}/{s}-{i}" + "x" * (120 * (i == 1))  # one name too long for ustar
                members += [(f"{key}.jpg", f"{split} {s} {i}".encode()), (f"{key}.json", b"{}")]
                members += [(f"{key}.cls", classes[i % 3].encode() + b"\n")]
            tar(root / f"set-{split}-{s:04}.tar", members)
    return root


@pytest.mark.parametrize("by", ["folder", "address"])
def test_shards_of_others_are_indexed_once(tmp_path, serve, by, monkeypatch):
    others(tmp_path / "set")
    where = tmp_path / "set"
    if by == "address":
        where = serve(where) + "/set-{train,validation}-{0000..0001}.tar"
    for _ in range(2):
        read = reader.load(where)
        assert (len(read.train), len(read.val)) == (12, 4)
        assert read.classes == ("0", "1", "2")
        assert read.train.labels.tolist() == [0, 1, 2] * 4
        contents = [read.train.read(i) for i in range(12)]
        assert contents == [f"train {s} {i}".encode() for s in range(2) for i in range(6)]
        assert sorted(read.train.order(0, 0)) == list(range(12))
        monkeypatch.setattr(reader, "scan", None)
    if by == "address":
        assert len(RecordingHandler.requests) == 4


def test_broken_shards_of_others_do_not_stay_in_the_cache(tmp_path, serve, cache):
    others(tmp_path / "set")
    path = tmp_path / "set/set-train-0001.tar"
    whole = path.read_bytes()
    cut(path, 0.4)
    url = serve(tmp_path / "set")
    where = url + "/set-train-{0000..0001}.tar"
    with pytest.raises(UserError, match=r"set-train-0001.tar: the shard is truncated"):
        reader.load(where)
    path.write_bytes(whole)
    assert len(reader.load_test(where)) == 12
    with pytest.raises(UserError, match=r"broken-off.tar: .*(broke off|IncompleteRead)"):
        reader.load(f"{url}/broken-off.tar")
    assert not list(cache.rglob("*broken-off.tar"))


def test_class_names_of_others(tmp_path):
    named = others(tmp_path / "named", ("owl", "ant", "bee"))
    assert reader.load(named).classes == ("ant", "bee", "owl")
    assert reader.load(named).val.labels.tolist() == [2, 0] * 2
    listed = others(tmp_path / "listed")
    (listed / "classes.txt").write_text("ant\nbee\nowl\nyak\n")
    assert reader.load(listed).classes == ("ant", "bee", "owl", "yak")
    (listed / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(UserError, match=r"class 2 is beyond the 2"):
        reader.load(listed)


def test_shards_of_others_without_a_split_are_split(tmp_path):
    members = [(f"{i}.{k}", b"%d" % (i % 2)) for i in range(20) for k in ("jpg", "cls")]
    tar(tmp_path / "a.tar", members)
    read = reader.load(tmp_path)
    assert (len(read.train), len(read.val)) == (16, 4)
    assert len(reader.load_test(tmp_path)) == 20


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", b"x"), ("2.jpg", b"x"), ("2.cls", b"1")], "sample 1 has no class"),
        ([("1.jpg", b"x"), ("1.cls", b"0"), ("2.cls", b"1")], "sample 2 has no image"),
        ([("1.jpg", b"x"), ("1.cls", b" ")], "sample 1 has no class"),
        ([("1.txt", b"x")], "sample 1 has no image"),
        ([], "contain no images"),
        ([("1.jpg", b"x"), ("1.cls", b"0")], "only one class"),
    ],
)
def test_missing_members_are_named(tmp_path, members, message):
    tar(tmp_path / "a.tar", members)
    with pytest.raises(UserError, match=message):
        reader.load(tmp_path)


@pytest.mark.parametrize("keep", [100, 700, 5200, 7168, 9000, 21504])
def test_a_truncated_shard_of_others_is_named(tmp_path, keep):
    members = [(f"{i}.{k}", b"1" * 3000) for i in range(3) for k in ("jpg", "cls")]
    tar(tmp_path / "a.tar", members)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:keep])
    with pytest.raises(UserError, match=r"a.tar: the shard is truncated"):
        reader.load(tmp_path)


def test_hidden_files_in_shards_are_ignored(tmp_path):
    tar(tmp_path / "a.tar", [(".hidden", b"x"), *samples(4), (".jpg", b"x")])
    read = reader.load_test(tmp_path)
    assert [read.name(i) for i in range(len(read))] == [f"a/{i}.jpg" for i in range(4)]


def test_braces_are_expanded():
    assert expand_braces("a-{008..011}.tar") == [f"a-{n}.tar" for n in ("008", "009", "010", "011")]
    assert expand_braces("{x,y}-{0..1}") == ["x-0", "x-1", "y-0", "y-1"]


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
def test_only_the_differing_part_of_the_names_determines_the_split(tmp_path, pattern, train, val):
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
