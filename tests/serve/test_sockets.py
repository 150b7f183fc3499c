"""A real server: what bad connections get."""

import asyncio
import http.client
import io
import json
import threading
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from resnets.serve import connections, server
from resnets.serve.limits import Limits
from tests.serve.conftest import picture
from tests.serve.test_routes import Client
from tests.serve.wire import GET, HEAD, answer_to, connect, request, status


@pytest.fixture(scope="module")
def log():
    return io.StringIO()


@pytest.fixture(scope="module")
def address(models, log):
    """A server in a thread of this process, with a short time limit for clients."""
    found, started = [], threading.Event()

    def ready(where):
        found.append(where)
        started.set()

    options = server.ServerOptions(
        [f"tiny={models[0]}"], port=0, runtime="torch", precision="fp32",
        limits=Limits(client_timeout=1.0, bytes=1_000_000), log=log,
    )  # fmt: skip

    thread = threading.Thread(target=server.serve, args=(options, "cpu", ready), daemon=True)
    thread.start()
    assert started.wait(60)
    return found[0]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"nonsense\r\n\r\n"], 400),
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], 400),  # TLS to a port without
        ([b"GET / HTTP/9.9\r\n\r\n"], 400),
        ([b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n"], 505),
        ([b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n"], 505),
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


def test_headers_sent_byte_by_byte_end_at_the_time_limit(address, monkeypatch):
    monkeypatch.setattr(connections, "DRAIN_SECONDS", 0.3)
    start = time.perf_counter()
    said = answer_to(address, *[bytes([byte]) for byte in HEAD[:40]], pause=0.1)
    assert status(said) == 408
    assert time.perf_counter() - start < 10


def test_idle_connections_are_closed_and_do_not_block_others(address):
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


def test_responses_keep_their_order_and_a_rejection_comes_last(address):
    first = request(picture()).replace(b"Connection: close\r\n", b"")
    said = answer_to(address, first + GET + b"\r\n" + b"nonsense\r\n\r\n")
    places = [said.find(words) for words in (b'"top"', b'{"status":"ok"}', b"400 Bad Request")]
    assert -1 < places[0] < places[1] < places[2]
    assert said.count(b"HTTP/1.1 ") == 3


def test_pipelines_are_short(address):
    said = answer_to(address, *[(GET + b"\r\n") * 2000])
    assert b"HTTP/1.1 503 Service Unavailable" in said
    assert 1 <= said.count(b"HTTP/1.1 200") <= 20


@pytest.mark.parametrize(
    "after",
    [
        b"0\r\n" + b"X: " + b"a" * 200_000,  # a trailer
        b"1;" + b"a" * 200_000,  # an extension of a chunk
    ],
)
def test_trailers_and_chunk_extensions_are_bounded(address, after):
    head = HEAD + b"Transfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\n"
    assert status(answer_to(address, head + b"3\r\nabc\r\n" + after)) == 431


def test_the_log_has_the_status_of_a_malformed_body(address, log):
    kind = b"Transfer-Encoding: chunked\r\nContent-Type: image/png\r\nX-Request-Id: broken\r\n\r\n"
    said = answer_to(address, HEAD + kind + b"3\r\nabc\r\n", b"ZZ\r\n", pause=0.1)
    assert status(said) == 400
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    (line,) = [line for line in lines if line["id"] == "broken"]
    assert (line["status"], line["route"]) == (400, "/v1/predict")


def test_a_refused_body_is_not_read_to_its_end(address):
    """The rest of it is dropped for a while, so that the client can read why."""
    head = HEAD.replace(b"Connection: close\r\n", b"") + b"Content-Length: 900000\r\n"
    start = time.perf_counter()
    said = answer_to(address, head + b"Content-Type: text/plain\r\n\r\n", *[b"x" * 90_000] * 9)
    assert status(said) == 415
    assert b"connection: close" in said.lower()
    assert time.perf_counter() - start < 5


def form(body, boundary=b"edge"):
    return request(body, kind=b"multipart/form-data; boundary=" + boundary)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (form(b"--eage\r\n\r\n"), 400),
        (form(b"--edge\r\nX\ry: z\r\n\r\nabc\r\n--edge--\r\n"), 400),
        (form(b"--edge\r\n\xff: z\r\n\r\nabc\r\n--edge--\r\n"), 400),
        (form(b"--edge--", b"*=x''y"), 400),
    ],
)
def test_what_once_failed_gets_a_status_and_no_words_on_stderr(address, caplog, sent, expected):
    """From the campaign of benchmarks/faults/requests.py; other cases are tests of their own."""
    assert status(answer_to(address, sent)) == expected
    assert caplog.records == []


class Wire(asyncio.Transport):
    """A connection whose other end reads nothing."""

    def __init__(self):
        super().__init__()
        self.closed, self.aborted, self.said = False, False, b""

    def write(self, data):
        if self.closed:
            raise RuntimeError("the handler is closed")  # as uvloop does
        self.said += data

    def get_write_buffer_size(self):
        return len(self.said)

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def abort(self):
        self.aborted = True

    def write_eof(self):
        pass

    def resume_reading(self):
        pass


@pytest.mark.parametrize("way", ["full", "closing", "refused"])
def test_connections_of_clients_that_do_not_read_are_aborted(way, monkeypatch):
    monkeypatch.setattr(connections, "DRAIN_SECONDS", 0.05)

    async def run():
        made = connections.limited_protocol(Limits(client_timeout=0.05), refused := [].append)
        connection, wire = made(uvicorn.Config(lambda: None), ServerState(), {}), Wire()
        connection.connection_made(wire)
        if way == "full":
            connection.pause_writing()
            connection.resume_writing()
            connection.pause_writing()
        elif way == "closing":
            wire.write(b"an answer")
            connection.cycle = SimpleNamespace(more_body=False, response_complete=True)
            connection.close()
        else:
            connection.data_received(b"nonsense\r\n\r\n")
            assert refused.__self__ == [400]
        assert not wire.aborted
        await asyncio.sleep(0.15)
        assert wire.aborted

    asyncio.run(run())


def test_a_response_to_a_client_that_has_just_left_is_dropped():
    async def run():
        made = connections.limited_protocol(Limits(), print)
        connection, wire = made(uvicorn.Config(lambda: None), ServerState(), {}), Wire()
        connection.connection_made(wire)
        transport = connections._ClosingTransport(connection)
        transport.write(b"one")
        wire.close()
        transport.write(b"two")
        assert wire.said == b"one"
        connection.connection_lost(None)

    asyncio.run(run())


def test_other_host_names_are_refused(address):
    for host, expected in ((b"evil.example", 421), (b"127.0.0.1:1", 200), (b"[::1]:80", 200)):
        head = b"GET /docs HTTP/1.1\r\nConnection: close\r\nHost: " + host
        assert status(answer_to(address, head + b"\r\n\r\n")) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"http://evil.example/docs", 421),
        (b"HTTP://localhost@evil.example:80/docs", 421),
        (b"http://127.0.0.1:1/docs", 200),
        (b"http://[::1]/docs", 200),
        (b"http://evil.example/healthz", 200),
        (b"/docs?http://evil.example/", 200),
    ],
)
def test_the_host_of_a_whole_url_counts_instead_of_the_header(address, target, expected):
    for host in (b"localhost", b"evil.example"):
        if not target.startswith(b"/") or host == b"localhost":
            head = b"GET %s HTTP/1.1\r\nConnection: close\r\nHost: %s\r\n\r\n" % (target, host)
            assert status(answer_to(address, head)) == expected


