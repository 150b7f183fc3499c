"""A real server: bad connections, a graceful stop, mistakes of whoever starts it."""

import http.client
import json
import signal
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

from resnets.deploy.server import running
from resnets.deploy.server.limits import Limits
from tests.deploy.server.conftest import picture


def connect(address):
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def answer_to(address, *parts, pause=0.0):
    """All that the server says to these bytes, until it closes or falls silent."""
    with connect(address) as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
            time.sleep(pause)
        said = b""
        connection.settimeout(5)
        try:
            while part := connection.recv(65536):
                said += part
        except OSError:
            pass
    return said


def status(said):
    return int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/1.1 ") else None


@pytest.fixture(scope="module")
def address(models):
    """A server in a thread of this process, with little patience."""
    found, started = [], threading.Event()

    def ready(where):
        found.append(where)
        started.set()

    options = running.Options(
        [f"tiny={models[0]}"], port=0, runtime="torch", precision="fp32",
        limits=Limits(sending=1.0, bytes=1_000_000),
    )  # fmt: skip
    import torch

    thread = threading.Thread(
        target=running.serve, args=(options, torch.device("cpu"), ready), daemon=True
    )
    thread.start()
    assert started.wait(60)
    return found[0]


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


def request(content, length=None, kind=b"application/octet-stream"):
    size = len(content) if length is None else length
    return HEAD + b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, size) + content


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"nonsense\r\n\r\n"], 400),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], 400),  # TLS to a port without
        ([b"GET / HTTP/9.9\r\n\r\n"], 400),
        ([HEAD + b"Content-Length: -5\r\n\r\n"], 400),
        ([HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"], 400),
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n"], 400),
        ([HEAD + b"X: " + b"a" * 200_000 + b"\r\n\r\n"], 431),
        ([HEAD] + [b"X: " + b"a" * 3000 + b"\r\n"] * 20 + [b"\r\n"], 431),
        ([b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"], 431),
        ([request(b"", 10**15)], 413),
        ([request(b"x" * 100, 5000)], 408),  # the rest never comes
        ([HEAD + b"Transfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\n5\r\nabc"], 408),
        ([HEAD], 408),  # nor does the end of the headers
        ([HEAD + b"Transfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\n"]
         + [b"40000\r\n" + b"x" * 0x40000 + b"\r\n"] * 8, 413),
        ([request(b"not an image")], 422),
        ([request(picture())], 200),
    ],
)  # fmt: skip
def test_connections_get_a_status_whatever_they_send(address, parts, expected):
    said = answer_to(address, *parts)
    assert status(said) == expected
    if expected != 200:
        assert b"application/problem+json" in said
        document = json.loads(said.split(b"\r\n\r\n", 1)[1])
        assert document["status"] == expected


def test_a_sender_that_dribbles_is_cut_off(address):
    start = time.perf_counter()
    said = answer_to(address, *[bytes([byte]) for byte in HEAD[:40]], pause=0.1)
    assert status(said) == 408
    assert time.perf_counter() - start < 10


def test_idle_connections_end_and_take_nothing(address):
    idle = [connect(address) for _ in range(50)]
    assert status(answer_to(address, request(picture()))) == 200
    for connection in idle:
        connection.settimeout(10)
        assert connection.recv(1) == b""
        connection.close()


def test_a_connection_is_kept_for_many_requests(address):
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    for seed in range(5):
        body = picture(seed)
        connection.request("POST", "/v1/predict", body, {"Content-Type": "image/png"})
        response = connection.getresponse()
        assert (response.status, bool(json.loads(response.read())["top"])) == (200, True)
        connection.request("POST", "/v1/predict", b"bad", {"Content-Type": "image/png"})
        response = connection.getresponse()
        assert (response.status, response.read()[:1]) == (422, b"{")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_was_taken(process, models, sign):
    server, address = process(models[0], "--runtime", "torch", "--log", "json")
    parts = urlsplit(address)
    found, begun = [], threading.Barrier(9)

    def ask():
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
        body = picture(1, (2000, 2000))  # takes a while to decode
        connection.request("POST", "/v1/predict", body, {"Content-Type": "image/png"})
        begun.wait()
        found.append(connection.getresponse().status)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    time.sleep(0.1)
    server.send_signal(sign)
    for thread in threads:
        thread.join()
    assert found == [200] * 8
    out, err = server.communicate(timeout=20)
    assert server.returncode == 0
    assert "Traceback" not in err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["status"] for line in lines] == [200] * 8
    assert {"time", "id", "method", "route", "ms", "bytes"} < set(lines[0])


def test_the_token_comes_from_a_file_or_the_environment(process, models, tmp_path):
    (tmp_path / "token").write_text("sesame\n")
    _, address = process(models[0], "--runtime", "torch", "--token-file", tmp_path / "token")
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    assert status(answer_to(address, head + b"\r\n")) == 401
    assert status(answer_to(address, head + b"Authorization: Bearer sesame\r\n\r\n")) == 200
