"""Signals to a real server: accepted requests are finished, unless a second signal comes."""

import asyncio
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import uvicorn

from resnets.inference.predictor import open_predictor
from resnets.serve import server as process
from resnets.serve.limits import Limits
from resnets.support.errors import UserError
from tests.serve.conftest import picture
from tests.serve.wire import GET, answer_to, connect, request, status

ROOT = Path(__file__).parents[2]
ENDLESS = """
import sys, time
from resnets.cli.main import main
from resnets.serve import decoding
decoding.decode = lambda *arguments: time.sleep(60)
main()
"""


@pytest.fixture(scope="module")
def processes(models, tmp_path_factory):
    """Two servers, started side by side: a usual one, and one that decodes for a minute."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("sesame\n")
    common = ["serve", str(models[0]), "--runtime", "torch", "--log", "json", "--port", "0"]
    commands = {
        "usual": ["-m", "resnets", *common, "--token-file", str(token)],
        "endless": ["-c", ENDLESS, *common],
    }
    started = {
        name: subprocess.Popen(
            [sys.executable, *words], cwd=ROOT,
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for name, words in commands.items()
    }  # fmt: skip
    yield started
    for server in started.values():
        server.kill()
        server.communicate()


def address_of(server):
    """The URL of a server process, once it accepts requests."""
    for line in server.stderr:
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise AssertionError("the server did not start")


def test_a_stop_finishes_accepted_requests(processes):
    server = processes["usual"]
    address = address_of(server)
    assert status(answer_to(address, request(picture()))) == 401
    parts = urlsplit(address)
    found, begun = [], threading.Barrier(9)
    body = picture(1, (2000, 2000))  # takes a while to decode

    def ask():
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        headers = {"Content-Type": "image/png", "Authorization": "Bearer sesame"}
        connection.request("POST", "/v1/predict", body, headers)
        begun.wait()
        found.append(connection.getresponse().status)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    time.sleep(0.1)
    server.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert found == [200] * 8
    out, err = server.communicate(timeout=20)
    assert server.returncode == 0
    assert "Traceback" not in err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["status"] for line in lines] == [401] + [200] * 8
    assert {"time", "id", "method", "route", "ms", "bytes"} < set(lines[0])


def test_a_second_signal_ends_at_once(processes):
    server = processes["endless"]
    address = address_of(server)
    with connect(address) as waiting, connect(address) as decoding:
        waiting.sendall(request(b"", 500))  # the server waits for the rest
        decoding.sendall(request(picture(1, (200, 200), "BMP")))
        time.sleep(0.3)
        server.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert server.poll() is None
        server.send_signal(signal.SIGINT)
        _, err = server.communicate(timeout=10)
    assert server.returncode == 130
    assert "stopped before all requests were finished" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("seconds", [0.3, 30.0])
def test_a_stop_has_a_time_limit(monkeypatch, seconds):
    monkeypatch.setattr(process, "STOP_GRACE", 0.9)

    async def app(scope, receive, send):
        await asyncio.sleep(seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    def ask():
        asked.append(connect(process._url(listener)))
        asked[0].sendall(GET + b"Connection: close\r\n\r\n")
        asyncio.get_running_loop().call_later(0.2, server.handle_exit, signal.SIGTERM, None)

    asked, listener = [], process._bind("127.0.0.1", 0)
    shared = SimpleNamespace(limits=Limits(timeout=0.1), stopping=False)
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    server = process._Server(config, shared, ask)
    start = time.perf_counter()
    server.run([listener])
    assert time.perf_counter() - start < 10
    assert shared.stopping
    assert server.force_exit == (seconds > 1)
    with asked[0]:
        assert (status(asked[0].recv(1000)) == 200) == (seconds < 1)


def test_only_a_failure_to_listen_is_reported_as_one(models, monkeypatch):
    with process._bind("127.0.0.1", 0) as other, monkeypatch.context() as change:
        # Bound as ours will be, it listens while we open models.
        def open_late(*arguments, **options):
            other.listen()
            return open_predictor(*arguments, **options)

        change.setattr(process, "open_predictor", open_late)
        port = other.getsockname()[1]
        options = process.ServerOptions([str(models[0])], "127.0.0.1", port, runtime="torch")
        with pytest.raises(UserError, match=rf"127.0.0.1:{port}: cannot listen on this address"):
            process.serve(options, "cpu", lambda where: None)

    def gone(address):
        raise BrokenPipeError("nobody reads")

    options = process.ServerOptions([str(models[0])], port=0, runtime="torch")
    with pytest.raises(BrokenPipeError, match="nobody reads"):
        process.serve(options, "cpu", gone)


def test_a_port_in_use_is_an_error_before_models_are_opened():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = process.ServerOptions(["no such model"], port=port)
        with pytest.raises(UserError, match=rf"127.0.0.1:{port}: cannot listen on this address"):
            process.serve(options, "cpu", lambda where: None)
