"""Malformed requests, made at random, and what a server does with them.

Each request begins as a valid one of some kind, in which a few things are wrong: its headers, its
framing, its form, its JSON, its base64, its URL, its image. Some are sent in pieces, too slowly, or
not to the end. The server must answer each with a fitting status, and stay as it was.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

from benchmarks import malformed, serving
from benchmarks.faults import Outcome, Report
from resnets.inference.image_inputs import SAMPLES

MODEL = "cifar-resnet20"
CONNECTIONS = 200
"""Open at the same time; most of the slow ones wait."""
SECONDS = 60.0
"""For all responses to a request; the server gives slow clients much less."""
MAX_GROWTH = 1.10
"""How many times the memory after a tenth of the requests the server may have after all."""
MAX_DESCRIPTORS = 8
"""How many more descriptors the server may have at the end."""
_ALLOWED_5XX = (501, 503, 504, 505)
"""Not implemented, busy, too slow, another version of HTTP: no faults of the server."""


@dataclass
class Request:
    """What a client sends.

    Args:
        kind: which generator made it.
        parts: bytes that are sent one after the other, with `pause` seconds between them.
        pause: see `parts`.
        leaves: whether the client resets the connection at the end instead of waiting.
    """

    kind: str
    parts: list[bytes]
    pause: float = 0.0
    leaves: bool = False


@dataclass
class Response:
    """What came back: the status, media type and body of each response."""

    statuses: list[int] = field(default_factory=list)
    kinds: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    seconds: float = 0.0


def run(count: int, seed: int, report: Report) -> Outcome:
    """Send `count` malformed requests to `resnets serve`."""
    image = (SAMPLES / "cat.png").read_bytes()
    lines: list[str] = []
    with serving.serving(MODEL, lines.append) as server:
        good = _good(server.address, image)
        first = max(1, count // 10)
        failures, statuses, slowest = _campaign(server.address, image, range(first), seed)
        memory, descriptors = server.megabytes(), server.descriptors()
        report(f"{first:,} requests, {memory:.0f} MB")
        more, others, slower = _campaign(server.address, image, range(first, count), seed)
        failures += more
        after, open_after = server.megabytes(), server.descriptors()
        if _good(server.address, image) != good:
            failures.append("a good request has another response than before")
    if after > MAX_GROWTH * memory:
        failures.append(f"memory grew from {memory:.0f} to {after:.0f} MB")
    if open_after > descriptors + MAX_DESCRIPTORS:
        failures.append(f"descriptors grew from {descriptors} to {open_after}")
    failures += [f"stderr: {line.rstrip()}" for line in lines[:20]]
    facts: dict[str, int | float] = {
        f"responses {status}": number for status, number in sorted((statuses + others).items())
    }
    facts |= {"MB after a tenth": memory, "MB after all": after}
    facts |= {"seconds for the slowest": round(max(slowest, slower), 1)}
    return Outcome("requests", count, facts, failures)


def _good(address: str, image: bytes) -> str:
    """The most probable class and its probability for a valid request."""
    post = malformed.post(image, "image/png")
    found = asyncio.run(send(address, Request("good", [post])))
    (best, *_) = json.loads(found.bodies[0])["top"]
    return f"{found.statuses} {best}"


def _campaign(
    address: str, image: bytes, numbers: range, seed: int
) -> tuple[list[str], Counter[int], float]:
    """Send requests; return what went wrong, the statuses, and the longest time."""
    failures: list[str] = []
    statuses: Counter[int] = Counter()
    slowest = 0.0

    async def one(number: int, connections: asyncio.Semaphore) -> None:
        nonlocal slowest
        request = make(random.Random(f"{seed} {number}"), image)
        async with connections:
            try:
                response = await send(address, request)
            except (OSError, httptools.HttpParserError) as error:
                failures.append(f"{number} ({request.kind}): {type(error).__name__}: {error}")
                return
        statuses.update(response.statuses)
        slowest = max(slowest, response.seconds)
        failures.extend(f"{number} ({request.kind}): {one}" for one in faults(request, response))

    async def every() -> None:
        connections = asyncio.Semaphore(CONNECTIONS)
        async with asyncio.TaskGroup() as group:
            for number in numbers:
                group.create_task(one(number, connections))

    asyncio.run(every())
    return failures, statuses, slowest


def faults(request: Request, response: Response) -> list[str]:
    """What is wrong with the responses to a request."""
    if request.leaves:
        return []
    if not response.statuses:
        return [f"no response within {SECONDS:g} s" if response.seconds >= SECONDS else "closed"]
    found = []
    for status, kind, body in zip(response.statuses, response.kinds, response.bodies, strict=True):
        if status >= 500 and status not in _ALLOWED_5XX:
            found.append(f"status {status}: {body[:200]!r}")
        elif status >= 400 and body and not _is_problem(status, kind, body):  # HEAD has no body
            found.append(f"status {status} without a problem document: {body[:200]!r}")
    return found


def _is_problem(status: int, kind: bytes, body: bytes) -> bool:
    return kind == b"application/problem+json" and json.loads(body)["status"] == status


class _Reader:
    """Collects responses, as callbacks of httptools' parser."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._kind, self._body = b"", b""
        self.parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self._kind, self._body = b"", b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._kind = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status != 100:
            self._response.statuses.append(status)
            self._response.kinds.append(self._kind)
            self._response.bodies.append(self._body)

    def end(self) -> None:
        """Count a response whose body the method HEAD has left out."""
        with contextlib.suppress(AttributeError):
            if not self._response.statuses and self.parser.get_status_code():
                self._response.statuses.append(self.parser.get_status_code())
                self._response.kinds.append(self._kind)
                self._response.bodies.append(b"")


