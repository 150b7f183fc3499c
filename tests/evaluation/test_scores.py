"""Score files are read as they were written, combine exactly, and refuse what does not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from resnets.evaluation import scores
from resnets.evaluation.scores import Scores, combine
from resnets.support.errors import UserError


def make(count=9, classes=7, seed=0, model="one"):
    random = np.random.default_rng(seed)
    chances = random.dirichlet(np.ones(classes), count).astype(np.float32)
    labels = np.arange(count) % classes
    names = tuple(f"class/{n}-\N{SNOWMAN}\udc80.png" for n in range(count))
    contents = 1000 + np.arange(count, dtype=np.uint64)
    known = tuple("abcdefg"[:classes])
    return Scores(chances, labels, names, contents, known, "views", model, None)


@pytest.mark.parametrize("ids", [None, tuple("1234567")])
def test_a_file_is_read_as_it_was_written(tmp_path, ids):
    before = replace(make(), class_ids=ids)
    scores.save(tmp_path / "a.scores", before)
    after = scores.load(tmp_path / "a.scores")
    assert (after.probabilities == before.probabilities).all()
    assert (after.labels == before.labels).all()
    assert (after.contents == before.contents).all()
    for field in ("names", "classes", "protocol", "model", "class_ids"):
        assert getattr(after, field) == getattr(before, field)
    assert [p.name for p in tmp_path.iterdir()] == ["a.scores"]


def test_the_mean_of_probabilities():
    members = [make(seed=seed, model=f"model{seed}") for seed in range(3)]
    shuffled = np.random.default_rng(0).permutation(9)
    second = members[1]
    members[1] = replace(
        second,
        probabilities=second.probabilities[shuffled],
        labels=second.labels[shuffled],
        names=tuple(second.names[i] for i in shuffled),
        contents=second.contents[shuffled],
    )
    found = combine(members, ["a", "b", "c"])
    expected = (members[0].probabilities + second.probabilities + members[2].probabilities) / 3
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-6)
    assert found.names == members[0].names
    assert found.model == "model0 + model1 + model2"
    assert found.protocol == "mean of 3 models' probabilities; views"
    assert combine(members[:1], ["a"]) is members[0]


def test_classes_match_by_name_or_by_identifier():
    ids = tuple("1234567")
    named, numbered = replace(make(), class_ids=ids), replace(make(seed=1), classes=ids)
    assert len(combine([named, numbered], ["a", "b"])) == 9
    assert len(combine([numbered, named], ["a", "b"])) == 9


def other_label(whole):
    labels = whole.labels.copy()
    labels[3] = 0
    return replace(whole, labels=labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: make(8), "b: has 8 images, not 9 like a"),
        (lambda s: make(9, 6), "b: has 6 classes, not 7 like a"),
        (
            lambda s: replace(s, names=(*s.names[:8], "new")),
            r"b: has other images than a.*8-.* missing",
        ),
        (
            lambda s: replace(s, contents=s.contents[::-1].copy()),
            r"b: has other images than a: 8 with the same names differ, the first is class/0",
        ),
        (lambda s: replace(s, classes=tuple("abcdefz")), "b: class 6 is 'z', not 'g' like in a"),
        (other_label, r"b: labels class/3-.* as class 0, not 3 like a"),
    ],
)
def test_files_of_something_else_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        combine([make(), change(make(seed=1))], ["a", "b"])


def altered(content, change):
    """A score file with other tensors or facts, otherwise well-formed."""
    tensors = safetensors.numpy.load(content)
    facts = json.loads(
        json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["scores"]
    )
    change(tensors, facts)
    return safetensors.numpy.save(tensors, {"scores": json.dumps(facts)})


def set_tensor(name, value):
    return lambda tensors, facts: tensors.update({name: value})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: b"", "not a readable score file"),
        (lambda c: c[:40], "not a readable score file"),
        (lambda c: c[:-5], "not a readable score file"),
        (lambda c: b"\x89PNG\r\n\x1a\n" + c, "not a readable score file"),
        (lambda c: safetensors.numpy.save({"x": np.zeros(2)}), "not a score file of this program"),
        (lambda c: altered(c, lambda t, f: f.update(format="x")), "format 'x'"),
        (lambda c: altered(c, lambda t, f: f.pop("classes")), "KeyError"),
        (lambda c: altered(c, lambda t, f: f.update(classes=["a"])), "1 classes"),
        (lambda c: altered(c, set_tensor("labels", np.arange(9) + 1)), "other classes"),
        (lambda c: altered(c, set_tensor("labels", np.zeros(9, np.int64))), "were altered"),
        (lambda c: altered(c, set_tensor("labels", np.zeros(9))), "numbers of type"),
        (lambda c: altered(c, set_tensor("contents", np.zeros(9, np.uint64))), "were altered"),
        (lambda c: altered(c, set_tensor("contents", np.zeros(9))), "no hashes"),
        (
            lambda c: altered(c, set_tensor("probabilities", np.ones((9, 7), np.float32))),
            "not probabilities",
        ),
        (
            lambda c: altered(c, set_tensor("probabilities", np.full((9, 7), np.nan, np.float32))),
            "not probabilities",
        ),
    ],
)
def test_damaged_and_other_files_are_refused(tmp_path, damage, message):
    path = tmp_path / "a.scores"
    scores.save(path, make())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        scores.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no such score file"):
        scores.load(tmp_path / "none")


def test_no_folder_to_write_to(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        scores.save(tmp_path / "none" / "a.scores", make())
