"""Every image counts once in its own row, however the work is grouped and shared."""

import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.data.datasets import open_test
from resnets.data.images import decode, upright_size
from resnets.evaluation import evaluator, protocols
from resnets.evaluation.evaluator import labels_for, pytorch_classifier, score_photos
from resnets.support.distributed import world
from resnets.support.errors import UserError
from resnets.weights import model_file
from tests.evaluation import photos

CPU = torch.device("cpu")


@pytest.fixture
def model(tmp_path):
    return model_file.load(str(photos.save_model(tmp_path / "model.safetensors")))


def run(model, folder, name, batch=8, **options):
    views = protocols.make(name, model.network, model.preprocessing)
    classifier = pytorch_classifier(model, CPU, views)
    return score_photos(classifier, open_test(str(folder)), views, batch=batch, **options)


def one_by_one(model, folder, name):
    """The same by the shortest code: each image alone."""
    samples = open_test(str(folder))
    views = protocols.make(name, model.network, model.preprocessing)
    score = pytorch_classifier(model, CPU, views).score
    rows = []
    for index in range(len(samples)):
        scales = [v[None] for v in views.apply(decode(samples.read(index), ""))]
        options = {"flips": views.flips, "budget": 10**9, "device": CPU}
        rows.append(protocols.average_views(score, scales, **options))
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("name", protocols.NAMES)
def test_groups_do_not_matter(model, cache, tmp_path, name):
    folder = photos.write(tmp_path / "photos", 13)
    expected = one_by_one(model, folder, name)
    assert np.ptp(expected, axis=0).max() > 0.01
    for batch in (1, 4, 100):
        counts = []
        model.network.train()  # which must not matter
        found = run(model, folder, name, batch, progress=counts.append)
        np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
        assert counts[-1] == 13
        assert counts == sorted(counts)
    assert model.network.training, "the mode is restored"
    assert found.names[0] == "ant/0.png"
    assert found.labels.tolist() == [0] * 3 + [1] * 2 + [2] * 2 + [3] * 2 + [4] * 2 + [5] * 2
    assert found.result().images == 13


def test_wrong_sizes_in_headers_do_not_change_results(model, cache, tmp_path, monkeypatch):
    """Sizes in headers only serve to group images; the sizes of the decoded images decide."""
    folder = photos.write(tmp_path / "photos", 7)
    expected = run(model, folder, "dense").probabilities
    monkeypatch.setattr(evaluator, "upright_size", lambda content, name: (40, 40))
    np.testing.assert_allclose(run(model, folder, "dense").probabilities, expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "turned"), [("jpeg", True), ("webp", True), ("png", False)])
def test_sizes_from_headers_are_upright(tmp_path, kind, turned):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = tmp_path / f"photo.{kind}"
    Image.new("RGB", (40, 30)).save(path, exif=exif.tobytes() if turned else b"")
    content = path.read_bytes()
    assert (
        upright_size(content, "") == decode(content, "").size == ((30, 40) if turned else (40, 30))
    )
    with pytest.raises(UserError, match="not an image"):
        upright_size(b"no image", "")


@pytest.mark.parametrize("name", ["center", "dense"])
@pytest.mark.parametrize("content", [b"", b"no image", b"truncated"])
def test_a_corrupt_image_is_an_error_that_names_it(model, cache, tmp_path, name, content):
    folder = photos.write(tmp_path / "photos", 9)
    bad = folder / "cat" / "2.png"
    bad.write_bytes(bad.read_bytes()[:900] if content == b"truncated" else content)
    with pytest.raises(UserError, match=r"photos: cat/2\.png"):
        run(model, folder, name, batch=2)


def test_a_narrow_image_is_named(model, cache, tmp_path):
    folder = photos.write(tmp_path / "photos", 3)
    Image.new("RGB", (2100, 100)).save(folder / "bee" / "1.png")
    with pytest.raises(UserError, match=r"bee/1\.png: the image is too narrow"):
        run(model, folder, "dense")


