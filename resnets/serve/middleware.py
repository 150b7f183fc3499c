"""Around every request: its ID, security headers, the request log and the metrics."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnets.serve.problems import Problem

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PROBES = ("/healthz", "/readyz", "/metrics")
"""Paths for machines that watch the server: they call it by its address or by any name."""
_UNCACHED = ("/v1/", *PROBES)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_LOGGER = logging.getLogger("resnets.server")


class RequestLog:
    """Writes one line for each request, never anything of its content.

    Args:
        stream: None for no log.
        as_json: whether a line is a JSON object, or text for people.
    """

    def __init__(self, stream: IO[str] | None, as_json: bool = True) -> None:
        self._stream, self._as_json = stream, as_json

    def write(self, **facts: Any) -> None:
        """Write a line: `id`, `method`, `route`, `status`, `ms`, `bytes`."""
        if self._stream is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._as_json:
            line = json.dumps({"time": now, **facts})
        else:
            form = "{time}  {status}  {ms:8.1f} ms  {method} {route}"
            line = form.format(time=now[11:23], **facts)
        try:
            print(line, file=self._stream, flush=True)
        except (OSError, ValueError):  # the reader of the log has gone; the server continues
            self._stream = None


class Metrics:
    """The metrics of one server, for Prometheus."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()

        def histogram(name: str, text: str, label: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, [label], buckets=buckets, registry=registry)

        self.requests = Counter(
            "resnets_requests", "Finished requests.", ["route", "status"], registry=registry
        )
        self.latency = histogram(
            "resnets_request_seconds", "From headers to end of response.", "route", _SECONDS
        )
        self._images = Counter("resnets_images", "Computed images.", ["model"], registry=registry)
        self._batches = histogram("resnets_batch_images", "Images in a batch.", "model", _SIZES)
        self._network = histogram(
            "resnets_network_seconds", "Time of the network for a batch.", "model", _SECONDS
        )
        self._queue = Gauge(
            "resnets_queue_images", "Images without a result yet.", ["model"], registry=registry
        )

    def batch_recorder(self, model: str) -> Callable[[int, float], None]:
        """A function that records the size and the seconds of a batch of this model."""
        images, batches = self._images.labels(model), self._batches.labels(model)
        network = self._network.labels(model)

        def record(size: int, seconds: float) -> None:
            images.inc(size)
            batches.observe(size)
            network.observe(seconds)

        return record

    def watch_queue(self, model: str, length: Callable[[], int]) -> None:
        """Call `length` for the model's queue whenever metrics are read."""
        self._queue.labels(model).set_function(length)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


@dataclass(frozen=True)
class Names:
    """The names under which a server may be called.

    Args:
        hosts: allowed `Host` names; any if None.
        origins: whose pages may send requests, such as `https://photos.example`; `*` for all.
        root_path: path below which a proxy offers the server, such as `/photos`; may be empty.
        host_required: whether requests of HTTP/1.0 without a `Host` are refused.
    """

    hosts: Collection[str] | None = None
    origins: Collection[str] = ()
    root_path: str = ""
    host_required: bool = False

    def allows_page(self, origin: str) -> bool:
        """Whether pages of this origin may send requests from a browser."""
        return origin in self.origins or "*" in self.origins


