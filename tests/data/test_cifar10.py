"""CIFAR-10 from every source, verified, cached, split."""

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

from resnets.data import cifar10
from resnets.data.cifar10 import Cifar10
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
    monkeypatch.setattr(cifar10, "SHA256", sums)
    monkeypatch.setattr(cifar10, "IMAGES_PER_BATCH", SIZE)
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
        data = cifar10.load(path)
        assert np.array_equal(data.train.images, official["train-images"])
        assert np.array_equal(data.train.labels, official["train-labels"])
        assert np.array_equal(data.test.images, official["test-images"])
        assert np.array_equal(data.test.labels, official["test-labels"])


def test_no_file_can_make_the_reader_run_code(tmp_path, official):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    files = python_files(official)
    files["data_batch_3"] = pickle.dumps({b"data": Payload(), b"labels": []}, protocol=2)
    folder = write_folder(tmp_path / "data", files)
    with pytest.raises(UserError, match=r"data_batch_3 .*not allowed"):
        cifar10.load(folder)
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
        cifar10.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_archives_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        cifar10.load(tmp_path / "absent")
    (tmp_path / "broken.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="not a readable tar"):
        cifar10.load(tmp_path / "broken.tar.gz")


def remote(monkeypatch, *fetchers):
    found = {f"source {i}": fetch for i, fetch in enumerate(fetchers)}
    monkeypatch.setattr(cifar10, "REMOTE_SOURCES", found)


def failing():
    raise cifar10.SourceFailed("no answer")


def test_sources_are_tried_in_order_and_the_cache_serves_next_time(cache, official, monkeypatch):
    calls = []

    def working():
        calls.append("fetched")
        return official

    altered = {**official, "test-labels": official["test-labels"] ^ 1}
    remote(monkeypatch, failing, lambda: altered, working)
    lines = []
    data = cifar10.load(report=lines.append)
    assert np.array_equal(data.train.images, official["train-images"])
    assert isinstance(data.train.images, np.memmap)
    assert "source 0 failed: no answer" in " ".join(lines)
    assert "source 1 failed: test-labels do not match" in " ".join(lines)
    lines.clear()
    cifar10.load(report=lines.append)
    assert calls == ["fetched"]
    assert lines == []


def test_a_damaged_cache_is_noticed_and_replaced(cache, official, monkeypatch):
    remote(monkeypatch, lambda: official)
    cifar10.load()
    path = cache / "cifar10" / "train-images.npy"
    for damage in (path.read_bytes()[:-100], b"", path.read_bytes()[:-1] + b"\7"):
        path.write_bytes(damage)
        lines = []
        data = cifar10.load(report=lines.append)
        assert np.array_equal(data.train.images, official["train-images"])
        assert lines


def test_with_no_network_and_no_cache_every_source_is_named(cache, monkeypatch):
    remote(monkeypatch, failing, failing)
    with pytest.raises(UserError) as caught:
        cifar10.load()
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
            cifar10.load(tmp_path / "spoilt.tar.gz")


def test_a_truncated_label_list_is_named(tmp_path, official):
    files = png_files(official)
    files["train_lables.json"] = files["train_lables.json"][:-10]
    with pytest.raises(UserError, match=r"train_lables.json is truncated"):
        cifar10.load(write_folder(tmp_path / "data", files))


@given(seed=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_the_45k_5k_split_divides_the_training_images(seed):
    labels = np.arange(50_000)
    pixels = labels.astype(np.uint16).view(np.uint8).reshape(-1, 2)
    images = np.zeros((50_000, 3, 1, 1), np.uint8)
    images[:, :2, 0, 0] = pixels
    data = Cifar10(cifar10.ImageArrays(images, labels.astype(np.uint8)), synthetic(5, 0))
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
    data = cifar10.load()
    assert (len(data.train), len(data.test)) == (50_000, 10_000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.labels[:5].tolist() == [6, 9, 9, 4, 1]
