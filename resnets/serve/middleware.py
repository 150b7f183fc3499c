"""What surrounds every request: its number, headers of the answer, log and metrics."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnets.serve.log import Log
from resnets.serve.metrics import Metrics
from resnets.serve.problems import Problem

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
CONNECTION = "connection"
"""Stands for the route of what never became a request."""
_LOGGER = logging.getLogger("resnets.server")
_GIVEN = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Outside:
    """Around the application: numbers requests, secures answers, counts and logs.

    Args:
        hosts: names by which requests may call the server; any if None.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, log: Log, hosts: Collection[str] | None = None
    ) -> None:
        self._app, self._metrics, self._log, self._hosts = app, metrics, log, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        number = scope["id"] = _number(scope)
        answer = _Answer(scope, number, send)
        try:
            self._check(scope)
            await self._app(scope, receive, answer.send)
        except Problem as problem:
            await problem.response(number)(scope, receive, answer.send)
        except Exception as error:
            _LOGGER.exception("request %s failed", number)
            if not answer.started:
                detail = f"the server failed ({type(error).__name__})"
                await Problem(500, detail).response(number)(scope, receive, answer.send)
        finally:
            seconds = time.perf_counter() - start
            status = scope.get("refused", answer.status)  # told while its body was read
            self._tell(scope, number, status, answer.bytes, seconds)

    def _check(self, scope: Scope) -> None:
        """Refuse what pages of others make a browser send."""
        headers = Headers(scope=scope)
        if self._hosts is not None:
            host = headers.get("host", "")
            name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
            if name.lower() not in self._hosts:
                raise Problem(
                    421, f"this server is not called {name[:100]!r}", "see --allow-host",
                )  # fmt: skip
        if scope["method"] == "POST" and headers.get("sec-fetch-site") == "cross-site":
            raise Problem(403, "a page of another site sent this", "use the server's own page")

    def _tell(self, scope: Scope, number: str, status: int, sent: int, seconds: float) -> None:
        # The pattern of the route, not the path: paths are the client's words, without end.
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        self._log.request(
            id=number,
            method=scope["method"][:16],
            route=route,
            status=status,
            ms=round(1000 * seconds, 2),
            bytes=sent,
        )


class _Answer:
    """An answer on its way out: it gets its headers, and is counted."""

    def __init__(self, scope: Scope, number: str, send: Send) -> None:
        self._scope, self._number, self._send = scope, number, send
        self.status, self.bytes, self.started = 500, 0, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.started = message["status"], True
            self._add_headers(MutableHeaders(scope=message))
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
        await self._send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["X-Request-Id"] = self._number
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if self._scope["path"].startswith(("/v1/", "/healthz", "/readyz", "/metrics")):
            headers.setdefault("Cache-Control", "no-store")
        if self._scope.get("unread", lambda: False)():
            headers["Connection"] = "close"  # the rest of its body will not be read


def _number(scope: Scope) -> str:
    """The number that the client gave its request, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            if _GIVEN.fullmatch(given):
                return given
    return uuid.uuid4().hex[:16]


def refusals(metrics: Metrics, log: Log) -> Callable[[int], None]:
    """Counts and logs what is refused before it is a request."""

    def refused(status: int) -> None:
        metrics.requests.labels(CONNECTION, str(status)).inc()
        log.request(id="", method="", route=CONNECTION, status=status, ms=0.0, bytes=0)

    return refused
