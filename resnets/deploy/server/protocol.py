"""HTTP connections that neither wait nor grow without end."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from resnets.deploy.server.limits import Limits
from resnets.deploy.server.problems import TYPE, Problem


class Bounded(HttpToolsProtocol):
    """uvicorn's protocol, with limits of time and size for a request's line and headers."""

    limits = Limits()
    _headers_end: asyncio.TimerHandle | None = None
    _seen = 0  # bytes since the request began
    _in_headers = True
    _begun = False  # anything was said at all

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._seen += len(data)
        super().data_received(data)
        if self._in_headers and self._seen > self.limits.headers:
            self._refuse(431, f"more than {self.limits.headers:,} bytes of headers")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = self._begun = True
        self._seen = 0
        self._await_headers()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._in_headers = False
        size = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
        if size > self.limits.headers:
            self._refuse(431, f"more than {self.limits.headers:,} bytes of headers")
        else:
            super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "not a request of HTTP/1.1")

    def _await_headers(self) -> None:
        self._stop_waiting()
        loop = asyncio.get_running_loop()
        self._headers_end = loop.call_later(self.limits.sending, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._headers_end is not None:
            self._headers_end.cancel()
            self._headers_end = None

    def _too_slow(self) -> None:
        self._headers_end = None
        if not self._begun:  # nothing was asked
            self.transport.close()
        else:
            self._refuse(408, "the headers came too slowly")

    def _refuse(self, status: int, detail: str) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        body = json.dumps(Problem(status, detail).as_dict()).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def bounded(limits: Limits) -> type[Bounded]:
    """The protocol with these limits."""

    class Limited(Bounded):
        pass

    Limited.limits = limits
    return Limited
