"""What surrounds every request: its number, headers of the answer, log and metrics."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnets.deploy.server.log import Log
from resnets.deploy.server.metrics import Metrics
from resnets.deploy.server.problems import Problem

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LOGGER = logging.getLogger("resnets.server")
_GIVEN = re.compile(r"[\w.-]{1,64}")


class Outside:
    """Around the application: numbers requests, secures answers, counts and logs."""

    def __init__(self, app: ASGIApp, metrics: Metrics, log: Log) -> None:
        self._app, self._metrics, self._log = app, metrics, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        number = scope["id"] = _number(scope)
        status, sent, started = 500, 0, False

        async def sending(message: Message) -> None:
            nonlocal status, sent, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = number
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith(("/v1/", "/healthz", "/readyz", "/metrics")):
                    headers.setdefault("Cache-Control", "no-store")
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            _LOGGER.exception("request %s failed", number)
            if not started:
                detail = f"the server failed ({type(error).__name__})"
                await Problem(500, detail).response(number)(scope, receive, sending)
        finally:
            self._tell(scope, number, status, sent, time.perf_counter() - start)

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


def _number(scope: Scope) -> str:
    """The number that the client gave its request, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            if _GIVEN.fullmatch(given):
                return given
    return uuid.uuid4().hex[:16]
