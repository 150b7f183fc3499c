"""Keys of requests: one that is unknown, repeated or in the wrong place is refused by its name.

A key that was ignored would give the answer of another model, or to another question.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from starlette.requests import Request

from resnets.serve.problems import Problem
from resnets.support.errors import nearest

_QUERY = ("model", "top", "class", "score", "limit")
_BODY = ("image", "images")


def check_query(request: Request, *known: str) -> None:
    """Raise `Problem` (400) if the query has a key that this route does not know, or one twice."""
    check_keys((key for key, _ in request.query_params.multi_items()), known, "query")


def check_keys(
    keys: Iterable[str], known: Collection[str], part: str, repeat: bool = False
) -> None:
    """Check the keys of a part of a request.

    Args:
        keys: as they were sent.
        known: those that this part may have.
        part: of the request: `query`, `JSON` or `form`.
        repeat: whether a key may be there several times.

    Raises:
        Problem: 400, with the key and where it belongs.
    """
    seen: set[str] = set()
    for key in keys:
        if key not in known:
            detail = f"the {part} has an unknown key {key[:100]!r}"
            raise Problem(400, detail, _hint(key.lower(), known, part))
        if key in seen and not repeat:
            raise Problem(400, f"the {part} has {key!r} twice", "send it once")
        seen.add(key)


def _hint(key: str, known: Collection[str], part: str) -> str:
    if key in _QUERY and key not in known and part != "query":
        return f"it belongs in the URL: ?{key}=..."
    if key in _BODY and part == "query":
        return "send images in the body"
    return nearest(key, known) if known else "leave it out"
