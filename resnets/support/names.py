"""Names that people gave to files and classes, compared and printed; counts with their noun."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from resnets.support.errors import valid_utf8


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC), by which names are compared.

    macOS stores some names decomposed: `é` is then two characters, which look like one.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


_NUMBER = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]*))?")


def look_alike(name: str) -> str:
    """What is left of a name without letter case and needless blanks; of a number, its value.

    `1`, `01` and `1.0` are the same class, written by different programs.
    """
    text = " ".join(composed(name).casefold().split())
    found = _NUMBER.fullmatch(text)
    if found is None:
        return text
    sign, whole, rest = found.groups("")
    return f"{sign.strip('+')}{whole.lstrip('0') or '0'}.{rest.rstrip('0')}".rstrip(".")


def similar(name: str, others: Iterable[str]) -> str | None:
    """The first of other names that looks like this one: see `look_alike`."""
    wanted = look_alike(name)
    return next((other for other in others if other != name and look_alike(other) == wanted), None)


def pairs_alike(names: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """The names that look like an earlier one: the earlier, the name, and a line about both."""
    first: dict[str, str] = {}
    for name in names:
        key = look_alike(name)
        other = first.setdefault(key, name)
        if other != name:
            same = "differ in nothing but letter case or blanks"
            if _NUMBER.fullmatch(key):
                same = "are the same number"
            yield other, name, f"classes {other!r} and {name!r} {same}"


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


def fitted(names: Sequence[str], width: int) -> str:
    """The first names that fit `width` characters, one at least, and how many more there are."""
    whole = listed(names, len(names))
    if len(whole) <= width:
        return whole
    most = 1
    while len(listed(names, most + 1)) <= width:
        most += 1
    return listed(names, most)


def counted(number: float, one: str, many: str = "") -> str:
    """1 image, 2 images; `many` is the plural where it is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
