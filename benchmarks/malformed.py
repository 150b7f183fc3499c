"""Malformed requests, and the responses of a server to them."""

from __future__ import annotations

import asyncio
import io
import json
import random
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks.measure import Report

CONNECTIONS = 32
"""Open at the same time."""
SLOW_CONNECTIONS = 400
"""Open at the same time to send requests slowly."""
BYTE = b"\0"
LEFT, HUNG, CLOSED = 0, -1, -2
OUTCOMES = {
    LEFT: "the client left",
    HUNG: "no answer in a minute",
    CLOSED: "no connection, or closed without an answer",
}
"""What happens instead of a response; keys take the place of a status."""
Parts = Sequence[bytes]
"""The parts of a request, sent with pauses between them; an empty one resets the connection."""
Kind = Callable[[random.Random], Parts]


def head(lines: str = "", path: str = "/v1/predict", method: str = "POST") -> bytes:
    """Request line and headers, without the empty line that ends them."""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}".encode()


def post(body: bytes, kind: str = "image/jpeg", length: int | None = None) -> bytes:
    """A request with a body."""
    size = len(body) if length is None else length
    return head(f"Content-Type: {kind}\r\nContent-Length: {size}\r\n\r\n") + body


def png(width: int, height: int) -> bytes:
    """A white PNG of any size, with a few bytes for each row of pixels."""
    packer = zlib.compressobj(9)
    line = BYTE + b"\xff" * ((width + 7) // 8)
    packed = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def many_scans(scans: int) -> bytes:
    """A progressive JPEG with this many scans."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * scans + content[-2:]


def many_tiles(tiles: int) -> bytes:
    """A TIFF with this many tiles, of one pixel each."""
    tags = {256: 1000, 257: tiles // 1000, 258: 8, 259: 1, 262: 1, 277: 1, 322: 1, 323: 1}
    offsets = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
    entries += [struct.pack("<HHII", tag, 4, tiles, offsets) for tag in (324, 325)]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 8) * tiles


def form(content: bytes) -> bytes:
    """A form with a file, as the body of a request with the boundary `edge`."""
    disposition = b'Content-Disposition: form-data; name="image"; filename="it"\r\n\r\n'
    return b"--edge\r\n" + disposition + content + b"\r\n--edge--\r\n"


def kinds(image: bytes) -> dict[str, Kind]:
    """The kinds of malformed requests, by name.

    Args:
        image: the content of a valid image file, from which some are made.
    """
    bomb, tiles, scans = png(20_000, 20_000), many_tiles(200_000), many_scans(5000)
    boundary = "multipart/form-data; boundary=edge"
    lines = "Transfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\n"
    json_kind = "application/json"

    def cut(content: bytes, r: random.Random) -> bytes:
        return content[: r.randrange(1, max(2, len(content) // 2))]

    return {
        "truncated image": lambda r: [post(cut(image, r))],
        "noise as an image": lambda r: [post(r.randbytes(r.randrange(1, 5000)))],
        "empty body": lambda r: [post(b"")],
        "wrong type": lambda r: [post(image, r.choice(["text/plain", "video/mp4", "", "image"]))],
        "broken JSON": lambda r: [post(b'{"image": "' + r.randbytes(99), json_kind)],
        "JSON without base64": lambda r: [post(b'{"image": "file:///etc/hosts"}', json_kind)],
        "JSON of small values": lambda r: [post(b"[" + b"{}," * 100_000, json_kind)],
        "deep JSON": lambda r: [post(b"[" * 200_000, json_kind)],
        "truncated form": lambda r: [post(form(image)[: r.randrange(1, 200)], boundary)],
        "form without boundary": lambda r: [post(form(image), "multipart/form-data")],
        "PNG of 400 megapixels": lambda r: [post(bomb)],
        "TIFF of 200,000 tiles": lambda r: [post(tiles)],
        "JPEG of 5,000 scans": lambda r: [post(scans)],
        "huge header": lambda r: [head(f"X: {'a' * r.randrange(40_000, 200_000)}\r\n\r\n")],
        "many headers": lambda r: [head("X: y\r\n" * 20_000 + "\r\n")],
        "huge address": lambda r: [head("\r\n", "/" + "a" * 100_000)],
        "huge declared body": lambda r: [post(b"", length=10 ** r.randrange(9, 15))],
        "not HTTP": lambda r: [r.randbytes(r.randrange(20, 500)) + b"\r\n\r\n"],
        "TLS": lambda r: [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + r.randbytes(200)],
        "two lengths": lambda r: [head("Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef")],
        "length and chunks": lambda r: [head("Content-Length: 5\r\n" + lines + "0\r\n\r\nab")],
        "bad chunks": lambda r: [head(lines + "zz\r\n")],
        "unknown path": lambda r: [head("\r\n", f"/{r.randrange(10**6)}/../etc/hosts", "GET")],
        "unknown method": lambda r: [head("Content-Length: 0\r\n\r\n", method="DELETE")],
        "bad query": lambda r: [head("Content-Length: 0\r\n\r\n", "/v1/predict?top=-1")],
        "unknown model": lambda r: [head("Content-Length: 0\r\n\r\n", "/v1/predict?model=../x")],
        "foreign host": lambda r: [head("\r\n", "/", "GET").replace(b"localhost", b"evil.example")],
        "client that leaves": lambda r: [post(cut(image, r), length=len(image)), b""],
        "slow headers": lambda r: [head()[:40], *[b"a"] * 1000],
        "slow body": lambda r: [post(image[:100], length=len(image)), *[BYTE] * 1000],
    }


def run(address: str, image: bytes, count: int, report: Report) -> dict[str, Counter[int]]:
    """Send `count` malformed requests; count the statuses, or `OUTCOMES`, for each kind."""
    host, port = urlsplit(address).hostname or "", urlsplit(address).port or 80
    makers = kinds(image)
    found: dict[str, Counter[int]] = {name: Counter() for name in makers}

    async def one(name: str, number: int, connections: asyncio.Semaphore) -> None:
        async with connections:
            parts = makers[name](random.Random(f"{name} {number}"))
            found[name][await _status(host, port, parts)] += 1

    async def every() -> None:
        quick, slow = asyncio.Semaphore(CONNECTIONS), asyncio.Semaphore(SLOW_CONNECTIONS)
        names = list(makers)
        turns = [(names[number % len(names)], number) for number in range(count)]
        async with asyncio.TaskGroup() as group:
            for name, number in turns:
                connections = slow if name.startswith("slow") else quick
                group.create_task(one(name, number, connections))

    asyncio.run(every())
    report(json.dumps({name: dict(statuses) for name, statuses in found.items()}))
    return found


async def _status(host: str, port: int, parts: Parts) -> int:
    """Send a request; return the status of the response, or one of `OUTCOMES`."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return CLOSED
    answer = asyncio.create_task(_answer(reader))
    try:
        for part in parts:
            if not part:
                _reset(writer)
                return LEFT
            writer.write(part)
            await writer.drain()
            if len(parts) > 1 and (await asyncio.wait([answer], timeout=0.2))[0]:
                break
        return await asyncio.wait_for(answer, 60)
    except TimeoutError:
        return HUNG
    except OSError:
        return await answer if answer.done() and answer.exception() is None else CLOSED
    finally:
        answer.cancel()
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Make the socket reset the connection when it is closed."""
    wire: socket.socket = writer.get_extra_info("socket")
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _answer(reader: asyncio.StreamReader) -> int:
    line = await reader.readline()
    await reader.read()
    return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else CLOSED


def good(address: str, image: bytes) -> int:
    """The status of the response to a valid request."""
    host, port = urlsplit(address).hostname or "", urlsplit(address).port or 80
    return asyncio.run(_status(host, port, [post(image, "application/octet-stream")]))
