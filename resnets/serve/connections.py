"""HTTP connections that neither wait nor grow without end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from resnets.serve.limits import Limits
from resnets.serve.problems import TYPE, Problem, busy

LINGER = 2.0
"""Seconds for which the rest of a refused request is read and dropped.

A connection closed with unread bytes is reset, and the client may never see why.
"""


class Bounded(HttpToolsProtocol):
    """uvicorn's protocol, with limits of time and size for all that is not a request's body."""

    limits = Limits()
    refused: Callable[[int], None] = staticmethod(lambda status: None)
    """Is told the status of each request that does not reach the application."""
    _timer: asyncio.TimerHandle | None = None  # for the end of the headers
    _reader: asyncio.TimerHandle | None = None  # for the client to take what it is sent
    _outside = 0  # bytes since the last one of a body
    _in_headers = False
    _ending = False
    _last: bytes | None = None  # a refusal that waits for the answers before it

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(busy("too many connections"))
            if len(self.connections) > 2 * self.limits.connections:
                transport.abort()
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_reader()
        super().connection_lost(exc)
        self.pipeline.clear()
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self._deaf():
            return
        self._outside += len(data)
        super().data_received(data)
        if self._outside > self.limits.headers:
            self._refuse(Problem(431, f"more than {self.limits.headers:,} bytes of headers"))
        if self._timer is None and self._idle() and not self._deaf():
            self._await_headers()  # empty lines between requests

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = True
        self._outside = 0
        if not self._deaf():
            self._await_headers()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._in_headers = False
        self._outside = 0
        if self._deaf():
            return
        size = sum(len(name) + len(value) for name, value in self.headers) + len(self.url)
        if size > self.limits.headers:
            self._refuse(Problem(431, f"more than {self.limits.headers:,} bytes of headers"))
        elif len(self.pipeline) >= self.limits.pipeline:
            self._refuse(busy(f"{len(self.pipeline)} requests wait on this connection"))
        else:
            super().on_headers_complete()
            cycle = self.cycle
            cycle.transport = _Finishing(self)  # type: ignore[assignment]
            self.scope["unread"] = lambda: cycle.more_body  # type: ignore[typeddict-unknown-key]

    def on_body(self, body: bytes) -> None:
        self._outside = 0
        if not self._deaf():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._deaf():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._ending:
            self.pipeline.clear()
            return
        unread = self.cycle.more_body and not self.pipeline
        super().on_response_complete()
        if self._last is not None and self._idle():
            self.transport.write(self._last)
            self.finish()
        elif unread and not self._in_headers:
            self.finish()

    def finish(self) -> None:
        """Close, once the client has had time to take in its answer."""
        self._stop_waiting()
        self._unset_keepalive_if_required()
        loop = asyncio.get_running_loop()
        transport = self.transport
        if self._ending or transport.is_closing():
            return
        self._ending = True
        if self._in_headers or self.cycle is None or self.cycle.more_body:
            transport.write_eof()
            self.flow.resume_reading()
            loop.call_later(LINGER, transport.abort)
        else:
            transport.close()
            if transport.get_write_buffer_size():
                loop.call_later(self.limits.sending, transport.abort)

    def send_400_response(self, msg: str) -> None:
        self._refuse(Problem(400, "not a request of HTTP/1.1"))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._reader is None:
            loop = asyncio.get_running_loop()
            self._reader = loop.call_later(self.limits.sending, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_reader()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self.finish()

    def _deaf(self) -> bool:
        """Whether what comes is dropped."""
        return self._ending or self._last is not None

    def _idle(self) -> bool:
        """Whether all answers are given."""
        return self.cycle is None or self.cycle.response_complete

    def _await_headers(self) -> None:
        self._stop_waiting()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.limits.sending, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self._in_headers:  # nothing was asked
            self.finish()
        else:
            self._refuse(Problem(408, "the headers came too slowly"))

    def _refuse(self, problem: Problem) -> None:
        """Answer what cannot be a request, after the answers to those before it, and close."""
        self._stop_waiting()
        if self._deaf() or self.transport.is_closing():
            return
        body = json.dumps(problem.as_dict()).encode()
        fields = {"content-type": TYPE, "content-length": str(len(body)), "connection": "close"}
        lines = [f"{name}: {value}" for name, value in (fields | problem.headers).items()]
        status = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"
        answer = "\r\n".join([status, *lines, "", ""]).encode() + body
        if self._idle():
            self.refused(problem.status)
            self.transport.write(answer)
            self.finish()
        elif self._in_headers or not self.cycle.more_body:  # the one before is being answered
            self.refused(problem.status)
            self._last = answer
            self.flow.pause_reading()
        else:  # the fault is in the body of one that is being answered
            alone = not self.pipeline and not self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if alone:
                self.cycle.scope["refused"] = problem.status  # type: ignore[typeddict-unknown-key]
                self.transport.write(answer)
            self.finish()


class _Finishing:
    """A connection as the one who answers sees it: closing it may take a while."""

    def __init__(self, protocol: Bounded) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def close(self) -> None:
        self._protocol.finish()


def bounded(limits: Limits, refused: Callable[[int], None]) -> type[Bounded]:
    """The protocol with these limits; `refused` is told each status that it answers itself."""
    return type("Limited", (Bounded,), {"limits": limits, "refused": staticmethod(refused)})
