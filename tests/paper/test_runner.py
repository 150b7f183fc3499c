"""Jobs run once, resume, fail and stop as a user expects."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from resnets.paper import runner
from resnets.paper.experiments import Setup
from resnets.paper.jobs import DataSet, Ensemble, Evaluation, Responses, Training
from resnets.paper.runner import JobsFailed, LocalPool, Runner, missing
from resnets.support.errors import UserError
from tests.paper.conftest import DATA, SETTINGS, Silent, small


def run(jobs, workspace, pool, watch=None):
    todo = missing(jobs, workspace)
    Runner(workspace, pool, watch or Silent(), at_once=2, environment={}).run(todo)
    return todo


def test_a_training_leaves_its_result_and_never_runs_again(workspace, pool):
    job = small()
    assert run([job], workspace, pool) == [job]
    outcome = workspace.store.read(job.key)
    assert outcome.values["iterations"] == 6
    assert [step for step, _ in outcome.values["train_curve"]] == [2, 4, 6]
    assert [step for step, _ in outcome.values["test_curve"]] == [3, 6]
    assert outcome.values["test_curve"][-1][1] == pytest.approx(
        outcome.values["measured"]["error"], abs=1e-3
    )
    assert outcome.provenance["command"].startswith("resnets train cifar10-short")
    assert not workspace.store.weights(job.key).exists()  # a smoke test's weights are worth nothing
    assert run([job], workspace, pool) == []
    assert len(pool.commands) == 1


def test_a_finished_run_is_collected_without_training_again(workspace, pool):
    job = small()
    run([job], workspace, pool)
    model = workspace.run_folder(job.key) / "model.safetensors"
    before = model.stat().st_mtime_ns
    workspace.store.path(job.key).unlink()
    assert run([job], workspace, pool) == [job]
    assert model.stat().st_mtime_ns == before
    assert workspace.store.read(job.key) is not None


def test_a_result_of_another_recipe_is_refused(workspace, pool):
    run([small()], workspace, pool)
    other = small(settings=(*SETTINGS, "schedule.lr=0.2"))
    with pytest.raises(UserError, match="another recipe") as failure:
        missing([other], workspace)
    assert str(workspace.store.path(other.key)) in str(failure.value)


def test_a_recipe_may_have_got_keys_since(workspace, pool):
    job = small()
    run([job], workspace, pool)
    path = workspace.store.path(job.key)
    content = json.loads(path.read_text())
    del content["identity"]["plan"]["save_memory"]  # has the default
    path.write_text(json.dumps(content))
    assert missing([job], workspace) == []


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": "resnets-result-1"}', "{\x00"])
def test_damaged_results_are_named(workspace, text):
    path = workspace.store.path(small().key)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match="not a valid result file"):
        missing([small()], workspace)
    with pytest.raises(UserError, match="not a valid result file"):
        list(workspace.store.everything())


def test_jobs_wait_for_what_they_need(workspace, monkeypatch):
    tests = tuple(Evaluation(small(seed=seed), views="dense") for seed in range(2))
    ensemble = Ensemble(tests)
    order = [job.key for job in missing([ensemble], workspace)]
    assert order == [
        tests[0].of.key, tests[0].key, tests[1].of.key, tests[1].key, ensemble.key
    ]  # fmt: skip


def test_what_is_needed_runs_again_where_its_files_were_not_kept(workspace):
    job = small()
    workspace.store.write(job.outcome({}, {}))
    assert missing([job], workspace) == []
    assert missing([Responses(job)], workspace) == [job, Responses(job)]
    workspace.store.weights(job.key).write_bytes(b"weights")
    assert missing([Responses(job)], workspace) == [Responses(job)]


def test_a_failure_stops_neither_the_others_nor_is_forgotten(workspace, pool):
    bad = small(seed=1, settings=(*SETTINGS, "schedule.lr=100", "schedule.kind=cosine"))
    folder = workspace.run_folder(bad.key)
    folder.mkdir(parents=True)
    (folder / "other").write_text("in the way")
    watch = Silent()
    with pytest.raises(JobsFailed) as failure:
        run([bad, Responses(bad), small()], workspace, pool, watch)
    assert list(failure.value.jobs) == [bad.key, Responses(bad).key]
    assert "not a run folder" in failure.value.jobs[bad.key]
    assert str(workspace.file(bad.key, "log")) in failure.value.jobs[bad.key]
    assert watch.results == [small().key]
    assert pool.stopped


def test_a_result_that_is_not_whole_stops_no_other_job(workspace, pool):
    job = small()
    run([job], workspace, pool)
    workspace.store.path(job.key).unlink()
    (workspace.run_folder(job.key) / "metrics.jsonl").write_text("")
    watch = Silent()
    with pytest.raises(JobsFailed) as failure:
        run([job, small(seed=1)], workspace, pool, watch)
    assert list(failure.value.jobs) == [job.key]
    assert "summary.json: is missing or damaged" in failure.value.jobs[job.key]
    assert watch.results == [small(seed=1).key]


def test_a_disk_that_is_full_stops_all(workspace, pool, monkeypatch):
    def full(outcome):
        raise UserError("cannot write: No space left on device", "x.json")

    monkeypatch.setattr(workspace.store, "write", full)
    with pytest.raises(UserError, match="No space"):
        run([small()], workspace, pool)
    assert pool.stopped


def test_a_failure_is_told_in_its_own_words(tmp_path):
    log = tmp_path / "log"
    log.write_text("resnets: of an earlier start\n")
    before = log.stat().st_size
    assert runner._last_line(log, before, -9).startswith("no message (ended by signal 9;")
    with log.open("a") as file:
        file.write("resnets: no space\n\n")
    assert runner._last_line(log, before, 2).startswith("no space (exit code 2;")


def test_a_run_goes_on_with_the_threads_it_began_with(workspace, pool):
    job = small()
    assert job.environment(workspace) == {}
    run([job], workspace, pool)
    path = workspace.run_folder(job.key) / "environment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "threads": 3}))
    workspace.store.path(job.key).unlink()
    started = []
    monkey = pool.start
    pool.start = lambda key, command, environment, *files: (
        started.append(environment), monkey(key, command, environment, *files)
    )  # fmt: skip
    environment = {"OMP_NUM_THREADS": "2", "X": "1"}
    Runner(workspace, pool, Silent(), at_once=1, environment=environment).run([job])
    assert started == [{"OMP_NUM_THREADS": "3", "X": "1"}]


def test_a_job_whose_machine_was_lost_is_started_again(workspace, pool):
    job = small()
    pool.lose = {job.key}
    watch = Silent()
    run([job], workspace, pool, watch)
    assert watch.begun == [job.key, job.key]
    assert watch.results == [job.key]


def test_a_second_command_is_kept_out(workspace):
    with runner.exclusive(workspace):
        code = f"""
            from pathlib import Path
            from resnets.paper import runner
            from resnets.paper.jobs import Workspace
            from resnets.paper.store import Store
            with runner.exclusive(Workspace(Store(Path("x")), Path({str(workspace.runs)!r}))):
                pass
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
        )
    assert done.returncode == 1
    assert "another `resnets paper run` uses this folder" in done.stderr


