"""Shards are read like the folder they were made from, in a pure order."""

import pickle
import time

import numpy as np
import pytest

from resnets.data import folders
from resnets.data.datasets import open_test, open_training
from resnets.data.samples import fingerprint, random_subset
from resnets.data.shards import reader
from resnets.support.errors import UserError
from tests.data.shards.helpers import assert_same, cut, samples, tar


def test_shards_hold_the_images_of_the_folder(photos, made):
    folder, read = folders.load(photos), reader.load(made)
    assert_same(folder.train, read.train)
    assert_same(folder.val, read.val)
    assert_same(folders.load_test(photos), reader.load_test(made))
    assert len(list(made.glob("train-*.tar"))) == 20
    assert reader.are_shards(made)
    assert not reader.are_shards(photos)


def test_the_order_is_that_of_the_folder(photos, made):
    folder, read = folders.load(photos).train, reader.load(made).train
    for seed, epoch in ((0, 0), (0, 1), (7, 3)):
        assert np.array_equal(folder.order(seed, epoch), read.order(seed, epoch))


def test_a_truncated_or_missing_shard_is_named(made):
    cut(made / "train-000003.tar")
    with pytest.raises(UserError, match=r"train-000003.tar: the shard is truncated"):
        reader.load(made)
    (made / "train-000003.tar").unlink()
    with pytest.raises(UserError, match=r"train-000003.tar: the shard is missing"):
        reader.load(made)
    reader.load_test(made)


def test_a_shard_that_is_cut_while_it_is_used(made):
    train = reader.load(made).train
    cut(made / "train-000003.tar", 0.02)
    with pytest.raises(UserError, match=r"train-000003.tar: the shard is truncated"):
        [train.read(i) for i in range(len(train))]


def test_a_shard_of_the_same_size_with_other_content(made):
    path = made / "train-000005.tar"
    content = path.read_bytes()
    path.write_bytes(content[512:] + content[:512])
    train = reader.load(made).train
    with pytest.raises(UserError, match=r"train-000005.tar: the shard has no image where"):
        [train.read(i) for i in range(len(train))]


def test_shards_can_be_pickled(made, serve):
    train = reader.load(serve(made)).train
    train.order(0, 0)
    again = pickle.loads(pickle.dumps(train))
    assert again.read(3) == train.read(3)
    assert fingerprint(again) == fingerprint(train)


def test_remote_shards_are_shuffled_in_windows(made, serve, monkeypatch):
    monkeypatch.setattr(reader, "WINDOW", 4)
    url = serve(made)
    train = reader.load(url).train
    orders = [train.order(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert sorted(order) == list(range(40))
        windows = train._index.shard[order].reshape(5, 8)
        assert [len(set(window)) for window in windows] == [4] * 5
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert np.array_equal(orders[0], reader.load(url).train.order(0, 0))


def wait_until(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def test_the_next_window_is_downloaded_ahead(made, serve, cache, monkeypatch):
    monkeypatch.setattr(reader, "WINDOW", 4)
    train = reader.load(serve(made)).train
    order = train.order(0, 0)
    train.prefetch(order)
    assert not list(cache.rglob("*.tar"))
    train.read(order[0])
    ahead = {f"train-{s:06}.tar" for s in train._index.shard[order[8:16]]}
    wait_until(lambda: ahead <= {p.name for p in cache.rglob("*.tar")})
    assert len(list(cache.rglob("*.tar"))) == 5


def test_the_order_is_pure(made, serve, cache, monkeypatch):
    """The order of another epoch does not change what is downloaded ahead."""
    monkeypatch.setattr(reader, "WINDOW", 4)
    train = reader.load(serve(made)).train
    order = train.order(0, 0)
    train.prefetch(order)
    before = pickle.dumps(train)
    assert not np.array_equal(train.order(0, 1), order)
    assert np.array_equal(train.order(0, 0), order)
    assert pickle.dumps(train) == before
    started = []
    monkeypatch.setattr(train, "_download", started.append)
    for index in order:
        train.read(index)
    wait_until(lambda: len(started) == 4)
    windows = train._index.shard[order].reshape(5, 8)
    for files, window in zip(started, windows[1:], strict=True):
        assert {file.name for file in files} == {f"train-{s:06}.tar" for s in window}


def test_nothing_is_downloaded_ahead_without_prefetch(made, serve, cache, monkeypatch):
    monkeypatch.setattr(reader, "WINDOW", 4)
    train = reader.load(serve(made)).train
    monkeypatch.setattr(train, "_download", None)
    train.read(train.order(0, 0)[0])
    assert len(list(cache.rglob("*.tar"))) == 1


def test_a_cache_that_is_too_small_for_two_windows_is_not_filled_ahead(made, serve, monkeypatch):
    monkeypatch.setattr(reader, "WINDOW", 4)
    size = sum(path.stat().st_size for path in made.glob("train-*.tar")) / 20
    train = reader.load(serve(made)).train
    for windows, ahead in ((1.5, 0), (3, 4)):
        monkeypatch.setenv("RESNETS_SHARD_CACHE_GB", str(windows * 4 * size / 1e9))
        train.prefetch(train.order(0, 0))
        assert len(train._next_files) == ahead


def test_a_subset_is_downloaded_ahead_in_its_own_order(made, serve, monkeypatch):
    monkeypatch.setattr(reader, "WINDOW", 4)
    train = reader.load(serve(made)).train
    half = random_subset(train, 20)
    order = half.order(0, 0)
    half.prefetch(order)
    shards = [train._index.shard[half._indices[i]] for i in order]
    sequence = list(dict.fromkeys(int(shard) for shard in shards))
    assert train._windows == {shard: at // 4 for at, shard in enumerate(sequence)}
    assert [file.name for file in train._next_files[0]] == [
        f"train-{shard:06}.tar" for shard in sequence[4:8]
    ]


def test_class_folders_take_precedence_over_tar_files(tmp_path):
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


def test_the_split_of_shards_depends_on_the_seed(tmp_path):
    tar(tmp_path / "a.tar", samples(20))
    parts = [open_training(str(tmp_path), seed).val for seed in (0, 1, 0)]
    names = [{part.name(i) for i in range(len(part))} for part in parts]
    assert names[0] == names[2] != names[1]
