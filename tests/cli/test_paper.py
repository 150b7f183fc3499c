"""`resnets paper` as a user meets it."""

import json
import os
import signal
from pathlib import Path

import pytest

from resnets.data import cifar
from resnets.paper import experiments, runner, speed
from resnets.paper.document import Text
from resnets.paper.experiments import Experiment
from resnets.paper.jobs import Responses
from resnets.support.errors import UserError
from tests.conftest import draw_photos
from tests.paper.conftest import InProcess

SMALL = ("iterations=4", "schedule.warmup=2", "batch=50", "test_every=2", "log_every=2")


def cifar_experiment(name, title, *networks):
    return Experiment(
        id=name, title=title, needs="cifar10", networks=networks, section="x", parts=[]
    )


@pytest.fixture
def small(monkeypatch, real_shape):
    """One experiment of two small networks, its jobs run in this process."""
    networks = ("cifar-plain8", "cifar-resnet8")
    pair = cifar_experiment("pair", "two small networks", *networks)
    monkeypatch.setattr(experiments, "EXPERIMENTS", (pair,))
    monkeypatch.setitem(experiments.CIFAR_RECIPES, "smoke", ("cifar10-short", SMALL))
    pool = InProcess(monkeypatch)
    monkeypatch.setattr(runner, "LocalPool", lambda gpus, idle: pool)
    monkeypatch.setattr(speed, "measure", lambda plans, layout: dict.fromkeys(plans, 500.0))
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
    assert row["side_by_side"] in (1, 2)
    before = len(small.commands)
    code, out, _ = resnets("paper", "run", "pair", "--budget", "smoke", "--seeds", "2")
    assert code == 0
    assert "4 of 4 results exist already" in out
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
    ("arguments", "message"),
    [
        (["pear"], ["unknown experiment 'pear'", "pair"]),
        (["pair", "--budget", "shrot"], ["--budget", "short"]),
        (["pair", "--only", "cifar-plain9"], ["--only", "cifar-plain8"]),
        (["pair", "--launcher", "slurm"], ["--launcher", "local"]),
    ],
)
def test_mistakes_get_one_line(resnets, small, arguments, message):
    code, _, err = resnets("paper", "run", *arguments)
    assert code == 2
    for word in message:
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
    for words in (["run", "pair"], ["list"]):
        code, _, err = resnets("paper", *words, "--budget", "smoke")
        assert code == 2
        assert str(Path("results/paper/cifar10-smoke/cifar-plain8-seed0.json")) in one_line(err)


def test_without_results_there_is_no_report(resnets):
    code, _, err = resnets("paper", "report")
    assert code == 2
    assert "resnets paper run" in one_line(err)


def test_sigterm_is_ours_whatever_the_launcher_did(resnets, small, monkeypatch):
    """Ray's own handler ends the command with a dump and saves nothing."""

    def replace_handler(gpus, idle):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return small

    def interrupted(*arguments):
        assert callable(signal.getsignal(signal.SIGTERM)), "this process would die"
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(runner, "LocalPool", replace_handler)
    monkeypatch.setattr(small, "start", interrupted)
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("not handled"))
    try:
        code, out, _ = resnets("paper", "run", "pair", "--budget", "smoke")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (code, small.stopped) == (130, True)
    assert "Stopped, saved. Resume with the same command:\n  resnets paper run pair" in out


def test_without_cifar_10_nothing_is_started(resnets, small, monkeypatch):
    def absent(name, data=None, report=None):
        raise UserError("no source of CIFAR-10 works")

    monkeypatch.setattr(cifar, "load", absent)
    code, _, err = resnets("paper", "run", "pair", "--budget", "smoke")
    assert (code, small.commands) == (2, [])
    assert "no source of CIFAR-10 works" in one_line(err)


@pytest.fixture
def photos(monkeypatch, small, tmp_path):
    """A second experiment, of one small network, and photographs for it."""
    one = Experiment(
        id="one", title="a test", needs="photos", networks=("resnet18-a",),
        job=experiments.train_and_test("ten-crop"), section="x", parts=[],
    )  # fmt: skip
    monkeypatch.setattr(experiments, "EXPERIMENTS", (*experiments.EXPERIMENTS, one))
    settings = ("epochs=1", "batch=4", "test_every=1", "log_every=1", "recompute_bn=0", "limit=4")
    monkeypatch.setitem(experiments.PHOTO_RECIPES, "smoke", ("photos-short", settings))
    for name, seed in (("a", 0), ("b", 1)):
        for part in ("train", "val"):
            draw_photos(tmp_path / name / "mini" / part, {f"ant{name}": 3, "bee": 3}, seed=seed)
    return small


def test_data_are_the_photographs_and_cifar_10_is_the_cached_one(resnets, photos):
    smoke = ("--budget", "smoke", "--data", "a/mini", "--image-size", 16)
    code, _, err = resnets("paper", "run", "pair", "one", *smoke)
    assert (code, err) == (0, "")
    of_cifar = [words for words in photos.commands if "cifar-plain8" in words]
    assert of_cifar
    assert not any("--data" in words for words in of_cifar)


