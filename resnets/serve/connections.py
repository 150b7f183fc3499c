"""HTTP connections with limits of time and size.

uvicorn and httptools limit neither the time that a client takes nor the bytes of its headers, and
a server that is reached directly must not depend on a proxy for that. `LimitedProtocol` therefore
overrides members of uvicorn's protocol which uvicorn does not document as public. pyproject.toml
bounds uvicorn's version, and `tests/serve/test_uvicorn.py` names each member that is needed.

It also offers no other protocol: of a request with an `Upgrade` header (curl and Java send one for
HTTP/2), httptools would drop the body, so such a request is parsed once more without the header.
Where the request line has a whole URL, its host stands in the place of the `Host` header.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from resnets.serve.limits import Limits
from resnets.serve.problems import MEDIA_TYPE, Problem, busy

DRAIN_SECONDS = 2.0
"""How long the rest of a rejected request is read and dropped before the connection ends.

A connection closed with unread bytes is reset, and the client may never see the response.
"""


_AUTHORITY = re.compile(rb"[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?([^/?#@]*)", re.IGNORECASE)
"""Host and port of a request line with a whole URL."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with limits for headers, slow clients and pipelines.

    The application limits bodies; what it rejects itself, it answers with a problem document.
    """

    limits = Limits()
    on_rejected: Callable[[int], None] = staticmethod(lambda status: None)
    """Called with the status of each rejection that does not reach the application."""
    _header_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None  # while the client does not read
    _bytes_outside_body = 0  # since the last byte of a body
    _in_headers = False
    _closing = False
    _final_response: bytes | None = None  # a rejection, sent after the responses before it
    _head_without_upgrade: bytes | None = None  # of a request that asks for another protocol

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._reject(busy("too many connections"))
            if len(self.connections) > 2 * self.limits.connections:
                transport.abort()
        else:
            self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_timer()
        self._stop_write_timer()
        super().connection_lost(exc)
        self.pipeline.clear()
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self._ignores_input():
            return
        self._bytes_outside_body += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._bytes_outside_body > self.limits.headers:
            self._reject(self._headers_too_large())
        if self._header_timer is None and self._is_idle() and not self._ignores_input():
            self._start_header_timer()  # after empty lines between requests

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                head, self._head_without_upgrade = self._head_without_upgrade, None
                data = b"" if head is None else head + data[upgrade.args[0] :]
            except HttpParserError:
                self.send_400_response("")
                return

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._bytes_outside_body = 0
        if not self._ignores_input():
            self._start_header_timer()

    def on_headers_complete(self) -> None:
        self._stop_header_timer()
        self._bytes_outside_body = 0
        if self._ignores_input():
            return
        problem = self._problem_of_headers()
        if problem is not None:
            self._reject(problem)
        elif self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._head_without_upgrade = self._head()
        else:
            self._in_headers = False
            self._take_host_of_url()
            super().on_headers_complete()
            cycle = self.cycle
            cycle.transport = _ClosingTransport(self)  # type: ignore[assignment]
            self.scope["has_unread_body"] = lambda: cycle.more_body  # type: ignore[typeddict-unknown-key]

    def on_body(self, body: bytes) -> None:
        self._bytes_outside_body = 0
        if not self._ignores_input():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._ignores_input() and self._head_without_upgrade is None:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._closing:
            self.pipeline.clear()
            return
        has_unread_body = self.cycle.more_body and not self.pipeline
        super().on_response_complete()
        if self._final_response is not None and self._is_idle():
            self.transport.write(self._final_response)
            self.close()
        elif has_unread_body and not self._in_headers:
            self.close()

    def close(self) -> None:
        """Close the connection once the client has had time to read its response."""
        self._stop_header_timer()
        self._unset_keepalive_if_required()
        loop = asyncio.get_running_loop()
        transport = self.transport
        if self._closing or transport.is_closing():
            return
        self._closing = True
        if self._in_headers or self.cycle is None or self.cycle.more_body:
            transport.write_eof()
            self.flow.resume_reading()
            loop.call_later(DRAIN_SECONDS, transport.abort)
        else:
            transport.close()
            if transport.get_write_buffer_size():
                loop.call_later(self.limits.client_timeout, transport.abort)

    def send_400_response(self, msg: str) -> None:
        self._reject(Problem(400, "the request is not valid HTTP/1.1"))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            loop = asyncio.get_running_loop()
            timeout = self.limits.client_timeout
            self._write_timer = loop.call_later(timeout, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self.close()

    def _ignores_input(self) -> bool:
        return self._closing or self._final_response is not None

    def _is_idle(self) -> bool:
        """Whether every request has its response."""
        return self.cycle is None or self.cycle.response_complete

    def _start_header_timer(self) -> None:
        self._stop_header_timer()
        loop = asyncio.get_running_loop()
        self._header_timer = loop.call_later(self.limits.client_timeout, self._headers_timed_out)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _headers_timed_out(self) -> None:
        self._header_timer = None
        if self._in_headers:
            self._reject(Problem(408, "the headers came too slowly"))
        else:  # no request has begun
            self.close()

    def _take_host_of_url(self) -> None:
        """Put the host of a whole URL in the place of the `Host` header (RFC 9112, 3.2.2)."""
        if found := _AUTHORITY.match(self.url):
            others = [(name, value) for name, value in self.headers if name != b"host"]
            self.headers[:] = [(b"host", found[1]), *others]  # the scope has the same list

    def _problem_of_headers(self) -> Problem | None:
        """Why a request whose headers have come is refused before the application sees it."""
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            return Problem(505, f"HTTP/{version} is not supported", "use HTTP/1.1")
        size = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
        if size > self.limits.headers:
            return self._headers_too_large()
        if len(self.pipeline) >= self.limits.pipeline:
            return busy(f"{len(self.pipeline)} requests wait on this connection")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            return Problem(400, f"{hosts or 'no'} Host headers", "send one")
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
            return Problem(501, "only the transfer encoding chunked is supported")
        return None

    def _head(self) -> bytes:
        """The request line and headers, without those that ask for another protocol."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        upgrade = (b"upgrade", b"http2-settings")
        lines += [name + b": " + value for name, value in self.headers if name not in upgrade]
        return b"\r\n".join([*lines, b"", b""])

    def _headers_too_large(self) -> Problem:
        return Problem(431, f"more than {self.limits.headers:,} bytes of headers")

    def _reject(self, problem: Problem) -> None:
        """Send a problem document after the responses to earlier requests, and close."""
        self._stop_header_timer()
        if self._ignores_input() or self.transport.is_closing():
            return
        response = _response(problem)
        if self._is_idle():
            self.on_rejected(problem.status)
            self.transport.write(response)
            self.close()
        elif self._in_headers or not self.cycle.more_body:  # an earlier request has no response yet
            self.on_rejected(problem.status)
            self._final_response = response
            self.flow.pause_reading()
        else:  # the fault is in the body of the current request
            is_only_request = not self.pipeline and not self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if is_only_request:
                self.cycle.scope["rejected"] = problem.status  # type: ignore[typeddict-unknown-key]
                self.transport.write(response)
            self.close()


class _ClosingTransport:
    """The transport of a response: `close` lets the client read the response first."""

    def __init__(self, protocol: LimitedProtocol) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        if not self.is_closing():  # uvloop raises an error for a client that has just left
            self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def close(self) -> None:
        self._protocol.close()


def _response(problem: Problem) -> bytes:
    body = json.dumps(problem.as_dict()).encode()
    fields = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), "connection": "close"}
    lines = [f"{name}: {value}" for name, value in (fields | problem.headers).items()]
    status = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"
    return "\r\n".join([status, *lines, "", ""]).encode() + body


def limited_protocol(limits: Limits, on_rejected: Callable[[int], None]) -> type[LimitedProtocol]:
    """A class of connections with these limits.

    Args:
        limits: of size, time and number.
        on_rejected: called with the status of each rejection that does not reach the application.
    """
    members = {"limits": limits, "on_rejected": staticmethod(on_rejected)}
    return type("ServerProtocol", (LimitedProtocol,), members)