async def send(address: str, request: Request) -> Response:
    """Send a request, and read until the server closes, or a response is followed by silence."""
    host, port = urlsplit(address).hostname or "", urlsplit(address).port or 80
    reader, writer = await asyncio.open_connection(host, port)
    response, start = Response(), time.perf_counter()
    parsed = _Reader(response)

    async def read() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                patience = 1.0 if response.statuses else SECONDS
                content = await asyncio.wait_for(reader.read(1 << 16), patience)
                if not content:
                    return
                parsed.parser.feed_data(content)

    reading = asyncio.create_task(read())
    try:
        for part in request.parts:
            writer.write(part)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            if request.pause and (await asyncio.wait([reading], timeout=request.pause))[0]:
                break
        if request.leaves:
            wire: socket.socket = writer.get_extra_info("socket")
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            with contextlib.suppress(TimeoutError):
                await reading
            parsed.end()
    finally:
        reading.cancel()
        writer.close()
    response.seconds = time.perf_counter() - start
    return response


def make(r: random.Random, image: bytes) -> Request:
    """A malformed request; all of it follows from the generator's state."""
    kind = r.choice(list(_KINDS))
    content = _KINDS[kind](r, image)
    if r.random() < 0.2:
        content = _mutated(r, content)
    request = Request(kind, [content])
    fate = r.random()
    if fate < 0.15:
        request.parts = _pieces(r, content, 20)
    elif fate < 0.20:
        request = Request(f"{kind}, left", _pieces(r, _start(r, content), 3), 0.01, leaves=True)
    elif fate < 0.23:
        request.parts = [_start(r, content)]
    elif fate < 0.25:
        request = Request(f"{kind}, slow", _pieces(r, content, 200), 0.2)
    return request


def _mutated(r: random.Random, content: bytes) -> bytes:
    """The content with a few bytes changed, left out or repeated."""
    for _ in range(r.randrange(1, 5)):
        at = r.randrange(len(content) + 1)
        drop = r.choice([0, 0, 1, 1, 2, 9])
        put = r.choice([b"", r.randbytes(r.randrange(1, 5)), content[at : at + 20], b"\r\n", b"\0"])
        content = content[:at] + put + content[at + drop :]
    return content


def _start(r: random.Random, content: bytes) -> bytes:
    return content[: r.randrange(1, max(2, len(content)))]


def _pieces(r: random.Random, content: bytes, most: int) -> list[bytes]:
    cuts = sorted(r.randrange(len(content) + 1) for _ in range(r.randrange(1, most)))
    ends = zip([0, *cuts], [*cuts, len(content)], strict=True)
    return [content[start:end] for start, end in ends]


