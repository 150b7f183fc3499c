"""Requests as bytes over a socket."""

import socket
import time
from urllib.parse import urlsplit

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


def request(content, length=None, kind=b"application/octet-stream"):
    size = len(content) if length is None else length
    return HEAD + b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, size) + content


def connect(address):
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname, parts.port), timeout=10)


def answer_to(address, *parts, pause=0.0):
    """All that the server sends in response to these bytes, until it closes or pauses."""
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
