"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
CLIENT_CLOSED_REQUEST = 499
"""For clients that disconnect before their response; it appears only in the log and the metrics."""


class ProblemDocument(BaseModel):
    """Why a request, or one image of it, failed (RFC 9457)."""

    type: str = Field(description="Always about:blank: the status says what kind of problem it is.")
    title: str = Field(description="The name of the status.")
    status: int
    detail: str = Field(description="What is wrong.")
    hint: str | None = Field(None, description="What the client can do.")
    mend: str | None = Field(
        None, description="The old name of hint; the next version drops it.", deprecated=True
    )
    instance: str | None = Field(None, description="The request's ID (X-Request-Id).")


class Problem(Exception):
    """An error that ends a request.

    Args:
        status: HTTP status.
        detail: what is wrong with this request.
        hint: what the client can do.
        headers: further response headers, such as Retry-After.
    """

    def __init__(
        self, status: int, detail: str, hint: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.hint = status, " ".join(detail.split()), hint
        self.headers = headers or {}

    def as_dict(self, request_id: str = "") -> dict[str, Any]:
        """The error as JSON."""
        document = ProblemDocument(
            type="about:blank",
            title=_title(self.status),
            status=self.status,
            detail=self.detail,
            hint=self.hint or None,
            mend=self.hint or None,
            instance=request_id or None,
        )
        return document.model_dump(exclude_none=True)

    def response(self, request_id: str = "") -> Response:
        """The error as an HTTP response."""
        content = json.dumps(self.as_dict(request_id)).encode()
        return Response(content, self.status, self.headers, MEDIA_TYPE)


def busy(detail: str, retry_after: float = 1) -> Problem:
    """A 503: the client may try again after `retry_after` seconds."""
    headers = {"Retry-After": str(max(1, round(retry_after)))}
    return Problem(503, detail, "try again later", headers)


def _title(status: int) -> str:
    if status == CLIENT_CLOSED_REQUEST:
        return "Client Closed Request"
    return HTTPStatus(status).phrase
