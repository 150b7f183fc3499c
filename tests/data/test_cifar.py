"""CIFAR-10 and CIFAR-100 from every source, verified, cached, split."""

import hashlib
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnets.data import cifar, cifar_files
from resnets.data.cifar import Cifar
from resnets.data.cifar_classes import CLASSES, NAMES, SUPERCLASS, with_classes
from resnets.support.errors import UserError
from resnets.support.files import cache_folder
from tests.conftest import synthetic

SIZE = 20  # images in a batch file here, instead of 10,000


@pytest.fixture
def official(monkeypatch):
    """Small arrays that count as the official ones in this test."""
    train, test = synthetic(5 * SIZE, 3), synthetic(SIZE, 4)
    arrays = {
        "train-images": train.images,
        "train-labels": train.labels,
        "test-images": test.images,
        "test-labels": test.labels,
    }
    sums = {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in arrays.items()}
    monkeypatch.setattr(cifar, "SHA256", sums)
    monkeypatch.setattr(cifar_files, "IMAGES_PER_BATCH", SIZE)
    return arrays


def parts(arrays):
    """(bare file name, images, labels) of the six batch files."""
    for i in range(5):
        piece = slice(i * SIZE, (i + 1) * SIZE)
        yield f"data_batch_{i + 1}", arrays["train-images"][piece], arrays["train-labels"][piece]
    yield "test_batch", arrays["test-images"], arrays["test-labels"]


def binary_files(arrays):
    return {
        f"{name}.bin": np.concatenate([labels[:, None], images.reshape(SIZE, -1)], 1).tobytes()
        for name, images, labels in parts(arrays)
    }


def python_files(arrays):
    return {
        name: pickle.dumps(
            {b"data": images.reshape(SIZE, -1).copy(), b"labels": labels.tolist()}, protocol=2
        )
        for name, images, labels in parts(arrays)
    }


def png_files(arrays):
    files = {
        "train_lables.json": json.dumps(arrays["train-labels"].tolist()).encode(),
        "test_lables.json": json.dumps(arrays["test-labels"].tolist()).encode(),
    }
    for name, images, _ in parts(arrays):
        buffer = io.BytesIO()
        Image.fromarray(images.transpose(0, 2, 3, 1).reshape(SIZE, 1024, 3)).save(buffer, "PNG")
        files[f"{name}.png"] = buffer.getvalue()
    return files


def write_folder(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path, files, inside):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("files", [binary_files, python_files, png_files])
def test_folders_and_archives_of_every_kind_give_the_same_arrays(tmp_path, official, files):
    made = files(official)
    folder = write_folder(tmp_path / "outer" / "cifar-10-batches", made)
    archive = write_tar(tmp_path / "outer" / "cifar-10-any.tar.gz", made, "cifar-10-batches")
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / archive.name).write_bytes(archive.read_bytes())
    for path in (folder, folder.parent, archive, lone):
        data = cifar.load("cifar10", path)
        assert np.array_equal(data.train.images, official["train-images"])
        assert np.array_equal(data.train.labels, official["train-labels"])
        assert np.array_equal(data.test.images, official["test-images"])
        assert np.array_equal(data.test.labels, official["test-labels"])


@pytest.mark.parametrize("files", [binary_files, python_files, png_files])
def test_a_test_needs_no_training_images(tmp_path, official, files):
    test_only = {name: content for name, content in files(official).items() if "test" in name}
    folder = write_folder(tmp_path / "files", test_only)
    assert (cifar.load_test("cifar10", folder).images == official["test-images"]).all()
    with pytest.raises(UserError, match=r"no CIFAR-10 batches \(no data_batch_1.bin"):
        cifar.load("cifar10", folder)
    (folder / next(iter(name for name in test_only if "json" not in name))).unlink()
    with pytest.raises(UserError, match=r"no CIFAR-10 batches \(no test_batch.bin or test_batch"):
        cifar.load_test("cifar10", folder)