def test_a_finished_run_on_other_images_is_not_taken_for_these(resnets, photos, tmp_path):
    smoke = ("--budget", "smoke", "--image-size", 16)
    code, _, _ = resnets("paper", "run", "one", *smoke, "--data", "a/mini")
    assert code == 0
    code, _, err = resnets("paper", "run", "one", *smoke, "--data", "b/mini")
    assert code == 2
    assert "other images" in one_line(err)
    code, _, err = resnets("paper", "run", "one", *smoke, "--data", "b/mini", "--results", "new")
    assert code == 2
    assert "not the images that the run began with" in one_line(err)
    assert not list((tmp_path / "new").rglob("*.json"))


def test_it_is_said_when_a_training_is_repeated_for_its_model(resnets, small, monkeypatch):
    pair = experiments.EXPERIMENTS
    one = Experiment(
        id="one", title="responses", needs="cifar10", networks=("cifar-resnet8",),
        job=toy_job, section="x", parts=[],
    )  # fmt: skip
    monkeypatch.setattr(experiments, "EXPERIMENTS", (*pair, one))
    smoke = ("--budget", "smoke")
    assert resnets("paper", "run", "pair", *smoke)[0] == 0
    code, out, _ = resnets("paper", "run", "one", *smoke, "--runs", "others")
    assert code == 0
    assert "cifar-resnet8-seed0 runs again: other jobs need its model or scores" in out
    code, out, _ = resnets("paper", "run", "one", *smoke)
    assert code == 0
    assert "again" not in out


def test_photographs_must_be_given(resnets):
    code, _, err = resnets("paper", "run", "table2")
    assert code == 2
    assert "--data" in one_line(err)


def test_results_that_cannot_be_written_are_noticed_before_anything_runs(resnets, small, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = resnets("paper", "run", "pair", "--budget", "smoke", "--results", "file/paper")
    assert code == 2
    assert "cannot write" in one_line(err)
    assert small.commands == []


def test_what_is_made_from_code_and_what_has_no_image_size_is_said(resnets, real_shape):
    code, out, _ = resnets("paper", "run", "table1")
    assert code == 0
    assert "made from code" in out
    code, _, err = resnets("paper", "run", "fig1", "--image-size", "64")
    assert code == 2
    assert "--image-size" in one_line(err)


def test_only_may_name_networks_of_any_of_the_experiments(resnets, small, monkeypatch):
    other = cifar_experiment("other", "one network", "cifar-plain14")
    monkeypatch.setattr(experiments, "EXPERIMENTS", (*experiments.EXPERIMENTS, other))
    code, out, _ = resnets(
        "paper", "run", "pair", "other", "--budget", "smoke",
        "--only", "cifar-plain8", "--only", "cifar-plain14",
    )  # fmt: skip
    assert code == 0
    assert "2 jobs, 2 side by side: about" in out
    assert "(2 of 2 done)" in out


def toy_job(setup, network, seed):
    return Responses(setup.training(network, seed))


def toy_parts(experiment, results):
    lines = [
        Text(f"{group}: {sum(run.responses()):.1f} of {run.network}")
        for group in experiment.groups(results)
        for run in results.runs(group, kind="responses")
    ]
    return lines or [experiment.missing("Not run yet")]


def test_an_experiment_is_defined_in_one_place(resnets, small, monkeypatch, tmp_path):
    toy = Experiment(
        id="toy", title="sums of responses", needs="cifar10", networks=("cifar-plain8",), once=True,
        job=toy_job, section="A toy experiment", parts=[toy_parts],
    )  # fmt: skip
    monkeypatch.setattr(experiments, "EXPERIMENTS", (*experiments.EXPERIMENTS, toy))

    def row():
        code, out, _ = resnets("paper", "list", "--budget", "smoke", "--seeds", "2", "--json")
        assert code == 0
        return next(row for row in json.loads(out) if row["id"] == "toy")

    def report(folder):
        assert resnets("paper", "report", "--out", folder)[0] == 0
        return (tmp_path / folder / "report.md").read_text()

    (tmp_path / "results" / "paper").mkdir(parents=True)
    assert row()["missing"] == [
        "cifar10-smoke/cifar-plain8-seed0", "cifar10-smoke/cifar-plain8-seed0.responses"
    ]  # fmt: skip
    assert "Not run yet: `resnets paper run toy --budget full`" in report("before")
    code, out, err = resnets("paper", "run", "toy", "--budget", "smoke", "--seeds", "2")
    assert (code, err) == (0, "")
    assert "(2 of 2 done)" in out
    assert (row()["title"], row()["jobs"], row()["done"]) == ("sums of responses", 1, 1)
    after = report("after")
    assert "## A toy experiment\n\ncifar10-smoke: " in after
    assert "of cifar-plain8\n\n" in after