_ODD = (
    b"", b" ", b"a" * 300, b"\xff\xfe", "caf\u00e9".encode(), b"0", b"-1", b"+5", b"0x10", b"1e9",
    b"99999999999999999999", b"chunked", b"gzip", b"identity", b"close", b"keep-alive", b"upgrade",
    b"h2c", b"websocket", b"100-continue", b"*", b"*/*", b"null", b"image/png", b"text/html",
    b"application/json; charset=utf-16", b"multipart/form-data", b"localhost:99999", b"evil.a",
    b"[::1", b"Bearer", b"Bearer \xe9", b"bytes=0-", b'"', b"%00", b"..", b"\t", b"a\r\n b",
    b"cross-site", b"\x00", b"{}", b"a,b;c=d",
)  # fmt: skip
_NAMES = (
    b"Content-Type", b"Content-Length", b"Transfer-Encoding", b"Content-Encoding", b"Expect",
    b"Host", b"Connection", b"Upgrade", b"Origin", b"Sec-Fetch-Site", b"Authorization",
    b"X-Request-Id", b"Range", b"If-None-Match", b"Accept", b"Accept-Encoding", b"Cookie",
    b"X-Forwarded-Host", b"Forwarded", b"TE", b"Trailer", b"HTTP2-Settings", b"", b"X Y", b"\xff",
    b"Access-Control-Request-Method", b"Content-Disposition",
)  # fmt: skip
_PATHS = (
    "/v1/predict", "/v1/predict/batch", "/v1/explain", "/v1/models", "/v1/samples", "/healthz",
    "/readyz", "/metrics", "/docs", "/openapi.json", "/", "/page/main.js", "/samples/0.png",
    "/favicon.ico",
)  # fmt: skip
_POSTS = _PATHS[:3]


def _request(
    body: bytes,
    headers: list[tuple[bytes, bytes]],
    path: str | bytes = "/v1/predict",
    method: bytes = b"POST",
    framed: bool = False,
) -> bytes:
    """A request; without `framed`, its length is added."""
    sent = [(b"Host", b"localhost"), (b"Connection", b"close"), *headers]
    if not framed:
        sent.append((b"Content-Length", str(len(body)).encode()))
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in sent)
    path = path if isinstance(path, bytes) else path.encode()
    return method + b" " + path + b" HTTP/1.1\r\n" + lines + b"\r\n" + body


def _typed(kind: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"Content-Type", kind)]


def _headers(r: random.Random, image: bytes) -> bytes:
    odd = [(r.choice(_NAMES), r.choice(_ODD)) for _ in range(r.randrange(1, 6))]
    headers = [*_typed(b"image/png"), *odd]
    r.shuffle(headers)
    return _request(image, headers, r.choice(_PATHS), r.choice([b"GET", b"HEAD", b"POST"]))


