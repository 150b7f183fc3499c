"""Names that people gave to files and classes, compared and printed; counts with their noun."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

from resnets.support.errors import valid_utf8


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC), by which names are compared.

    macOS stores some names decomposed: `é` is then two characters, which look like one.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def look_alike(name: str) -> str:
    """What is left of a name without letter case and needless blanks."""
    return " ".join(composed(name).casefold().split())


def similar(name: str, others: Iterable[str]) -> str | None:
    """The first of other names that differs in nothing but letter case, blanks or accents' form."""
    wanted = look_alike(name)
    return next((other for other in others if other != name and look_alike(other) == wanted), None)


def valid_values(value: Any) -> Any:
    """A value for JSON, in whose strings and keys `valid_utf8` is applied."""
    if isinstance(value, str):
        return valid_utf8(value)
    if isinstance(value, dict):
        return {valid_values(key): valid_values(one) for key, one in value.items()}
    return [*map(valid_values, value)] if isinstance(value, list | tuple) else value


def printable(name: str) -> str:
    """The name on one line, with escapes for what would move the cursor or cannot be printed."""
    return name if name.isprintable() else repr(name)[1:-1]


def listed(names: Iterable[str], most: int = 3) -> str:
    """The first names, separated by commas, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(printable(name) for name in names[:most]) + more


def counted(number: float, one: str, many: str = "") -> str:
    """1 image, 2 images; `many` is the plural where it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
