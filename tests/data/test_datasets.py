"""Data sets are opened by their locations."""

import pytest

from resnets.data import cifar, datasets
from resnets.data.samples import PhotoSet
from resnets.support.errors import UserError
from tests.conftest import draw_photos


def test_photographs_are_opened_with_their_split_seed(tmp_path, cache):
    draw_photos(tmp_path / "photos", {"ant": 9, "bee": 8})
    sets = [
        datasets.open_data("photos", str(tmp_path / "photos"), split_seed=seed) for seed in (0, 1)
    ]
    assert all(isinstance(data, PhotoSet) for data in sets)
    names = [{data.val.name(i) for i in range(len(data.val))} for data in sets]
    assert names[0] != names[1]


def test_photographs_need_a_location():
    with pytest.raises(UserError, match="this recipe needs images; give a folder of images"):
        datasets.open_data("photos", None)


def test_cifar_is_opened_from_its_files_or_downloaded(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(cifar, "load", lambda *arguments: calls.append(arguments))
    datasets.open_data("cifar10", None, report=print)
    datasets.open_data("cifar10", str(tmp_path), report=print)
    datasets.open_data("cifar100-coarse", None, report=print)
    assert calls == [
        ("cifar10", None, print), ("cifar10", tmp_path, print), ("cifar100-coarse", None, print)
    ]  # fmt: skip


def test_a_location_that_does_not_exist_is_named_with_a_hint():
    with pytest.raises(UserError, match=r"cifr10: no such folder; did you mean cifar10"):
        datasets.open_test("cifr10")


def test_images_with_boxes_are_opened_and_a_category_without_test_images_is_said(tmp_path):
    for split, categories in (("train", (0, 1)), ("val", (0,))):
        images, labels = tmp_path / "images" / split, tmp_path / "labels" / split
        labels.mkdir(parents=True)
        draw_photos(images.parent, {split: len(categories)})
        for category in categories:
            (labels / f"{category}.txt").write_text(f"{category} 0.5 0.5 0.4 0.4\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [ant, bee]\n")
    lines = []
    found = datasets.open_data("boxes", str(tmp_path), report=lines.append)
    assert [len(found.train), len(found.test)] == [2, 1]
    assert found.train.categories == found.test.categories == ("ant", "bee")
    assert lines == ["no test image has an object of: bee"]
    with pytest.raises(UserError, match="no such folder"):
        datasets.open_data("boxes", str(tmp_path / "nothing"))