@pytest.mark.parametrize(
    ("host", "names", "expected"),
    [
        ("127.0.0.1", [], 200),
        ("127.0.0.1", ["a.example", "b.example"], 200),  # only this machine can send it
        ("0.0.0.0", ["a.example"], 200),
        ("0.0.0.0", ["a.example", "b.example"], 400),
        ("0.0.0.0", [], 200),
    ],
)
def test_http_1_0_needs_no_host_where_it_is_clear_who_is_meant(models, host, names, expected):
    options = server.ServerOptions([], host=host, port=0, hosts=names)
    with server._bind(host, 0) as listener:
        found = server._names(listener, options)
    client = Client(models[:1], names=found)
    transport = httpx.ASGITransport(client.app)

    async def run():
        async with httpx.AsyncClient(transport=transport, base_url="http://a.example") as caller:
            request = caller.build_request("GET", "/docs")
            del request.headers["host"]
            return await caller.send(request)

    answer = asyncio.run(run())
    assert answer.status_code == expected
    assert expected == 200 or answer.json()["detail"] == "no Host header"


def test_http_1_0_without_host_is_answered(address):
    assert status(answer_to(address, b"GET /docs HTTP/1.0\r\n\r\n")) == 200


@pytest.mark.parametrize("path", [b"/healthz", b"/readyz", b"/metrics"])
def test_probes_are_answered_under_any_host_name(address, path):
    head = b"GET " + path + b" HTTP/1.1\r\nConnection: close\r\nHost: 10.1.2.3:8000\r\n\r\n"
    assert status(answer_to(address, head)) == 200
    assert status(answer_to(address, b"GET " + path + b" HTTP/1.0\r\n\r\n")) == 200


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"Connection: close\r\n", 400),  # HTTP/1.1 requires a Host
        (b"Host: localhost\r\nHost: localhost\r\n", 400),
        (b"Host: localhost\r\nhost: evil.example\r\n", 400),
        (b"Host: localhost\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        (b"Host: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
    ],
)
def test_headers_that_could_be_read_in_two_ways_are_refused(address, lines, expected):
    for path in (b"/healthz", b"/docs"):
        said = answer_to(address, b"GET " + path + b" HTTP/1.1\r\n" + lines + b"\r\n")
        assert status(said) == expected
        assert b"application/problem+json" in said


