"""Operations on sets of labelled images, and names in one buffer."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnets.data import samples
from resnets.data.folders import ImageFolder
from resnets.data.samples import PackedNames
from resnets.support.errors import UserError


def made(counts, classes=("ant", "bee", "cow")):
    """A data set of so many images for each class, without files."""
    labels = np.repeat(np.arange(len(counts)), counts)
    names = [f"{classes[label]}/{i}.jpg" for i, label in enumerate(labels)]
    return ImageFolder(Path("images"), names, labels, classes)


@given(names=st.lists(st.text(), max_size=20), data=st.data())
def test_packed_names_are_the_names(names, data):
    packed = PackedNames.pack(names)
    assert [packed[i] for i in range(len(packed))] == names
    mask = data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    selected = packed.select(np.array(mask, bool))
    expected = [name for name, keep in zip(names, mask, strict=True) if keep]
    assert [selected[i] for i in range(len(selected))] == expected


def test_names_that_are_not_utf8_survive_packing():
    assert PackedNames.pack(["\udcff", "b"])[0] == "\udcff"


def test_a_subset_keeps_the_order_of_the_whole():
    whole = made([5, 5, 5])
    half = samples.random_subset(whole, 7)
    names = [half.name(i) for i in half.order(1, 4)]
    assert len(names) == 7
    everything = [whole.name(i) for i in whole.order(1, 4)]
    assert names == [name for name in everything if name in set(names)]
    assert samples.random_subset(whole, None) is samples.random_subset(whole, 15) is whole


def test_random_indices_are_ascending_and_always_the_same():
    drawn = samples.random_indices(100, 10)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert np.array_equal(drawn, samples.random_indices(100, 10))
    assert np.array_equal(samples.random_indices(5, None), np.arange(5))


def test_random_choices_are_those_of_version_0_1():
    """A training that is resumed, and the results in `results/`, depend on them."""
    assert samples.epoch_permutation(8, 7, 3).tolist() == [6, 3, 0, 5, 7, 4, 2, 1]
    assert samples.random_indices(30, 6).tolist() == [2, 8, 10, 17, 20, 25]
    val = samples.split_train_val(made([10, 10]), seed=7).val
    assert [val.name(i) for i in range(4)] == ["ant/1.jpg", "ant/5.jpg", "bee/16.jpg", "bee/19.jpg"]


def test_selected_classes_are_numbered_in_the_given_order():
    chosen = samples.select_classes(made([2, 3, 4]), ["cow", "ant"])
    assert chosen.classes == ("cow", "ant")
    assert chosen.labels.tolist() == [1, 1, 0, 0, 0, 0]
    assert {chosen.name(i)[:3] for i in range(len(chosen))} == {"ant", "cow"}
    with pytest.raises(UserError, match=r"images: has no class 'dog'; its classes: ant, bee, cow"):
        samples.select_classes(made([2, 3, 4]), ["dog"])


def test_a_split_sets_a_fraction_of_each_class_aside():
    split = samples.split_train_val(made([15, 2, 1]), seed=0)
    assert np.bincount(split.val.labels, minlength=3).tolist() == [3, 1, 0]
    assert np.bincount(split.train.labels, minlength=3).tolist() == [12, 1, 1]
    with pytest.raises(UserError, match="no class has two images"):
        samples.split_train_val(made([1, 1, 1]), seed=0)


def test_the_fingerprint_is_a_hash_of_classes_labels_and_names():
    """Run folders and shards record it, so it must not change."""
    content = b"ant\nbee" + np.array([0, 1], np.int64).tobytes() + b"ant/0.jpg\nbee/1.jpg\n"
    expected = hashlib.sha256(content).hexdigest()[:16]
    assert samples.fingerprint(made([1, 1], ("ant", "bee"))) == expected == "6a5fc3cb6f2799a2"
