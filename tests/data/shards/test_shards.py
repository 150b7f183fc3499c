"""Shards hold what the folder holds, are read from disk and address, and faults are named."""

import functools
import http.server
import io
import json
import multiprocessing
import os
import pickle
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from resnets.data import folders
from resnets.data.samples import fingerprint, random_subset
from resnets.data.shards import index as shard_index
from resnets.data.shards import reader, store, writer
from resnets.data.shards.index import expand_braces
from resnets.support.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setattr(store, "_RETRY_PAUSES", ())
    return cache


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Three classes, 40 images to train and 10 to test on, JPEG, PNG, WebP and BMP."""
    root = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("val", 10)):
        for i in range(count):
            folder = root / split / ("ant", "bée", "cat dog")[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            noise = random.integers(0, 256, (24 + i % 3, 30, 3), dtype=np.uint8)
            ending = ("jpg", "JPEG", "png", "webp", "bmp")[i % 5]
            Image.fromarray(noise).save(folder / f"{i}.{ending}")
    return root


@pytest.fixture
def made(photos, tmp_path):
    out = tmp_path / "out"
    writer.write(folders.load(photos), out, images_per_shard=2)
    return out


class Quiet(http.server.SimpleHTTPRequestHandler):
    requests = None

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.requests.append(self.path.rpartition("/")[2])
        if "broken-off" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "10240")
            self.end_headers()
            self.wfile.write(bytes(1024))
        else:
            super().do_GET()


@pytest.fixture
def serve():
    """Serves a folder; returns its address."""
    servers = []
    Quiet.requests = []

    def start(folder):
        handler = functools.partial(Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_same(one, other, same_bytes=True):
    assert one.classes == other.classes
    assert fingerprint(one) == fingerprint(other)
    for i in range(len(one)):
        if same_bytes and not one.name(i).endswith("bmp"):
            assert one.read(i) == other.read(i)


def test_shards_hold_the_images_of_the_folder(photos, made):
    folder, read = folders.load(photos), reader.load(made)
    assert_same(folder.train, read.train)
    assert_same(folder.val, read.val)
    assert_same(folders.load_test(photos), reader.load_test(made))
    assert len(list(made.glob("train-*.tar"))) == 20
    assert reader.are_shards(made)
    assert not reader.are_shards(photos)


def test_the_order_of_showing_is_the_folders(photos, made):
    folder, read = folders.load(photos).train, reader.load(made).train
    for seed, epoch in ((0, 0), (0, 1), (7, 3)):
        assert np.array_equal(folder.order(seed, epoch), read.order(seed, epoch))


def test_other_formats_become_png_with_the_same_pixels(photos, made):
    folder, read = folders.load(photos).train, reader.load(made).train
    (index, *_) = [i for i in range(len(read)) if read.name(i).endswith("bmp")]
    image = Image.open(io.BytesIO(read.read(index)))
    assert image.format == "PNG"
    expected = Image.open(io.BytesIO(folder.read(index)))
    assert np.array_equal(np.asarray(image), np.asarray(expected))


def test_a_single_folder_keeps_its_parting(photos, tmp_path):
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


def test_a_writing_that_was_interrupted_goes_on(photos, tmp_path, monkeypatch, made):
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


def test_an_interrupted_writing_of_another_set_is_begun_anew(photos, tmp_path, monkeypatch, made):
    images, out = folders.load(photos), tmp_path / "again"
    monkeypatch.setattr(shard_index, "write_bytes", refusing_index(shard_index.write_bytes))
    with pytest.raises(UserError, match="full"):
        writer.write(images, out, images_per_shard=1)
    monkeypatch.undo()
    writer.write(images, out, images_per_shard=2)
    there = {p.name: p.read_bytes() for p in out.iterdir()}
    assert there == {p.name: p.read_bytes() for p in made.iterdir()}


def refusing_index(real):
    def write(path, content):
        if path.suffix == ".npz":
            raise UserError("the disk is full", str(path))
        real(path, content)

    return write


def test_a_finished_set_is_not_overwritten(photos, made):
    before = (made / "shards.json").read_bytes()
    with pytest.raises(UserError, match="other images or settings"):
        writer.write(folders.load(photos), made, resize=16, images_per_shard=2)
    assert (made / "shards.json").read_bytes() == before


def test_a_broken_image_is_named_and_nothing_half_written(tmp_path, photos):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (20, 20)).save(tmp_path / "d" / name / f"{i}.jpg")
    (tmp_path / "d/b/2.jpg").write_bytes((tmp_path / "d/b/1.jpg").read_bytes()[:300])
    with pytest.raises(UserError, match=r"b/2\.jpg: the image cannot be read.*resnets doctor"):
        writer.write(folders.load(tmp_path / "d"), tmp_path / "out", threads=2)
    assert not list((tmp_path / "out").glob("*.json"))
    assert not list((tmp_path / "out").glob(".*.tar.*"))


# --- faults ---


def cut(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


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


# --- addresses ---


def test_shards_at_an_address_are_the_same(photos, made, serve):
    folder, read = folders.load(photos), reader.load(serve(made))
    assert_same(folder.train, read.train)
    assert_same(folder.val, read.val)
    asked = [name for name in Quiet.requests if name.endswith(".tar")]
    assert len(asked) == len(set(asked)) >= 20
    assert_same(folder.train, reader.load(made.as_uri() + "/").train)


def test_other_addresses_by_fsspec(photos, made):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in made.iterdir():
        memory.pipe(f"/set/{path.name}", path.read_bytes())
    assert_same(folders.load(photos).val, reader.load_test("memory://set"))
    with pytest.raises(UserError, match="not known"):
        reader.load("nonsense://host/set")


def test_only_shards_that_are_needed_are_fetched(made, serve):
    train = reader.load(serve(made)).train
    train.read(0)
    assert sum(name.endswith(".tar") for name in Quiet.requests) == 1


def test_many_readers_fetch_each_shard_once(photos, made, serve):
    train, folder = reader.load(serve(made)).train, folders.load(photos).train
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(train.read, [*range(len(train))] * 3))
    names = [folder.name(i) for i in range(len(folder))] * 3
    for i, (content, name) in enumerate(zip(contents, names, strict=True)):
        assert name.endswith("bmp") or content == folder.read(i % len(folder))
    asked = [name for name in Quiet.requests if name.endswith(".tar")]
    assert len(asked) == 20


def read_all(url, results):
    train = reader.load(url).train
    results.put([train.read(i) for i in range(len(train))])


def test_two_processes_fetch_each_shard_once(made, serve):
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
    asked = [name for name in Quiet.requests if name.endswith(".tar")]
    assert len(asked) == len(set(asked)) == 20


def test_a_reader_can_be_sent_to_another_process(made, serve):
    train = reader.load(serve(made)).train
    train.order(0, 0)
    again = pickle.loads(pickle.dumps(train))
    assert again.read(3) == train.read(3)
    assert fingerprint(again) == fingerprint(train)


def test_the_cache_keeps_its_bound(photos, made, serve, cache, monkeypatch):
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


def test_an_address_shows_every_image_once_in_windows(made, serve, monkeypatch):
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
    """To ask for the order of another epoch does not change what is downloaded ahead."""
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


def test_faults_at_an_address(made, serve):
    url = serve(made)
    with pytest.raises(UserError, match=r"absent/shards.json: cannot be downloaded \(404"):
        reader.load(f"{url}/absent")
    with pytest.raises(UserError, match="cannot be downloaded"):
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


def test_a_short_failure_is_tried_again(made, serve, monkeypatch):
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


def test_a_changed_set_at_the_same_address_is_fetched_anew(photos, made, serve, tmp_path):
    url = serve(tmp_path)
    before = reader.load(f"{url}/out").train.read(0)
    made.rename(tmp_path / "old")
    writer.write(folders.load(photos), made, resize=16)
    assert reader.load(f"{url}/out").train.read(0) != before


# --- shards of others ---


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


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
        assert len(Quiet.requests) == 4


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


def test_shards_of_others_without_a_split_are_parted(tmp_path):
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


def test_braces_are_expanded():
    assert expand_braces("a-{008..011}.tar") == [f"a-{n}.tar" for n in ("008", "009", "010", "011")]
    assert expand_braces("{x,y}-{0..1}") == ["x-0", "x-1", "y-0", "y-1"]