def test_it_waits_for_a_run_that_is_still_saving(workspace, monkeypatch):
    folder = workspace.run_folder(small().key)
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text("{}")
    held = FileLock(folder / ".lock")
    held.acquire()
    monkeypatch.setattr(runner, "SAVING", 0.2)
    start = time.monotonic()
    runner._wait_until_saved(folder)  # gives up after SAVING seconds
    assert time.monotonic() - start >= 0.2
    held.release()
    runner._wait_until_saved(folder)


def command(code):
    return [sys.executable, "-c", textwrap.dedent(code)]


def test_processes_print_tell_and_end(tmp_path):
    pool = LocalPool()
    out, log = tmp_path / "out", tmp_path / "log"
    code = "import os, sys; print(os.environ['X']); print('told', file=sys.stderr); sys.exit(3)"
    pool.start("a", command(code), {"X": "1"}, out, log)
    ended = []
    while not ended:
        ended = pool.finished(5.0)
    assert ended == [("a", 3)]
    assert (out.read_text(), log.read_text()) == ("1\n", "told\n")


PATIENT = """
    import signal, sys, time
    signal.signal(signal.SIGINT, lambda *_: (print("saved", flush=True), sys.exit(130)))
    signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
    print("ready", flush=True)
    time.sleep(60)
"""