def _chunks(r: random.Random, image: bytes) -> bytes:
    body = b""
    for piece in _pieces(r, image, 6):
        size = len(piece) if r.random() < 0.8 else r.choice([0, 1, 10**6, len(piece) + 1])
        form = r.choice(
            [b"%x", b"%X", b"000%x", b"%x ", b"%x;a=b", b'%x;"', b"0x%x", b"-%x", b"%xg"]
        )
        body += (form if r.random() < 0.4 else b"%x") % size + b"\r\n" + piece
        body += b"\r\n" if r.random() < 0.9 else r.choice([b"", b"\n", b"\r", b"\r\n\r\n"])
    body += r.choice(
        [b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n", b"", b"0\n\n", b"00\r\n: \r\n\r\n"]
    )
    coding = r.choice([b"chunked"] * 6 + [b"Chunked", b"chunked, chunked", b"gzip, chunked", b"x"])
    headers = [*_typed(b"image/png"), (b"Transfer-Encoding", coding)]
    return _request(body, headers, r.choice(_POSTS), framed=True)


def _lengths(r: random.Random, image: bytes) -> bytes:
    wrong = [len(image) - 1, len(image) + 1, 0, -5, 10**12, 10**30, f"+{len(image)}", "1_0", "0x9"]
    sent = [(b"Content-Length", str(r.choice(wrong)).encode()) for _ in range(r.randrange(1, 3))]
    return _request(image, [*_typed(b"image/png"), *sent], r.choice(_POSTS), framed=True)


def _form(r: random.Random, image: bytes) -> bytes:
    edges = [b"edge", b"", b"-" * 70, b'"a b"', b"a" * 300, b"\xe9", b"e;f", b"*=x''y"]
    edge = r.choice(edges) if r.random() < 0.4 else b"edge"
    used = r.choice(edges) if r.random() < 0.1 else edge.strip(b'"')
    names = [b"image", b"image", b"images", b"model", b"\xff", b"", b"i\r\nX: y", b"a" * 5000]
    files = [b"; filename=x", b'; filename=""', b"; filename*=utf-8''%C3%A9", b"", b"; filename=\0"]
    body = b""
    for _ in range(r.choice([0, 1, 1, 1, 2, 9, 80])):
        head = b"Content-Disposition: form-data; name=" + r.choice(names) + r.choice(files)
        head = r.choice([head] * 6 + [b"", b"X", b"Content-Type: image/png", head.lower() * 2])
        part = r.choice([image, image, b"", b"words", r.randbytes(50), image[:99]])
        body += b"--" + used + b"\r\n" + head + b"\r\n\r\n" + part + b"\r\n"
    body += r.choice([b"--" + used + b"--\r\n", b"--" + used + b"--\r\n", b"", b"--" + used, b"--"])
    return _request(body, _typed(b"multipart/form-data; boundary=" + edge), r.choice(_POSTS))


def _json(r: random.Random, image: bytes) -> bytes:
    text = base64.b64encode(image).decode()
    value = _value(r, text, 3)
    if r.random() < 0.7:
        key = r.choice(["image", "image", "images", "Image", "model", "", "\ud800", "class"])
        value = {key: r.choice([text, [text], [text] * 3, value])}
    content = json.dumps(value).encode()
    shapes = (
        lambda: content.decode().encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content[:-1],
        lambda: content + content,
        lambda: content[:-1] + b', "image": "AAAA"}',
        lambda: b"[" * r.randrange(9, 3000) + content,
        lambda: b'{"image": NaN}',
        lambda: b'{"image": ' + b"9" * 6000 + b"}",
        lambda: content.replace(b'"', b"'"),
        lambda: b'{"image": "\\ud800\\u0000"}',
    )
    content = r.choice(shapes)() if r.random() < 0.4 else content
    return _request(content, _typed(b"application/json"), r.choice(_POSTS))


def _value(r: random.Random, text: str, depth: int) -> object:
    if depth and r.random() < 0.4:
        inner = [_value(r, text, depth - 1) for _ in range(r.randrange(4))]
        return inner if r.random() < 0.5 else {f"k{n}": one for n, one in enumerate(inner)}
    return r.choice([None, True, -0.0, 10**400, 1e308, "", "\0", "\ud800", text, [], {}])


def _base64(r: random.Random, image: bytes) -> bytes:
    text = r.choice([base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes])(image)
    starts = [
        b"",
        b"data:image/png;base64,",
        b"data:,",
        b"data:;base64",
        b"DATA:;BASE64,",
        b"http://",
    ]
    text = r.choice(starts) + (_mutated(r, text) if r.random() < 0.7 else text)
    text += r.choice([b"", b"=", b"====", b"\\n", b"\n", b" "])
    body = b'{"image": "' + text + b'"}'
    if r.random() < 0.3:
        body = b'{"images": ["' + text + b'", "' + text[::2] + b'"]}'
    return _request(body, _typed(b"application/json"), r.choice(_POSTS))


def _url(r: random.Random, image: bytes) -> bytes:
    methods = [
        b"GET",
        b"POST",
        b"HEAD",
        b"OPTIONS",
        b"PUT",
        b"DELETE",
        b"TRACE",
        b"CONNECT",
        b"PRI",
    ]
    ends = [
        b"", b"/", b"//", b"/..", b"/%2e%2e/%2e%2e/etc/passwd", b"%00", b"%zz", b"%", b"\xff",
        b"#a", b"%ff%fe", b";a=b", b"?", b"?model=tiny", b"?model=%00", b"?model=%ff", b"?top=0",
        b"?top=1e3", b"?top=" + b"9" * 5000, b"?top=5&top=6", b"?class=3", b"?class=-1",
        b"?Model=it",
        b"?a=b&=&&", b"?model=it&top=1", b"?model=" + b"a" * 9000, b"?top=\xd9\xa3",
        b"?%6d%6f%64%65%6c=it",
    ]  # fmt: skip
    start = r.choice([b""] * 8 + [b"http://evil.example", b"http://", b"//", b"*", b"localhost:80"])
    path = start + r.choice(_PATHS).encode() + r.choice(ends)
    return _request(image, _typed(b"image/png"), path, r.choice(methods + [b"POST"] * 5))


def _image(r: random.Random, image: bytes) -> bytes:
    return _request(_mutated(r, image), _typed(b"image/*"), r.choice(_POSTS))


def _pipeline(r: random.Random, image: bytes) -> bytes:
    upgrade = [(b"Connection", b"Upgrade"), (b"Upgrade", b"h2c")]
    content = b""
    for _ in range(r.randrange(2, 24)):
        one = _request(image, _typed(b"image/png") + (upgrade if r.random() < 0.3 else []))
        content += one.replace(b"Connection: close\r\n", b"")
    return content


_KINDS: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "headers": _headers,
    "chunks": _chunks,
    "lengths": _lengths,
    "form": _form,
    "JSON": _json,
    "base64": _base64,
    "URL": _url,
    "image": _image,
    "pipeline": _pipeline,
}
