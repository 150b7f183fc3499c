"""The load generator notices wrong predictions; malformed requests of every kind are refused."""

import random
import shutil
import threading

import pytest

from benchmarks import malformed, measure, serving
from benchmarks.faults import requests
from resnets.inference.predictor import open_predictor
from resnets.serve import server
from resnets.serve.limits import Limits
from resnets.support.errors import UserError
from tests.serve.conftest import picture, save_model
from tools import speed_page


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def address(model):
    """A server in a thread of this process, with little patience."""
    found, started = [], threading.Event()
    options = server.ServerOptions(
        [str(model)], port=0, runtime="torch", precision="fp32", limits=Limits(client_timeout=0.5)
    )
    threading.Thread(
        target=server.serve,
        args=(options, "cpu", lambda where: (found.append(where), started.set())),
        daemon=True,
    ).start()
    assert started.wait(60)
    return found[0]


def test_every_malformed_request_is_refused_and_good_ones_are_answered(address):
    image = picture(0, (500, 400), "JPEG")
    found = malformed.run(address, image, len(malformed.kinds(image)), lambda line: None)
    for kind, statuses in found.items():
        (status,) = statuses
        assert status == malformed.LEFT if kind == "client that leaves" else 400 <= status < 500, (
            kind,
            status,
        )
    assert malformed.good(address, image) == 200


def test_random_malformed_requests_are_borne(address):
    image = picture(0, (60, 50))
    failures, statuses, _ = requests._campaign(address, image, range(150), seed=3)
    assert failures == []
    assert statuses.keys() >= {200, 400, 415, 422}
    again = requests.make(random.Random("3 7"), image)
    assert again == requests.make(random.Random("3 7"), image)


def test_a_campaign_notices_what_a_server_may_not_do():
    request = requests.Request("x", [b""])
    problem = b'{"status": 400}'

    def fault(*statuses, kind=b"application/problem+json", body=problem, seconds=1.0):
        number = len(statuses)
        answer = requests.Response([*statuses], [kind] * number, [body] * number, seconds)
        return requests.faults(request, answer)

    assert fault(200, 400) == fault(503, body=b'{"status": 503}') == []
    assert fault(400, body=b"") == []  # to HEAD
    assert "status 500" in fault(500)[0]
    assert "without a problem document" in fault(404)[0]
    assert "without a problem document" in fault(400, kind=b"text/plain")[0]
    assert fault() == ["closed"]
    assert "no response within" in fault(seconds=requests.SECONDS)[0]


def plan_of(model, data):
    return serving.Plan(
        model=model, data=data, connections=4, rounds=1, seconds=1, minutes=0, attacks=0
    )


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_compares_every_answer(address, model, tmp_path):
    plan = plan_of(str(model), None)
    predictor = open_predictor(str(model), "torch", "fp32")
    count = serving._images(plan, predictor, tmp_path)
    serving._expected(predictor, tmp_path, count)

    class At:
        pass

    server = At()
    server.address = address
    found = serving.wrk(server, tmp_path, count, 4, 1)
    assert found["compared"] > 10
    assert (found["wrong"], found["failed"]) == (0, 0)
    assert 0 < found["p50"] <= found["p99"] < 5000
    expected = tmp_path / "expected"
    lines = expected.read_text().splitlines()
    expected.write_text("\n".join([*lines[:-1], "6 0.123"]) + "\n")  # of one image
    found = serving.wrk(server, tmp_path, count, 4, 1)
    assert 0 < found["wrong"] < found["compared"] / 4


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_folder_that_is_not_there_is_told(tmp_path):
    plan = plan_of("cifar-resnet20", tmp_path / "absent")
    with pytest.raises(UserError, match="absent: no such folder"):
        serving.measure(plan, lambda line: None)


def test_counts_are_shown_without_a_spread():
    table = serving.counted("it", "requests", {"good": 3.0})
    shown = speed_page._table(measure.asdict(table))
    assert shown.splitlines() == ["| it | requests |", "| --- | ---: |", "| good | 3 |"]