class Middleware:
    """Gives requests an ID, checks their origin, secures responses, and records both.

    A HEAD request gets the headers of the response to GET.

    Args:
        app: the application.
        names: of the server.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, log: RequestLog, names: Names) -> None:
        self._app, self._metrics, self._log, self._names = app, metrics, log, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        root, path = self._names.root_path, self._path_below_root(scope["path"])
        # A copy: the server below us must still know that the client sent HEAD.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        inner = {**scope, "method": method, "root_path": root, "path": root + path}
        request_id = inner["id"] = _request_id(scope)
        response = _Response(inner, path, send, headers_only=scope["method"] == "HEAD")
        try:
            headers = Headers(scope=inner)
            self._check_host(headers, path)
            self._check_origin(headers, inner)
            app: ASGIApp = self._app
            if not path:  # the page's relative addresses need the slash
                app = RedirectResponse(f"{root.rpartition('/')[2]}/")
            await app(inner, receive, response.send)
        except Problem as problem:
            await problem.response(request_id)(inner, receive, response.send)
        except Exception as error:
            _LOGGER.exception("request %s failed", request_id)
            if not response.started:
                failure = Problem(500, f"the server failed ({type(error).__name__})")
                await failure.response(request_id)(inner, receive, response.send)
        finally:
            # `connections` rejects a request while its body is read.
            status = scope.get("rejected", response.status)
            self._record(inner, scope["method"], status, response, time.perf_counter() - start)

    def _path_below_root(self, path: str) -> str:
        """The path of a request, whether the proxy has removed the root path or not."""
        root: str = self._names.root_path
        return path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else path

    def _check_host(self, headers: Headers, path: str) -> None:
        """Refuse requests under a name that is none of the server's."""
        hosts = self._names.hosts
        if hosts is None or path in PROBES:
            return
        host = headers.get("host")
        if host is None:  # HTTP/1.0; browsers always send it
            if self._names.host_required:
                raise Problem(400, "no Host header", "send one with a name of the server")
            return
        name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        if name.lower() not in hosts:
            raise Problem(421, f"this server is not called {name[:100]!r}", "see --allow-host")

    def _check_origin(self, headers: Headers, scope: Scope) -> None:
        """Refuse requests that other sites' pages make a browser send."""
        cross_site = headers.get("sec-fetch-site") == "cross-site"
        allowed = self._names.allows_page(headers.get("origin", ""))
        if scope["method"] == "POST" and cross_site and not allowed:
            hint = "use the server's own page, or see --allow-origin"
            raise Problem(403, "a page of another site sent this", hint)

    def _record(
        self, scope: Scope, method: str, status: int, response: _Response, seconds: float
    ) -> None:
        # The pattern of the route, not the path: clients could send any number of paths.
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.latency.labels(route).observe(seconds)
        self._log.write(
            id=scope["id"],
            method=method[:16],
            route=route,
            status=status,
            ms=round(1000 * seconds, 2),
            bytes=response.bytes,
        )


class _Response:
    """Adds headers to a response on its way out, and counts its bytes.

    Args:
        path: of the request, below the root path.
        headers_only: whether the body is left out.
    """

    def __init__(self, scope: Scope, path: str, send: Send, headers_only: bool) -> None:
        self._scope, self._path, self._send = scope, path, send
        self._headers_only = headers_only
        self.status, self.bytes, self.started = 500, 0, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.started = message["status"], True
            self._add_headers(MutableHeaders(scope=message))
        elif message["type"] == "http.response.body":
            if self._headers_only:
                message = {**message, "body": b""}
            self.bytes += len(message.get("body", b""))
        await self._send(message)

    def _add_headers(self, headers: MutableHeaders) -> None:
        headers["X-Request-Id"] = self._scope["id"]
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        if self._path.startswith(_UNCACHED):
            headers.setdefault("Cache-Control", "no-store")
        if self._scope.get("has_unread_body", lambda: False)():
            headers["Connection"] = "close"  # the rest of the body will not be read


def _request_id(scope: Scope) -> str:
    """The X-Request-Id of the client if it is well-formed, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            sent: str = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(sent):
                return sent
    return uuid.uuid4().hex[:16]


def rejection_recorder(metrics: Metrics, log: RequestLog) -> Callable[[int], None]:
    """A function that records the status of a connection rejected before it sent a request."""

    def record(status: int) -> None:
        metrics.requests.labels("connection", str(status)).inc()
        log.write(id="", method="", route="connection", status=status, ms=0.0, bytes=0)

    return record
