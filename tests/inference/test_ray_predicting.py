"""Answers from a cluster are those of one machine, whatever gets lost meanwhile."""

import json
import os
import subprocess
import sys
import time

import pytest

from resnets.inference import predictions
from resnets.inference.predictor import open_predictor
from resnets.inference.ray_cluster import Asked, Cluster, _room, _unpacked
from resnets.support.errors import UserError
from tests.conftest import draw_photos
from tests.ray_machines import two_machines

ASKED = Asked("cifar-resnet20", "torch", "fp32", "auto", 2, 4, False)


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
        opened.append(Cluster(machines.address, Asked(**{**vars(ASKED), **other})))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.mark.parametrize("embeddings", [False, True])
def test_answers_are_those_of_one_machine(cluster, photos, embeddings):
    model = open_predictor("cifar-resnet20", "torch", "fp32")
    found = cluster(embeddings=embeddings)
    assert found.identity == predictions.identity(model)
    expected = predictions.answers(model, photos, 2, 4, embeddings)
    mine = {answer.image: answer for answer in found.answers(photos)}
    assert len(mine) == len(photos)
    for answer in expected:
        other = mine[answer.image]
        assert (other.error, other.classes) == (answer.error, answer.classes)
        assert other.probabilities == pytest.approx(answer.probabilities, abs=1e-4)
        if embeddings and answer.error is None:
            assert other.embedding == pytest.approx(answer.embedding, rel=1e-3, abs=1e-4)
    assert mine["bad.jpg"].error == "not an image"


def test_a_lost_machine_is_made_up_for(cluster, machines, photos):
    found = cluster().answers(photos * 20)
    names = [next(found).image]
    machines.remove_node(machines.machines.pop(), allow_graceful=False)
    names += [answer.image for answer in found]
    machines.machines.append(machines.add())
    assert sorted(names) == sorted(photos * 20)


def test_machines_that_differ_are_one_line(cluster, photos):
    found = cluster()
    found.identity = found.identity._replace(weights="0" * 64)
    with pytest.raises(UserError, match="machines of the cluster differ"):
        list(found.answers(photos))


def test_a_model_that_machines_do_not_have_is_one_line(cluster):
    with pytest.raises(UserError, match="did you mean cifar-resnet20"):
        cluster(model="cifar-resnet21")
    with pytest.raises(UserError, match="no machine of the cluster has a GPU"):
        cluster(device="cuda")


def test_a_command_that_is_killed_goes_on(machines, photos, tmp_path):
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
    asked = Asked(**{**vars(ASKED), "device": device, "runtime": runtime})
    room, workers = _room(nodes, asked)
    assert (room["num_cpus"], room["num_gpus"], workers) == expected


def test_where_nothing_could_be_read_there_are_no_features():
    (answer,) = _unpacked('[{"image": "a", "error": "empty"}]', b"")
    assert answer == predictions.Answer("a", error="empty")


def test_words_are_checked_before_a_cluster_is_troubled(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for word in ({"runtime": "openvin"}, {"precision": "fp17"}, {"device": "cuda:1"}):
        with pytest.raises(UserError, match="unknown"):
            Cluster(None, Asked(**{**vars(ASKED), **word}))
    with pytest.raises(UserError, match=r"pip install resnets\[ray\]"):
        Cluster(None, ASKED)
