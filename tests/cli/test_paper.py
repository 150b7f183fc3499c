"""`resnets paper` as a user meets it."""

import json
from pathlib import Path

import pytest

from resnets.paper import experiments, launch
from resnets.paper.experiments import Experiment
from tests.paper.conftest import InProcess

SMALL = ("iterations=4", "schedule.warmup=2", "batch=50", "test_every=2", "log_every=2")


@pytest.fixture
def small(monkeypatch, real_shape):
    """One experiment of two small networks, its jobs run in this process."""
    networks = ("cifar-plain8", "cifar-resnet8")
    pair = Experiment("pair", "two small networks", "cifar10", experiments._cifar(*networks))
    monkeypatch.setattr(experiments, "EXPERIMENTS", (pair,))
    monkeypatch.setitem(experiments.CIFAR_RECIPES, "smoke", ("cifar10-short", SMALL))
    pool = InProcess(monkeypatch)
    monkeypatch.setattr(launch, "LocalPool", lambda gpus: pool)
    return pool


def one_line(error):
    (line,) = error.strip().splitlines()
    assert line.startswith("resnets: ")
    return line


@pytest.mark.parametrize("verb", ["", "list", "run", "report"])
def test_help_fits_a_screen_and_shows_an_example(resnets, verb):
    code, out, _ = resnets("paper", *([verb] if verb else []), "--help")
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert not verb or f"Example: resnets paper {verb}" in out


def test_list_run_list_again(resnets, small, tmp_path):
    code, out, _ = resnets("paper", "list", "--budget", "smoke")
    assert code == 0
    assert "0 of 2" in out
    code, out, err = resnets("paper", "run", "pair", "--budget", "smoke", "--seeds", "2")
    assert (code, err) == (0, "")
    assert "(4 of 4 done)" in out
    assert "results/paper" in out
    code, out, _ = resnets("paper", "list", "--budget", "smoke", "--seeds", "3", "--json")
    (row,) = json.loads(out)
    assert (row["done"], row["jobs"]) == (4, 6)
    assert row["missing"] == [
        "cifar10-smoke/cifar-plain8-seed2", "cifar10-smoke/cifar-resnet8-seed2"
    ]  # fmt: skip
    assert row["seconds_left"] >= 0
    before = len(small.commands)
    code, out, _ = resnets("paper", "run", "pair", "--budget", "smoke", "--seeds", "2")
    assert code == 0
    assert "4 of 4 results are there already" in out
    assert len(small.commands) == before


def test_other_folders_and_only_one_network(resnets, small, tmp_path):
    code, _, _ = resnets(
        "paper", "run", "pair", "--budget", "smoke", "--only", "cifar-plain8",
        "--results", "facts", "--runs", "work",
    )  # fmt: skip
    assert code == 0
    found = [p.relative_to(tmp_path).as_posix() for p in (tmp_path / "facts").rglob("*.json")]
    assert found == ["facts/cifar10-smoke/cifar-plain8-seed0.json"]
    assert (tmp_path / "work/cifar10-smoke/cifar-plain8-seed0/summary.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pear"], ["unknown experiment 'pear'", "pair"]),
        (["pair", "--budget", "shrot"], ["--budget", "short"]),
        (["pair", "--only", "cifar-plain9"], ["--only", "cifar-plain8"]),
        (["pair", "--launcher", "slurm"], ["--launcher", "local"]),
    ],
)
def test_mistakes_get_one_line(resnets, small, arguments, words):
    code, _, err = resnets("paper", "run", *arguments)
    assert code == 2
    for word in words:
        assert word in one_line(err)


def test_a_failing_run_names_the_log_and_keeps_the_rest(resnets, small, tmp_path):
    folder = tmp_path / "runs/paper/cifar10-smoke/cifar-plain8-seed0"
    folder.mkdir(parents=True)
    (folder / "stray").write_text("")
    code, out, err = resnets("paper", "run", "pair", "--budget", "smoke")
    assert code == 2
    assert "cifar-plain8-seed0.log" in one_line(err)
    assert "cifar-resnet8-seed0: test error" in out


def test_damaged_results_are_one_line(resnets, small, tmp_path):
    path = tmp_path / "results/paper/cifar10-smoke/cifar-plain8-seed0.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"half')
    for verb in (["run", "pair"], ["list"]):
        code, _, err = resnets("paper", *verb, "--budget", "smoke")
        assert code == 2
        assert str(Path("results/paper/cifar10-smoke/cifar-plain8-seed0.json")) in one_line(err)


def test_without_results_there_is_no_report(resnets):
    code, _, err = resnets("paper", "report")
    assert code == 2
    assert "resnets paper run" in one_line(err)


def test_photographs_must_be_given(resnets):
    code, _, err = resnets("paper", "run", "table2")
    assert code == 2
    assert "--data" in one_line(err)
