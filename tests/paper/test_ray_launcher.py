"""Jobs on a cluster of two machines, made of processes here."""

import sys
import time

import pytest

from resnets.paper.ray_launcher import RayPool
from resnets.support.errors import UserError
from tests.ray_machines import two_machines

JOB = """
import os, pathlib, signal, sys, time
name, wait, until = sys.argv[1:]
folder = pathlib.Path("said")
folder.mkdir(exist_ok=True)

def handler(number, frame):
    (folder / f"{name}.{signal.Signals(number).name}").touch()
    sys.exit(7)

signal.signal(signal.SIGINT, handler)
signal.signal(signal.SIGTERM, handler)
print("out", os.environ["GREETING"], flush=True)
print("log", file=sys.stderr, flush=True)
(folder / f"{name}.begun").touch()
end = time.monotonic() + float(wait)
while time.monotonic() < end and not pathlib.Path(until).exists():
    time.sleep(0.05)
"""


def wait_for(condition, seconds=25):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


def ended(pool, count):
    """The next `count` jobs that end."""
    found = {}

    def have_ended():
        found.update(pool.finished(timeout=0.5))
        return len(found) >= count

    wait_for(have_ended)
    return found


@pytest.fixture(scope="module")
def cluster():
    with two_machines() as made:
        yield made


@pytest.fixture
def pool(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = RayPool(cluster.address, cpus_per_job=1, gpus_per_job=0)
    yield made
    made.stop()


def begin(pool, folder, key, wait=60, until="nothing"):
    command = [sys.executable, "-c", JOB, key, str(wait), until]
    pool.start(key, command, {"GREETING": f"hello {key}"}, folder / "out", folder / f"{key}.log")


def test_two_jobs_at_once_and_one_that_fails(pool, tmp_path):
    # Each ends when the other has begun: so they are on two machines, of one CPU each.
    begin(pool, tmp_path, "a", until="said/b.begun")
    begin(pool, tmp_path, "b", until="said/a.begun")
    assert ended(pool, 2) == {"a": 0, "b": 0}
    pool.start(
        "c", [sys.executable, "-c", "raise SystemExit(3)"], {}, tmp_path / "x", tmp_path / "y"
    )
    assert ended(pool, 1) == {"c": 3}
    assert pool.finished(timeout=0) == []
    assert (tmp_path / "out").read_text() in ("out hello a\n", "out hello b\n")
    assert (tmp_path / "a.log").read_text() == "log\n"


def test_a_lost_machine_is_told_and_its_job_starts_again(cluster, pool, tmp_path):
    said = tmp_path / "said"
    begin(pool, tmp_path, "a", until="go")
    begin(pool, tmp_path, "b", until="go")
    wait_for(lambda: (said / "a.begun").exists() and (said / "b.begun").exists())
    cluster.remove_node(cluster.machines.pop())
    ((lost, code),) = ended(pool, 1).items()
    assert code is None
    wait_for((said / f"{lost}.SIGTERM").exists)  # what it left behind saves and ends
    cluster.machines.append(cluster.add())
    (said / f"{lost}.begun").unlink()
    begin(pool, tmp_path, lost, until="go")
    wait_for((said / f"{lost}.begun").exists)
    (tmp_path / "go").touch()
    assert ended(pool, 2) == {"a": 0, "b": 0}
    assert (tmp_path / f"{lost}.log").read_text() == "log\nlog\n"


def test_stop_has_what_runs_save_and_forgets_what_waits(pool, tmp_path):
    said = tmp_path / "said"
    for key in "abc":
        begin(pool, tmp_path, key)
    wait_for(lambda: len(list(said.glob("*.begun"))) == 2)
    running = {path.stem for path in said.glob("*.begun")}
    pool.stop()
    assert {path.stem for path in said.glob("*.SIGINT")} == running
    assert len(list(said.glob("*.begun"))) == 2


def test_a_machine_without_the_folder_is_one_line(pool, tmp_path):
    pool.start("a", [sys.executable, "-c", ""], {}, tmp_path / "none" / "out", tmp_path / "log")
    with pytest.raises(UserError, match=r"^a: a machine of the cluster could not run it.*share"):
        ended(pool, 1)


def test_a_job_that_no_machine_could_run_is_one_line(cluster):
    with pytest.raises(UserError, match="no machine of the Ray cluster has 64 CPUs and 1 GPUs"):
        RayPool(cluster.address, cpus_per_job=64, gpus_per_job=1)


def test_a_cluster_that_is_not_there_is_one_line():
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(
        UserError, match=r"^127\.0\.0\.1:1: the Ray cluster does not answer.*ray start"
    ):
        RayPool("127.0.0.1:1", cpus_per_job=1, gpus_per_job=0)


def test_without_ray_the_mend_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install resnets\[ray\]"):
        RayPool(None, cpus_per_job=1, gpus_per_job=0)
