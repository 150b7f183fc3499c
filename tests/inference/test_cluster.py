"""Predictions by a cluster are those of one machine, whatever machines are lost meanwhile."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from resnets.inference.cluster import Cluster, ClusterOptions, _unpacked, _worker_resources
from resnets.inference.predictions import ClassProbability, Prediction
from resnets.inference.predictor import open_predictor
from resnets.support.errors import UserError
from tests.conftest import draw_photos
from tests.ray_machines import two_machines

OPTIONS = ClusterOptions(model="cifar-resnet20", runtime="torch", precision="fp32", top=2, batch=4)


@pytest.fixture(scope="module")
def machines():
    pytest.importorskip("pyarrow", reason="pyarrow is not installed, which Ray Data needs")
    with two_machines() as made:
        yield made


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw_photos(tmp_path / "photos", {"red": 20, "green": 20})
    (tmp_path / "bad.jpg").write_text("no image")
    odd = os.fsdecode(b"photos/caf\xe9.png")
    try:
        os.link("photos/red/0.png", odd)
    except OSError:
        odd = "photos/red/1.png"  # this file system takes UTF-8 only
    inside = sorted(str(path) for path in (tmp_path / "photos").rglob("*/*.png"))
    return [*inside, odd, "bad.jpg", "absent.jpg"]


@pytest.fixture
def cluster(machines):
    opened = []

    def make(**other):
        opened.append(Cluster(machines.address, replace(OPTIONS, **other)))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.mark.parametrize("embeddings", [False, True])
def test_predictions_are_those_of_one_machine(cluster, photos, embeddings):
    model = open_predictor("cifar-resnet20", "torch", "fp32")
    found = cluster(embeddings=embeddings)
    assert found.identity == model.identity
    expected = model.iter_predictions(photos, 2, batch=4, embeddings=embeddings)
    mine = {answer.image: answer for answer in found.iter_predictions(photos)}
    assert len(mine) == len(photos)
    for answer in expected:
        other = mine[answer.image]
        assert other.error == answer.error
        assert len(other.top) == len(answer.top)
        for entry, wanted in zip(other.top, answer.top, strict=True):
            assert (entry.name, entry.index, entry.id) == (wanted.name, wanted.index, wanted.id)
            assert entry.probability == pytest.approx(wanted.probability, abs=1e-4)
        if embeddings and answer.error is None:
            assert other.embedding == pytest.approx(answer.embedding, rel=1e-3, abs=1e-4)
    assert mine["bad.jpg"].error.startswith("not an image")


def test_the_work_of_a_lost_machine_is_repeated(cluster, machines, photos):
    found = cluster().iter_predictions(photos * 20)
    names = [next(found).image]
    machines.remove_node(machines.machines.pop(), allow_graceful=False)
    names += [answer.image for answer in found]
    machines.machines.append(machines.add())
    assert sorted(names) == sorted(photos * 20)


def test_machines_that_differ_are_one_line(cluster, photos):
    found = cluster()
    found.identity = found.identity._replace(weights="0" * 64)
    with pytest.raises(UserError, match="machines of the cluster differ"):
        list(found.iter_predictions(photos))


def test_a_model_that_machines_do_not_have_is_one_line(cluster):
    with pytest.raises(UserError, match="did you mean cifar-resnet20"):
        cluster(model="cifar-resnet21")
    with pytest.raises(UserError, match="no machine of the cluster has a GPU"):
        cluster(device="cuda")


def test_a_killed_command_is_resumed(machines, photos, tmp_path):
    command = [
        sys.executable, "-m", "resnets", "predict", "cifar-resnet20", "photos", "bad.jpg",
        "absent.jpg", "--launcher", "ray", "--runtime", "torch", "--batch", "1", "--out", "a.jsonl",
    ]  # fmt: skip
    environment = os.environ | {"RAY_ADDRESS": machines.address}
    out = tmp_path / "a.jsonl"
    first = subprocess.Popen(command, env=environment)
    end = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    first.kill()
    first.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "were there already" in done.stdout
    assert "2 images could not be read" in done.stderr
    names = [json.loads(line)["image"] for line in out.read_text().splitlines()]
    assert sorted(map(os.path.abspath, names)) == sorted(map(os.path.abspath, photos))


def node(cpu, gpu=0, alive=True):
    return {"Alive": alive, "Resources": {"CPU": cpu, "GPU": gpu}}


@pytest.mark.parametrize(("nodes", "device", "runtime", "expected"), [
    ([node(0), node(1), node(9)], "auto", "auto", (1, 0, 10)),
    ([node(64), node(8)], "auto", "auto", (4, 0, 18)),
    ([node(64), node(8), node(2, alive=False)], "cpu", "auto", (4, 0, 18)),
    ([node(4), node(32, 4), node(12, 2)], "auto", "auto", (6, 1, 6)),
    ([node(4), node(32, 4)], "auto", "openvino", (4, 0, 9)),
])  # fmt: skip
def test_workers_fill_the_machines(nodes, device, runtime, expected):
    options = replace(OPTIONS, device=device, runtime=runtime)
    worker, workers = _worker_resources(nodes, options)
    assert (worker["num_cpus"], worker["num_gpus"], workers) == expected


def test_unreadable_images_are_sent_without_features():
    (found,) = _unpacked('[["a", [], "empty"]]', b"")
    assert found == Prediction("a", error="empty")
    (found,) = _unpacked('[["a", [["cat", 0.5, 3, "n02"]], null]]', b"\0\0\x80?")
    assert found == Prediction("a", [ClassProbability("cat", 0.5, 3, "n02")], (1.0,))


def test_options_are_checked_before_the_cluster_is_contacted(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for word in ({"runtime": "openvin"}, {"precision": "fp17"}, {"device": "cuda:1"}):
        with pytest.raises(UserError, match="unknown"):
            Cluster(None, replace(OPTIONS, **word))
    with pytest.raises(UserError, match=r"pip install resnets\[ray\]"):
        Cluster(None, OPTIONS)
