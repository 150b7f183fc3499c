"""Neighbours are the images with the smallest angle; a folder's features are computed once."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnets.data.images import read_image
from resnets.data.preprocessing import CentralCrop, to_tensor
from resnets.inference import neighbours
from resnets.inference.predictor import open_predictor
from resnets.support.errors import UserError
from resnets.weights import model_file
from tests.conftest import draw_photos
from tests.serve.conftest import save_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [save_model(folder / f"{seed}.safetensors", seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def predictor(files):
    return open_predictor(str(files[0]), "torch", "fp32")


@pytest.fixture
def folder(tmp_path, cache):
    draw_photos(tmp_path / "photos", {"ant": 3, "bee": 4, "cow": 2}, size=(50, 40))
    return tmp_path / "photos"


def touch(path, seconds=10):
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + seconds))


def test_the_nearest_are_those_of_the_smallest_angle(files, predictor, folder):
    model = model_file.load(str(files[0]))
    paths = sorted(folder.rglob("*.png"))
    rows = []
    for path in paths:
        pixels = to_tensor(CentralCrop(32, 36).crop(read_image(path)))[None]
        with torch.no_grad():
            maps = model.network.features(model.normalize(CPU)(pixels))["layer3"]
        rows.append(maps.mean((2, 3))[0].numpy())
    rows = np.stack(rows)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = neighbours.index_folder(predictor, folder)
    assert sorted(index.names) == [path.relative_to(folder).as_posix() for path in paths]
    images = [str(path) for path in paths]
    found = neighbours.nearest(predictor, index, images, count=4)
    assert list(found) == images
    for number, image in enumerate(images):
        cosines = rows @ rows[number]
        cosines[number] = -2
        best = np.argsort(-cosines)[:4]
        near = found[image].neighbours
        assert found[image].itself
        assert image not in [one.image for one in near]
        np.testing.assert_allclose([one.similarity for one in near], cosines[best], atol=1e-4)
        assert [one.label for one in near] == [Path(one.image).parent.name for one in near]


def test_a_copy_is_the_first_neighbour_of_its_original(predictor, folder, tmp_path):
    copy = tmp_path / "copy.png"
    shutil.copy(folder / "bee" / "2.png", copy)
    index = neighbours.index_folder(predictor, folder)
    found = neighbours.nearest(predictor, index, [str(copy)], count=99)[str(copy)]
    assert not found.itself
    assert found.neighbours[0].image == str(folder / "bee" / "2.png")
    assert found.neighbours[0].label == "bee"
    assert found.neighbours[0].similarity == pytest.approx(1, abs=1e-5)
    assert found.neighbours[1].similarity < 0.9999
    assert len(found.neighbours) == 9
    similarities = [one.similarity for one in found.neighbours]
    assert similarities == sorted(similarities, reverse=True)


def test_a_link_to_an_image_is_that_image(predictor, folder, tmp_path):
    link = tmp_path / "link.png"
    link.symlink_to(folder / "ant" / "0.png")
    index = neighbours.index_folder(predictor, folder)
    found = neighbours.nearest(predictor, index, [str(link)])[str(link)]
    assert found.itself
    assert str(folder / "ant" / "0.png") not in [one.image for one in found.neighbours]


def test_features_are_computed_once(predictor, folder):
    first = neighbours.index_folder(predictor, folder)
    again = neighbours.index_folder(predictor, folder)
    assert (first.computed, again.computed) == (9, 0)
    assert again.names == first.names
    torch.testing.assert_close(again.features, first.features, rtol=0, atol=0)
    Image.new("RGB", (40, 40), "white").save(folder / "ant" / "0.png")  # changed
    touch(folder / "bee" / "0.png")  # perhaps changed
    shutil.copy(folder / "cow" / "0.png", folder / "cow" / "new.png")
    (folder / "cow" / "1.png").unlink()
    third = neighbours.index_folder(predictor, folder)
    assert third.computed == 3
    assert "cow/1.png" not in third.names
    before, after = (dict(zip(i.names, i.features, strict=True)) for i in (first, third))
    assert not torch.equal(before["ant/0.png"], after["ant/0.png"])
    torch.testing.assert_close(after["cow/new.png"], before["cow/0.png"])
    torch.testing.assert_close(after["bee/1.png"], before["bee/1.png"], rtol=0, atol=0)


def test_without_room_for_the_cache_features_are_computed_again(predictor, folder, cache):
    (cache / "neighbours").write_bytes(b"")  # nothing can be written below it, not even by root
    assert [neighbours.index_folder(predictor, folder).computed for _ in range(2)] == [9, 9]


def test_each_network_has_features_of_its_own(predictor, files, folder):
    first = neighbours.index_folder(predictor, folder)
    other = neighbours.index_folder(open_predictor(str(files[1]), "torch", "fp32"), folder)
    assert other.computed == 9
    assert not torch.allclose(first.features, other.features)
    assert neighbours.index_folder(predictor, folder).computed == 0


def test_images_that_cannot_be_read_are_left_out_and_tried_again(predictor, folder, monkeypatch):
    bad = folder / "ant" / "bad.png"
    bad.write_bytes(b"no image")
    index = neighbours.index_folder(predictor, folder)
    assert index.unreadable["ant/bad.png"].startswith("not an image, but a text file")
    assert len(index.unreadable) == 1
    assert "ant/bad.png" not in index.names
    assert (index.computed, len(index.names), len(index.features)) == (9, 9, 9)
    again = neighbours.index_folder(predictor, folder)
    assert again.unreadable == index.unreadable
    assert again.computed == 0
    shutil.copy(folder / "ant" / "1.png", bad)  # repaired
    read = Path.read_bytes

    def refuse(path):
        if path == bad:
            raise OSError(5, "Input/output error")
        return read(path)

    with monkeypatch.context() as patch:  # the disk fails for once, and the file stays as it is
        patch.setattr(Path, "read_bytes", refuse)
        failed = neighbours.index_folder(predictor, folder)
        assert "input/output error" in failed.unreadable["ant/bad.png"]
    repaired = neighbours.index_folder(predictor, folder)
    assert (repaired.computed, repaired.unreadable) == (1, {})
    assert "ant/bad.png" in repaired.names


def test_a_query_that_cannot_be_read_is_left_out(predictor, folder, tmp_path):
    bad, good = tmp_path / "bad.png", str(folder / "ant" / "0.png")
    bad.write_bytes(b"no image")
    index = neighbours.index_folder(predictor, folder)
    assert list(neighbours.nearest(predictor, index, [str(bad), good])) == [good]


def test_features_computed_before_an_interruption_are_kept(predictor, folder):
    def stop_after_four(done, total):
        assert total == 9
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        neighbours.index_folder(predictor, folder, batch=2, progress=stop_after_four)
    assert neighbours.index_folder(predictor, folder).computed == 5


@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_a_damaged_cache_file_is_replaced(predictor, folder, cache, content):
    first = neighbours.index_folder(predictor, folder)
    (store,) = (cache / "neighbours").iterdir()
    store.write_bytes(store.read_bytes()[:-40] if content is None else content)
    again = neighbours.index_folder(predictor, folder)
    assert again.computed == 9
    torch.testing.assert_close(again.features, first.features)
    assert neighbours.index_folder(predictor, folder).computed == 0


def test_an_image_alone_has_no_neighbours(predictor, tmp_path, cache):
    draw_photos(tmp_path / "one", {"a": 1})
    image = str(tmp_path / "one" / "a" / "0.png")
    index = neighbours.index_folder(predictor, tmp_path / "one")
    found = neighbours.nearest(predictor, index, [image])[image]
    assert found.neighbours == []
    assert found.itself


def test_folders_without_images_are_refused(predictor, tmp_path, cache):
    with pytest.raises(UserError, match="no such folder"):
        neighbours.index_folder(predictor, tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="no readable images"):
        neighbours.index_folder(predictor, tmp_path / "empty")
