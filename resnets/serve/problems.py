"""What went wrong with a request, as a problem document (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

TYPE = "application/problem+json"
GONE = 499
"""Of a client that did not wait for its answer; only logs and metrics tell of it."""


class Problem(Exception):
    """An answer with an error status.

    Args:
        status: of HTTP.
        detail: what is wrong with this request.
        hint: what the client can do.
        headers: further ones, such as Retry-After.
    """

    def __init__(
        self, status: int, detail: str, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.hint = status, " ".join(detail.split()), hint
        self.headers = headers or {}

    def as_dict(self, instance: str = "") -> dict[str, Any]:
        """As JSON."""
        facts: dict[str, Any] = {
            "type": "about:blank",
            "title": title(self.status),
            "status": self.status,
            "detail": self.detail,
        }
        if self.hint:
            # `mend` is the name that this key had up to 0.1; it goes with the next version.
            facts["hint"] = facts["mend"] = self.hint
        if instance:
            facts["instance"] = instance
        return facts

    def response(self, instance: str = "") -> Response:
        """As an answer."""
        content = json.dumps(self.as_dict(instance)).encode()
        return Response(content, self.status, self.headers, TYPE)


def title(status: int) -> str:
    """What a status means."""
    return "Client Closed Request" if status == GONE else HTTPStatus(status).phrase


def busy(detail: str, seconds: float = 1) -> Problem:
    """Too much to do: come again later."""
    return Problem(503, detail, "try again later", {"Retry-After": str(max(1, round(seconds)))})