def test_no_file_can_make_the_reader_run_code(tmp_path, official):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    files = python_files(official)
    files["data_batch_3"] = pickle.dumps({b"data": Payload(), b"labels": []}, protocol=2)
    folder = write_folder(tmp_path / "data", files)
    with pytest.raises(UserError, match=r"data_batch_3 .*not allowed"):
        cifar.load("cifar10", folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda files: files.clear(), "no CIFAR-10 batches"),
        (lambda files: files.pop("data_batch_4.bin"), "data_batch_4.bin is missing"),
        (
            lambda files: files.update({"test_batch.bin": files["test_batch.bin"][:-5]}),
            "test_batch.bin is truncated",
        ),
        (
            lambda files: files.update({"test_batch.bin": b"\1" + files["test_batch.bin"][1:]}),
            "do not match the official SHA-256",
        ),
    ],
)
def test_a_damaged_folder_is_refused_with_one_line(tmp_path, official, spoil, message):
    files = binary_files(official)
    files["test_batch.bin"] = b"\0" + files["test_batch.bin"][1:]
    official["test-labels"][0] = 0
    spoil(files)
    folder = write_folder(tmp_path / "data", files)
    with pytest.raises(UserError, match=message) as caught:
        cifar.load("cifar10", folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_archives_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        cifar.load("cifar10", tmp_path / "absent")
    (tmp_path / "broken.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="not a readable tar"):
        cifar.load("cifar10", tmp_path / "broken.tar.gz")


def remote(monkeypatch, *fetchers):
    found = {f"source {i}": fetch for i, fetch in enumerate(fetchers)}
    monkeypatch.setattr(cifar, "REMOTE_SOURCES", {"cifar10": found, "cifar100": found})


def failing():
    raise cifar.SourceFailed("no answer")


def test_sources_are_tried_in_order_and_the_cache_serves_next_time(cache, official, monkeypatch):
    calls = []

    def working():
        calls.append("fetched")
        return official

    altered = {**official, "test-labels": official["test-labels"] ^ 1}
    remote(monkeypatch, failing, lambda: altered, working)
    lines = []
    data = cifar.load("cifar10", report=lines.append)
    assert np.array_equal(data.train.images, official["train-images"])
    assert isinstance(data.train.images, np.memmap)
    assert "source 0 failed: no answer" in " ".join(lines)
    assert "source 1 failed: test-labels do not match" in " ".join(lines)
    lines.clear()
    cifar.load("cifar10", report=lines.append)
    assert calls == ["fetched"]
    assert lines == []


def test_a_damaged_cache_is_noticed_and_replaced(cache, official, monkeypatch):
    remote(monkeypatch, lambda: official)
    cifar.load("cifar10")
    path = cache / "cifar10" / "train-images.npy"
    for damage in (path.read_bytes()[:-100], b"", path.read_bytes()[:-1] + b"\7"):
        path.write_bytes(damage)
        lines = []
        data = cifar.load("cifar10", report=lines.append)
        assert np.array_equal(data.train.images, official["train-images"])
        assert lines


def test_with_no_network_and_no_cache_every_source_is_named(cache, monkeypatch):
    remote(monkeypatch, failing, failing)
    with pytest.raises(UserError) as caught:
        cifar.load("cifar10")
    for word in ("cache: nothing there", "source 0: no answer", "source 1: no answer", "--data"):
        assert word in str(caught.value)
    assert not (cache / "cifar10").exists()


@pytest.mark.parametrize("files", [binary_files, png_files])
def test_damaged_archives_fail_as_sources(tmp_path, official, files):
    content = bytearray(write_tar(tmp_path / "a.tar.gz", files(official), "x").read_bytes())
    for place in (len(content) // 3, len(content) // 2):
        spoilt = content.copy()
        spoilt[place : place + 8] = bytes(b ^ 0xFF for b in spoilt[place : place + 8])
        (tmp_path / "spoilt.tar.gz").write_bytes(spoilt)
        with pytest.raises(UserError):
            cifar.load("cifar10", tmp_path / "spoilt.tar.gz")


def test_a_truncated_label_list_is_named(tmp_path, official):
    files = png_files(official)
    files["train_lables.json"] = files["train_lables.json"][:-10]
    with pytest.raises(UserError, match=r"train_lables.json is truncated"):
        cifar.load("cifar10", write_folder(tmp_path / "data", files))


@given(seed=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_the_45k_5k_split_divides_the_training_images(seed):
    labels = np.arange(50_000)
    pixels = labels.astype(np.uint16).view(np.uint8).reshape(-1, 2)
    images = np.zeros((50_000, 3, 1, 1), np.uint8)
    images[:, :2, 0, 0] = pixels
    data = Cifar(cifar.ImageArrays(images, labels.astype(np.uint8)), synthetic(5, 0))
    kept, held_out = data.split("45k/5k", seed)
    assert (len(kept), len(held_out)) == (45_000, 5_000)

    def numbers(part):
        return np.ascontiguousarray(part.images[:, :2, 0, 0]).view(np.uint16).ravel().tolist()

    assert sorted(numbers(kept) + numbers(held_out)) == labels.tolist()
    again = data.split("45k/5k", seed)[1]
    assert numbers(again) == numbers(held_out)


def test_the_mean_image_is_per_pixel():
    data = synthetic(7000, 5)
    expected = (data.images / 255).mean(0)
    np.testing.assert_allclose(data.pixel_mean(), expected, atol=1e-6)


def test_the_real_data_where_it_is_cached():
    if not cache_folder("cifar10").exists():
        pytest.skip("CIFAR-10 is not cached here; `resnets eval cifar-resnet20` fetches it")
    data = cifar.load("cifar10")
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.labels[:5].tolist() == [6, 9, 9, 4, 1]


@pytest.fixture
def hundred(monkeypatch):
    """The files of a small CIFAR-100 in both versions, which count as the official ones."""
    monkeypatch.setattr(cifar_files, "IMAGES_PER_BATCH", SIZE)
    random = np.random.default_rng(6)
    binary, python = {}, {}
    for part, count in (("train", 5 * SIZE), ("test", SIZE)):
        images = random.integers(0, 256, (count, 3 * 32 * 32), np.uint8)
        fine = (np.arange(count) * 7 % 100).astype(np.uint8)
        coarse = np.take(np.array(SUPERCLASS, np.uint8), fine)
        binary[f"{part}.bin"] = np.column_stack([coarse, fine, images]).tobytes()
        facts = {b"data": images, b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
        python[part] = pickle.dumps({**facts, b"filenames": [b"x.png"] * count}, protocol=2)
    sums = {n: hashlib.md5(c).hexdigest() for n, c in (binary | python).items()}
    monkeypatch.setattr(cifar_files, "MD5_100", sums)
    return {"binary": binary, "python": python}


def test_cifar_100_from_both_versions_with_both_kinds_of_labels(tmp_path, hundred, monkeypatch):
    found = []
    for version, files in hundred.items():
        folder = write_folder(tmp_path / version / f"cifar-100-{version}", files)
        archive = write_tar(tmp_path / f"{version}.tar.gz", files, f"cifar-100-{version}")
        lone = write_folder(
            tmp_path / f"lone-{version}", {f"cifar-100-{version}.tar.gz": archive.read_bytes()}
        )
        found += [cifar.load("cifar100", p) for p in (folder, folder.parent, archive, lone)]
    for data in found:
        assert np.array_equal(data.train.images, found[0].train.images)
        assert data.train.labels.tolist() == [i * 7 % 100 for i in range(5 * SIZE)]
        assert data.test.images.shape == (SIZE, 3, 32, 32)
        assert data.test.classes == CLASSES["cifar100"]
    coarse = cifar.load("cifar100-coarse", folder)
    assert coarse.test.classes == CLASSES["cifar100-coarse"]
    assert coarse.test.labels.tolist() == [SUPERCLASS[i * 7 % 100] for i in range(SIZE)]
    row = np.frombuffer(hundred["binary"]["test.bin"], np.uint8).reshape(SIZE, -1)[3]
    assert found[0].test.images[3].ravel().tolist() == row[2:].tolist()


def test_an_archive_with_the_published_checksum_needs_no_other(tmp_path, hundred, monkeypatch):
    archive = write_tar(tmp_path / "cifar-100-binary.tar.gz", hundred["binary"], "x")
    monkeypatch.setattr(cifar_files, "MD5_100", dict.fromkeys(cifar_files.MD5_100, "other"))
    with pytest.raises(UserError, match=r"train\.bin does not match the official MD5"):
        cifar.load("cifar100", archive)
    known = (hashlib.md5(archive.read_bytes()).hexdigest(),)
    monkeypatch.setattr(cifar_files, "ARCHIVE_MD5_100", known)
    assert len(cifar.load("cifar100", archive).train) == 5 * SIZE


@pytest.mark.parametrize("version", ["binary", "python"])
def test_damaged_files_of_cifar_100_are_refused_with_one_line(
    tmp_path, hundred, version, monkeypatch
):
    files = hundred[version]
    train, test = files
    spoilt = bytearray(files[train])
    spoilt[5000] ^= 1
    for number, (changed, message) in enumerate((
        ({train: bytes(spoilt)}, f"{train} does not match the official MD5"),
        ({test: files[test][:-1]}, f"{test} does not match the official MD5"),
        ({test: None}, f"{test} is missing"),
    )):  # fmt: skip
        kept = {n: c for n, c in {**files, **changed}.items() if c is not None}
        folder = write_folder(tmp_path / str(number), kept)
        with pytest.raises(UserError, match=message) as caught:
            cifar.load("cifar100", folder)
        assert "give the official CIFAR-100 folder or tar.gz" in caught.value.hint
    wrong = np.frombuffer(hundred["binary"]["test.bin"], np.uint8).reshape(SIZE, -1).copy()
    wrong[0, 0] += 1
    content = wrong.tobytes()
    monkeypatch.setitem(cifar_files.MD5_100, "test.bin", hashlib.md5(content).hexdigest())
    folder = write_folder(tmp_path / "labels", {**hundred["binary"], "test.bin": content})
    with pytest.raises(UserError, match="other superclasses"):
        cifar.load("cifar100", folder)


def test_the_other_data_set_is_named(tmp_path, official, hundred):
    ten = write_folder(tmp_path / "ten", binary_files(official))
    more = write_folder(tmp_path / "more", hundred["python"])
    with pytest.raises(UserError, match="holds CIFAR-100, not CIFAR-10"):
        cifar.load("cifar10", more)
    with pytest.raises(UserError, match="holds CIFAR-10, not CIFAR-100"):
        cifar.load("cifar100-coarse", ten)


def test_cifar_100_is_cached_and_its_cache_verified(tmp_path, cache, hundred, monkeypatch):
    folder = write_folder(tmp_path / "python", hundred["python"])
    calls = []

    def working():
        calls.append("fetched")
        return cifar_files.read(folder, "cifar100")

    remote(monkeypatch, failing, working)
    expected = cifar.load("cifar100", folder)
    lines = []
    for name in ("cifar100", "cifar100-coarse"):
        data = cifar.load(name, report=lines.append)
        assert np.array_equal(data.train.images, expected.train.images)
    assert calls == ["fetched"]
    assert "CIFAR-100 from source 0 failed: no answer" in lines
    for damaged in ("test-images.npy", "sha256.json"):
        path = cache / "cifar100" / damaged
        path.write_bytes(path.read_bytes()[:-2] + b"77")
        data = cifar.load("cifar100", report=lines.append)
        assert np.array_equal(data.test.images, expected.test.images)
    assert calls == ["fetched"] * 3


def test_the_classes_of_each_data_set():
    assert [len(CLASSES[name]) for name in NAMES] == [10, 100, 20]
    assert all(list(CLASSES[name]) == sorted(set(CLASSES[name])) for name in NAMES)
    assert np.bincount(SUPERCLASS).tolist() == [5] * 20

    def of(superclass):
        number = CLASSES["cifar100-coarse"].index(superclass)
        return [c for c, s in zip(CLASSES["cifar100"], SUPERCLASS, strict=True) if s == number]

    assert of("trees") == ["maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"]
    assert of("people") == ["baby", "boy", "girl", "man", "woman"]
    assert with_classes(CLASSES["cifar100"][:2]) == "cifar100"
    assert with_classes(CLASSES["cifar10"]) == "cifar10"
    assert with_classes(["cat", "dog"]) is None
