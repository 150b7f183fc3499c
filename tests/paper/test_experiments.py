"""Every experiment asks for jobs that can be run."""

from dataclasses import replace

import pytest

from resnets.models import zoo
from resnets.paper import experiments, speed, workload
from resnets.paper.experiments import EXPERIMENTS, Setup
from resnets.paper.jobs import DataSet, Evaluation, Training, Workspace
from resnets.paper.runner import missing
from resnets.paper.speed import Layout
from resnets.paper.store import Store
from resnets.support.errors import UserError
from resnets.support.files import cache_folder

CIFAR = DataSet("cifar10", None, "50k/10k", 50_000)
PHOTOS = DataSet("tiny-imagenet", "/data/tiny-imagenet", "abc/def", 50_000, 64)
BOXES = DataSet("VOC2007", "/data/VOC2007", "abc/def", 5_011, 600)
ON = {
    "nothing": None, "cifar10": CIFAR, "photos": PHOTOS, "boxes": BOXES, "photos with boxes": PHOTOS
}  # fmt: skip


def jobs_of(name, budget="full", seeds=1, only=()):
    experiment = experiments.find(name)
    data = ON[experiment.needs]
    jobs = experiment.jobs(Setup(budget, seeds, data, data))
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


@pytest.fixture
def speeds(cache, monkeypatch):
    """Speeds of a machine on which every training makes 1e12 multiply-adds a second."""
    asked = []

    def measure(plans, layout):
        asked.append((sorted(plans), layout))
        return {n: 1e12 / (3 * workload.cost(p.network, 32)) for n, p in plans.items()}

    monkeypatch.setattr(speed, "measure", measure)
    monkeypatch.setattr(speed, "busy", lambda: False)
    monkeypatch.setattr(workload, "START", 0.0)
    found = speed.Speeds()
    found.asked = asked
    return found


def hours(jobs, tmp_path, speeds, at_once=2, images=0):
    workspace = Workspace(Store(tmp_path), tmp_path)
    return workload.seconds(jobs, images, workspace, Layout(at_once, 1), speeds) / 3600


def test_an_estimate_is_the_time_until_the_last_job_ends(tmp_path, speeds):
    plain20, plain56 = (3 * 64_000 * 128 * cost(n) / 1e12 / 3600 for n in ("20", "56"))
    shallow, deep = jobs_of("fig1")
    assert hours([shallow], tmp_path, speeds) == pytest.approx(plain20)
    assert hours([shallow, deep], tmp_path, speeds) == pytest.approx(plain56)
    assert hours([shallow, deep], tmp_path, speeds, at_once=1) == pytest.approx(plain20 + plain56)
    three = hours([shallow, deep, shallow], tmp_path, speeds)
    assert three == pytest.approx(max(plain56, 2 * plain20))
    tests = 64 * 10_000 * cost("20") / 1e12 / 3600
    assert hours([shallow], tmp_path, speeds, images=10_000) == pytest.approx(plain20 + tests)


def cost(depth):
    return workload.cost(f"cifar-plain{depth}", 32)


def test_first_steps_on_smaller_images_take_less(tmp_path, speeds):
    (whole, _) = jobs_of("fig1", "short")
    small = replace(whole, settings=("progressive.size=16", "progressive.until=1500"))
    share = workload.cost(whole.network, 16) / workload.cost(whole.network, 32)
    ratio = hours([small], tmp_path, speeds) / hours([whole], tmp_path, speeds)
    assert ratio == pytest.approx((1 + share) / 2)


def test_each_kind_is_measured_once_by_its_smallest_network(tmp_path, speeds):
    jobs = jobs_of("fig6")
    hours(jobs, tmp_path, speeds)
    hours(jobs[::-1], tmp_path, speed.Speeds())  # another process, later
    kinds = ["cifar basic A post 32", "cifar basic none post 32"]
    assert speeds.asked == [(kinds, Layout(2, 1))]
    hours(jobs, tmp_path, speeds, at_once=1)
    assert speeds.asked[1:] == [(kinds, Layout(1, 1))]
    cached = cache_folder("speed") / "trainings.json"
    for damaged in ("", "[]", '{"a": 1}', cached.read_text().replace("000", "x")):
        cached.write_text(damaged)
        hours(jobs, tmp_path, speed.Speeds())
    assert len(speeds.asked) == 6


def test_without_room_for_the_cache_speeds_are_measured_again(tmp_path, speeds, cache):
    (cache / "speed").write_bytes(b"")  # nothing can be written below it, not even by root
    for _ in range(2):
        hours(jobs_of("fig1"), tmp_path, speed.Speeds())
    assert len(speeds.asked) == 2


def test_the_speed_of_a_busy_machine_is_not_kept(tmp_path, speeds, monkeypatch):
    monkeypatch.setattr(speed, "busy", lambda: True)
    lines = []
    for _ in range(2):
        hours(jobs_of("fig1"), tmp_path, speed.Speeds(lines.append))
    assert len(speeds.asked) == 2
    assert "it is busy: times hold for a busy machine" in lines[0]


def test_the_speed_is_that_of_real_updates(cache):
    (training, _) = jobs_of("fig1", "smoke")
    training = replace(training, network="cifar-plain8")
    (rate,) = speed.measure({"x": training.plan}, Layout(1, 1)).values()
    assert 10 < rate < 1e6
    with (
        pytest.warns(UserWarning, match="serializer"),
        pytest.raises(UserError, match="a training that measures the speed failed"),
    ):
        speed.measure({"x": training.plan.model_copy(update={"batch": "many"})}, Layout(1, 1))


def test_what_a_stopped_training_has_done_is_not_counted_again(tmp_path, speeds):
    workspace = Workspace(Store(tmp_path), tmp_path)
    (job, _) = jobs_of("fig1", "short")
    whole = hours([job], tmp_path, speeds)
    workspace.run_folder(job.key).mkdir(parents=True)
    metrics = workspace.run_folder(job.key) / "metrics.jsonl"
    metrics.write_text('{"step": 50}\n{"step": 750}\n{"st')
    assert hours([job], tmp_path, speeds) == pytest.approx(0.75 * whole)
    metrics.write_text("[]\n")  # the run itself reports it
    assert hours([job], tmp_path, speeds) == whole


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