def test_a_rejection_after_a_good_request_can_be_read(address):
    """The body that follows is dropped first: a reset connection would lose the response."""
    body = b"x" * 900_000
    twice = HEAD + b"Host: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
    said = answer_to(address, GET + b"\r\n", twice, *[body[:90_000]] * 10, pause=0.05)
    assert said.count(b"HTTP/1.1 200") == 1
    assert said.count(b"HTTP/1.1 400") == 1


def test_a_request_that_offers_http2_is_answered_in_http1(address):
    """As curl --http2 and Java's client send it; the next one on the connection works too."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    body = picture()
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    last = head + b"Connection: close\r\n" + length + body
    whole = head + offer + length + body
    in_chunks = head + offer + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)
    for first in (
        [whole + last],
        [whole[:60], whole[60:200], whole[200:], last],
        [in_chunks + body, b"\r\n0\r\n\r\n", last],
        [whole, whole, GET + offer + b"\r\n", last],
    ):
        said = answer_to(address, *first, pause=0.05)
        assert said.count(b"HTTP/1.1 200") == 2 + (len(first) == 4 and first[1] is whole) * 2
        assert said.count(b"HTTP/1.1 ") == said.count(b"HTTP/1.1 200")


def test_the_number_of_connections_is_bounded(models):

    found, started = [], threading.Event()
    options = server.ServerOptions(
        [f"tiny={models[0]}"], port=0, runtime="torch", precision="fp32",
        limits=Limits(client_timeout=5.0, connections=20),
    )  # fmt: skip
    threading.Thread(
        target=server.serve,
        args=(options, "cpu", lambda where: (found.append(where), started.set())),
        daemon=True,
    ).start()
    assert started.wait(60)
    held = [connect(found[0]) for _ in range(20)]
    said = answer_to(found[0], GET + b"\r\n")
    assert status(said) == 503
    assert b"Retry-After" in said
    for connection in held:
        connection.close()
    time.sleep(0.2)
    assert status(answer_to(found[0], GET + b"Connection: close\r\n\r\n")) == 200
