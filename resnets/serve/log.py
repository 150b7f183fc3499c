"""One line for each request."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import IO, Any


class Log:
    """Writes facts of requests, never their content.

    Args:
        stream: where to; None for nowhere.
        as_json: a JSON object a line, or else words for people.
    """

    def __init__(self, stream: IO[str] | None, as_json: bool = True) -> None:
        self._stream, self._as_json = stream, as_json

    def request(self, **facts: Any) -> None:
        """Tell of one request."""
        if self._stream is None:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._as_json:
            line = json.dumps({"time": now, **facts})
        else:
            line = "{time}  {status}  {ms:8.1f} ms  {method} {route}".format(
                time=now[11:23], **facts
            )
        try:
            print(line, file=self._stream, flush=True)
        except (OSError, ValueError):  # whoever read the log has gone; the server goes on
            self._stream = None