def test_scores_that_are_not_numbers_are_refused(model, cache, tmp_path):
    folder = photos.write(tmp_path / "photos", 3)
    model.network.fc.bias[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        run(model, folder, "center")


def test_a_limit_is_part_of_the_protocol(model, cache, tmp_path):
    folder = photos.write(tmp_path / "photos", 9)
    some, again = (run(model, folder, "center", limit=4) for _ in range(2))
    assert some.protocol.endswith("; 4 of 9 images at random")
    assert some.names == again.names
    assert len(some) == 4
    whole = run(model, folder, "center", limit=9)
    assert "random" not in whole.protocol
    rows = [whole.names.index(name) for name in some.names]
    np.testing.assert_allclose(some.probabilities, whole.probabilities[rows], atol=1e-6)


def by(folder):
    """Views for a folder: those that group images by their sizes for one of the folders."""
    return "dense" if folder.name == "photos7" else "center"


def in_a_world(rank, size, port, model_path, folders, out):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    torch.set_num_threads(1)
    model = model_file.load(str(model_path))
    with world() as ours:
        for folder in folders:
            found = run(model, folder, by(folder), batch=3, world=ours)
            assert (found is None) == (rank > 0)
            if found is not None:
                rows = {"rows": found.probabilities, "labels": found.labels}
                np.savez(out / f"{folder.name}.npz", names=np.array(found.names), **rows)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_work_exactly(cache, tmp_path, size):
    """Numbers of images that do not divide, and a process without any."""
    path = photos.save_model(tmp_path / "model.safetensors")
    folders = [photos.write(tmp_path / f"photos{count}", count) for count in (2, 4, 5, 7)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (size, port, path, folders, tmp_path)
    # Its first process imports torch, the others are copies of it.
    multiprocessing.set_forkserver_preload([__name__])
    torch.multiprocessing.start_processes(
        in_a_world, arguments, nprocs=size, start_method="forkserver"
    )
    model = model_file.load(str(path))
    for folder in folders:
        alone = run(model, folder, by(folder))
        with np.load(tmp_path / f"{folder.name}.npz") as shared:
            assert tuple(shared["names"]) == alone.names
            assert (shared["labels"] == alone.labels).all()
            np.testing.assert_allclose(shared["rows"], alone.probabilities, atol=1e-6)


def labels(tmp_path, folders, classes, ids=None):
    folder = photos.write(tmp_path / "photos", len(folders), folders)
    path = photos.save_model(tmp_path / "model.safetensors", classes, ids)
    model = model_file.load(str(path))
    return labels_for(open_test(str(folder)), model.classes, model.class_ids).tolist()


IDS = [f"n{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("folders", "classes", "ids", "expected"),
    [
        (("ant", "bee", "cat"), photos.CLASSES, None, [0, 1, 2]),
        (("bee", "fox"), photos.CLASSES, None, [1, 5]),
        (("ant", "bee"), photos.CLASSES[::-1], None, [5, 4]),
        (("n1", "n4"), photos.CLASSES, IDS, [1, 4]),
        (("bee", "fox"), photos.CLASSES, IDS, [1, 5]),
        (("n1", "n3"), ("crane", "crane", "cat", "dog", "eel", "fox"), IDS, [1, 3]),
        (("cafe\u0301", "bee"), ("bee", "caf\u00e9", "c", "d", "e", "f"), None, [0, 1]),
        (("0", "1", "2", "3", "4", "5"), photos.CLASSES, None, [0, 1, 2, 3, 4, 5]),
        (("0", "1"), ("1", "0", "2", "3", "4", "5"), None, [1, 0]),
    ],
)
def test_classes_are_found_by_name_or_identifier(cache, tmp_path, folders, classes, ids, expected):
    assert labels(tmp_path, folders, classes, ids) == expected


@pytest.mark.parametrize(
    ("folders", "classes", "message"),
    [
        (("ant", "yak"), photos.CLASSES, "class 'yak' is not among the model's 6 classes;"),
        (("Ant", "bee"), photos.CLASSES, r"class 'Ant' .*it looks like the model's 'ant': rename"),
        (("0", "1"), photos.CLASSES, r"class '0' .*list the images in a labels.tsv"),
        (("1", "2", "3", "4", "5", "6"), photos.CLASSES, r"class '1' .*a labels.tsv"),
        (("emu", "yak"), photos.CLASSES, r"class 'emu' .* \(nor is 1 other\); .*fine-tune"),
        (("crane", "fox"), ("crane", "crane", "fox"), "'crane' is the name of several"),
    ],
)
def test_classes_that_do_not_fit_are_an_error(cache, tmp_path, folders, classes, message):
    with pytest.raises(UserError, match=message):
        labels(tmp_path, folders, classes)


def test_listed_images_number_the_models_outputs(model, cache, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40)).save(folder / name)
    (folder / "labels.tsv").write_text("file\tclass_index\na.png\t5\nb.png\t0\n")
    assert run(model, folder, "center").labels.tolist() == [5, 0]
    (folder / "labels.tsv").write_text("file\tclass_index\na.png\t5\nb.png\t6\n")
    with pytest.raises(UserError, match=r"b\.png is of class number 6, but the model knows 6"):
        run(model, folder, "center")
