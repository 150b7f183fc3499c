"""Shards at a URL are downloaded once, checked, and kept within a limit."""

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from resnets.data import folders
from resnets.data.shards import reader, store, writer
from resnets.support.errors import UserError
from tests.data.shards.helpers import RecordingHandler, assert_same, cut, samples, tar


def test_shards_at_a_url_are_the_same(photos, made, serve):
    folder, read = folders.load(photos), reader.load(serve(made))
    assert_same(folder.train, read.train)
    assert_same(folder.val, read.val)
    asked = [name for name in RecordingHandler.requests if name.endswith(".tar")]
    assert len(asked) == len(set(asked)) >= 20
    assert_same(folder.train, reader.load(made.as_uri() + "/").train)


def test_other_urls_by_fsspec(photos, made):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in made.iterdir():
        memory.pipe(f"/set/{path.name}", path.read_bytes())
    assert_same(folders.load(photos).val, reader.load_test("memory://set"))
    with pytest.raises(UserError, match="not known"):
        reader.load("nonsense://host/set")


def test_only_shards_that_are_needed_are_downloaded(made, serve):
    train = reader.load(serve(made)).train
    train.read(0)
    assert sum(name.endswith(".tar") for name in RecordingHandler.requests) == 1


def test_many_threads_download_each_shard_once(photos, made, serve):
    train, folder = reader.load(serve(made)).train, folders.load(photos).train
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(train.read, [*range(len(train))] * 3))
    names = [folder.name(i) for i in range(len(folder))] * 3
    for i, (content, name) in enumerate(zip(contents, names, strict=True)):
        assert name.endswith("bmp") or content == folder.read(i % len(folder))
    asked = [name for name in RecordingHandler.requests if name.endswith(".tar")]
    assert len(asked) == 20


def read_all(url, results):
    train = reader.load(url).train
    results.put([train.read(i) for i in range(len(train))])


def test_two_processes_download_each_shard_once(made, serve):
    url = serve(made)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    readers = [context.Process(target=read_all, args=(url, results)) for _ in range(2)]
    for process in readers:
        process.start()
    one, other = results.get(timeout=60), results.get(timeout=60)
    for process in readers:
        process.join()
    assert one == other
    asked = [name for name in RecordingHandler.requests if name.endswith(".tar")]
    assert len(asked) == len(set(asked)) == 20


def test_the_cache_respects_its_limit(photos, made, serve, cache, monkeypatch):
    size = (made / "train-000000.tar").stat().st_size
    monkeypatch.setenv("RESNETS_SHARD_CACHE_GB", str(3.5 * size / 1e9))
    train, folder = reader.load(serve(made)).train, folders.load(photos).train
    for i in train.order(0, 0):
        assert train.name(i).endswith("bmp") or train.read(i) == folder.read(i)
        assert sum(p.stat().st_size for p in cache.rglob("*.tar")) <= 3.5 * size
    for text in ("-1", "much"):
        monkeypatch.setenv("RESNETS_SHARD_CACHE_GB", text)
        with pytest.raises(UserError, match="RESNETS_SHARD_CACHE_GB"):
            store.cache_limit()


def test_the_least_recently_used_shard_goes_first(made, serve, cache, monkeypatch):
    size = (made / "train-000000.tar").stat().st_size
    train = reader.load(serve(made)).train
    first = {int(s): int(np.flatnonzero(train._index.shard == s)[0]) for s in range(4)}
    now = time.time()
    for s in range(3):
        train.read(first[s])
        (path,) = cache.rglob(f"train-{s:06}.tar")
        os.utime(path, (now - (50, 99, 10)[s],) * 2)
    monkeypatch.setenv("RESNETS_SHARD_CACHE_GB", str(3 * size * 1.05 / 1e9))
    train.read(first[3])
    assert sorted(p.name for p in cache.rglob("*.tar")) == [
        f"train-{s:06}.tar" for s in (0, 2, 3)
    ]  # fmt: skip


def test_faults_at_a_url(made, serve):
    url = serve(made)
    with pytest.raises(UserError, match=r"absent/shards.json: the server answered 404 .*; check"):
        reader.load(f"{url}/absent")
    with pytest.raises(UserError, match=r"cannot be reached .*; check the URL"):
        reader.load("http://127.0.0.1:9/set")
    train = reader.load(url).train
    path = made / "train-000000.tar"
    whole = path.read_bytes()
    index = int(np.flatnonzero(train._index.shard == 0)[0])
    cut(path)
    with pytest.raises(UserError, match=r"train-000000.tar: the shard is truncated"):
        train.read(index)
    path.write_bytes(whole[:600] + b"?" + whole[601:])
    with pytest.raises(UserError, match=r"train-000000.tar: the shard is damaged: its SHA-256"):
        train.read(index)
    path.write_bytes(whole)
    assert train.read(index)


def test_a_failed_download_is_tried_again(made, serve, monkeypatch):
    monkeypatch.setattr(store, "_RETRY_PAUSES", (0.0, 0.0))
    train = reader.load(serve(made)).train
    real, failures = store._open, [1, 2]

    def flaky(url):
        if failures:
            failures.pop()
            raise ConnectionResetError("reset")
        return real(url)

    monkeypatch.setattr(store, "_open", flaky)
    assert train.read(0)
    assert not failures


def test_changed_shards_at_the_same_url_are_downloaded_again(photos, made, serve, tmp_path):
    url = serve(tmp_path)
    before = reader.load(f"{url}/out").train.read(0)
    made.rename(tmp_path / "old")
    writer.write(folders.load(photos), made, resize=16)
    assert reader.load(f"{url}/out").train.read(0) != before


def test_shards_of_others_that_changed_at_the_server(tmp_path, serve, cache):
    tar(tmp_path / "set/a.tar", samples(4))
    read = reader.load_test(f"{serve(tmp_path / 'set')}/a.tar")
    (kept,) = cache.rglob("*a.tar")
    kept.unlink()
    tar(tmp_path / "set/a.tar", samples(40))
    with pytest.raises(UserError, match=f"if the shards changed, delete {cache}/shards"):
        read.read(0)
