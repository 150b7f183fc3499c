"""Results as files: their folders' names, and files that earlier versions wrote."""

import json
from pathlib import Path

import pytest

from resnets.paper.store import Group, Store
from tests.paper import made_up

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("cifar10-short", Group("cifar10", None, "short")),
        ("cifar10-smoke-no-warmup", Group("cifar10", None, "smoke", "no-warmup")),
        ("imagenet-224-full", Group("imagenet", 224, "full")),
        ("my-short-photos-224-full", Group("my-short-photos", 224, "full")),
        ("photos-2-64-short-deepened", Group("photos-2", 64, "short", "deepened")),
    ],
)
def test_a_group_and_the_name_of_its_folder(name, group):
    assert Group.of_folder(name) == group
    assert str(group) == name


@pytest.mark.parametrize("name", ["cifar10", "full", "-full", "cifar10-shorter"])
def test_other_folders_are_no_groups(name):
    with pytest.raises(ValueError, match="DATA-BUDGET/NETWORK-seedN"):
        Group.of_folder(name)


def test_the_form_of_a_result_file_stays(tmp_path):
    store, outcome = Store(tmp_path), made_up.deepened()
    store.write(outcome)
    (path,) = tmp_path.rglob("*.json")
    assert path == tmp_path / "cifar10-short-deepened/cifar-plain56-seed0.start.json"
    content = json.loads(path.read_text())
    assert list(content) == ["format", "key", "kind", "identity", "values", "provenance"]
    assert content["format"] == "resnets-result-1"
    assert store.read(outcome.key) == outcome


def test_committed_results_load():
    outcomes = list(Store(ROOT / "results" / "paper").everything())
    kinds = {outcome.kind for outcome in outcomes}
    assert kinds == {"training", "responses", "signals", "deepened"}
    assert {str(outcome.group) for outcome in outcomes} == {
        "cifar10-full", "cifar10-short", "cifar10-short-deepened"
    }  # fmt: skip
    start = next(outcome for outcome in outcomes if outcome.kind == "deepened")
    assert (start.network, start.seed) == ("cifar-plain56", 0)
