"""Every experiment asks for jobs that can be run."""

import os
from dataclasses import replace

import pytest
import torch

from resnets.models import zoo
from resnets.paper import experiments, workload
from resnets.paper.experiments import EXPERIMENTS, Setup
from resnets.paper.jobs import DataSet, Evaluation, Training, Workspace
from resnets.paper.runner import missing
from resnets.paper.store import Store
from resnets.support import devices
from resnets.support.errors import UserError

CIFAR = DataSet("cifar10", None, "50k/10k", 50_000)
PHOTOS = DataSet("tiny-imagenet", "/data/tiny-imagenet", "abc/def", 50_000, 64)
CPU = torch.device("cpu")
ON = {"nothing": None, "cifar10": CIFAR, "photos": PHOTOS}


def jobs_of(name, budget="full", seeds=1, only=()):
    experiment = experiments.find(name)
    jobs = experiment.jobs(Setup(budget, seeds, ON[experiment.needs]))
    return workload.limited(jobs, only) if only else jobs


@pytest.mark.parametrize("budget", ["full", "short", "smoke"])
@pytest.mark.parametrize("name", [experiment.id for experiment in EXPERIMENTS])
def test_every_job_has_a_recipe_a_network_and_a_cost(name, budget, tmp_path):
    workspace = Workspace(Store(tmp_path), tmp_path)
    jobs = jobs_of(name, budget)
    todo = missing(jobs, workspace)
    assert len({job.key for job in todo}) == len(todo)
    assert set(jobs) <= set(todo)
    for job in todo:
        zoo.architecture(job.training.network)
        assert job.arguments(workspace)
        assert job.identity()["budget"] == budget
        if isinstance(job, Training):
            assert job.plan.network == job.network
            assert workload.work(job, 100) > 0


def test_figure_6_has_the_papers_networks_and_iterations():
    jobs = jobs_of("fig6")
    depths = sorted((job.network.rstrip("0123456789"), job.steps()) for job in jobs)
    assert depths == [("cifar-plain", 64_000)] * 4 + [("cifar-resnet", 64_000)] * 6
    assert {job.key for job in jobs_of("fig1")} <= {job.key for job in jobs}


def test_the_papers_recipe_starts_110_layers_gently_and_the_variant_does_not():
    jobs = {job.key: job.plan.schedule.gentle_start for job in jobs_of("start")}
    assert jobs["cifar10-full/cifar-resnet110-seed0"].from_depth == 110
    assert jobs["cifar10-full-no-warmup/cifar-resnet110-seed0"].from_depth > 1202


def test_without_its_gentle_start_a_short_training_is_another_one():
    plans = {job.key: job.plan for job in jobs_of("start", "short")}
    assert plans["cifar10-short/cifar-resnet110-seed0"].schedule.warmup == 400
    assert plans["cifar10-short-no-warmup/cifar-resnet110-seed0"].schedule.warmup == 0


def test_the_steps_of_a_limited_training_are_those_of_its_images():
    trainings = [job.of for job in jobs_of("table2", "smoke")]
    assert {job.steps() for job in trainings} == {2 * 64 // 16}


def test_only_takes_members_out_of_an_ensemble():
    (job,) = jobs_of("table5", only=("resnet50-small",))
    assert isinstance(job, Evaluation)
    assert job.of.network == "resnet50-small"


def trained(budget, seconds):
    (job, _) = jobs_of("fig1", budget)
    here = devices.hardware_name(CPU)
    facts = {"hardware": here, "threads": 1, "seconds": seconds, "finished": "2026"}
    return job.outcome({"iterations": 3000}, facts)


def test_the_machines_speed_comes_from_whole_trainings(monkeypatch):
    monkeypatch.setattr(workload, "_speed_of_steps", lambda device: -1.0)
    whole = trained("short", 600)
    one = 3 * 3000 * 128 * workload.cost("cifar-plain20", 32) / 600 * (os.cpu_count() or 1)
    assert workload.measured_speed([whole], CPU) == pytest.approx(one)
    odd = [replace(whole, identity={"budget": "full"}), replace(whole, values={})]
    assert workload.measured_speed([whole, trained("smoke", 60), *odd], CPU) == pytest.approx(one)
    assert workload.measured_speed([trained("smoke", 60)], CPU) < 0


def test_what_a_stopped_training_has_done_is_not_counted_again(tmp_path, monkeypatch):
    workspace = Workspace(Store(tmp_path), tmp_path)
    (job, _) = jobs_of("fig1", "short")
    monkeypatch.setattr(workload, "START", 0.0)
    whole = workload.seconds([job], 1e9, 0, workspace)
    workspace.run_folder(job.key).mkdir(parents=True)
    metrics = workspace.run_folder(job.key) / "metrics.jsonl"
    metrics.write_text('{"step": 50}\n{"step": 750}\n{"st')
    assert workload.seconds([job], 1e9, 0, workspace) == pytest.approx(0.75 * whole)
    metrics.write_text("[]\n")  # the run itself reports it
    assert workload.seconds([job], 1e9, 0, workspace) == whole


def test_seeds_repeat_and_only_limits():
    jobs = jobs_of("fig1", seeds=3, only=("cifar-plain56",))
    assert [job.seed for job in jobs] == [0, 1, 2]
    assert len(jobs_of("signals", seeds=3)) == 4  # more seeds would add nothing
    with pytest.raises(UserError, match="cifar-plain20"):
        jobs_of("fig1", only=("cifar-plain2",))


def test_small_photographs_get_their_stem_and_depth_stays():
    jobs = jobs_of("table2")
    assert {job.training.network for job in jobs} == {
        "plain18-small", "plain34-small", "resnet18-a-small", "resnet34-a-small"
    }  # fmt: skip
    assert all(job.training.plan.photos.size == 64 for job in jobs)


def test_the_ensemble_has_six_members_of_which_two_have_152_layers():
    (ensemble,) = jobs_of("table5")
    networks = [test.of.network for test in ensemble.tests]
    assert len(networks) == 6
    assert networks.count("resnet152-small") == 2
    assert len({test.key for test in ensemble.tests}) == 6


def test_the_list_fits_80_columns():
    assert max(len(experiment.title) for experiment in EXPERIMENTS) <= 32


def test_unknown_experiments_name_the_nearest():
    with pytest.raises(UserError, match="did you mean fig6"):
        experiments.find("figure6")