def wait_for(text, path):
    until = time.monotonic() + 30
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_stopping_lets_processes_save(tmp_path):
    pool = LocalPool()
    pool.start("a", command(PATIENT), {}, tmp_path / "out", tmp_path / "log")
    wait_for("ready", tmp_path / "out")
    pool.stop()
    assert "saved" in (tmp_path / "out").read_text()
    assert pool.finished(0.0) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_jobs_of_a_background_command_can_be_stopped(tmp_path):
    """A shell has those ignore SIGINT, which processes inherit."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pool = LocalPool()
        code = "import time; print('ready', flush=True); time.sleep(20); print('end')"
        pool.start("a", command(code), {}, tmp_path / "out", tmp_path / "log")
        wait_for("ready", tmp_path / "out")
        pool.stop()
    finally:
        signal.signal(signal.SIGINT, before)
    assert "end" not in (tmp_path / "out").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells processes of a parent's end")
def test_processes_save_when_the_command_is_killed(tmp_path):
    code = f"""
        import sys, time
        from pathlib import Path
        from resnets.paper.runner import LocalPool
        LocalPool().start("a", {command(PATIENT)!r}, {{}}, Path("out"), Path("log"))
        time.sleep(60)
    """
    parent = subprocess.Popen(
        command(code), cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    wait_for("ready", tmp_path / "out")
    parent.send_signal(signal.SIGKILL)
    wait_for("saved", tmp_path / "out")


def test_gpus_are_shared_evenly(tmp_path):
    pool = LocalPool(gpus=["0", "1"])
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    for key in "abcd":
        pool.start(key, command(code), {}, tmp_path / key, tmp_path / "log")
    ended = []
    while len(ended) < 4:
        ended += pool.finished(5.0)
    assert sorted((tmp_path / key).read_text().strip() for key in "abcd") == ["0", "0", "1", "1"]


def test_names_say_data_budget_and_variant():
    assert small(variant="no-warmup").key == "cifar10-smoke-no-warmup/cifar-resnet8-seed0"
    job = Training("cifar-resnet8", "cifar10-paper", DATA, "full", 3)
    assert job.key == "cifar10-full/cifar-resnet8-seed3"
    assert Evaluation(job, views="dense").key == "cifar10-full/cifar-resnet8-seed3.dense"


def test_photographs_get_a_gpu_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    networks = ("resnet18-a", "resnet34-a", "plain18", "plain34")
    on = DataSet("photos", "photos", "x", 100, 64)
    setup = Setup("full", 1, on)
    todo = [setup.training(network, 0) for network in networks]
    assert runner.side_by_side(todo, None, "local")[0] == 2
    assert runner.side_by_side(todo, 3, "local")[0] == 3
    cifar = replace(setup, data=DataSet("cifar10", None, "50k/10k", 100))
    todo = [cifar.training("cifar-resnet20", seed) for seed in range(9)]
    assert runner.side_by_side(todo, None, "local")[0] == 8


@pytest.mark.parametrize(
    ("allowed", "count", "used"),
    [("3,GPU-5", 2, ["3", "GPU-5"]), (None, 2, ["0", "1"]), (None, 1, ["0"]), ("", 0, [])],
)
def test_only_gpus_that_the_user_allows_are_used(monkeypatch, allowed, count, used):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert runner.available_gpus() == used
