"""The error type for mistakes that a user can correct."""

from __future__ import annotations

import difflib
import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake that a user can correct.

    The command line prints it as one line, `location: message; hint`, and exits with code 2.

    Args:
        message: what is wrong.
        location: where: a file, an option, a URL; may be empty.
        hint: what to do; may be empty.
    """

    def __init__(self, message: str, location: str = "", hint: str = "") -> None:
        self.message, self.location, self.hint = message, location, hint
        line = f"{location}: {self.reason}" if location else self.reason
        super().__init__(" ".join(line.split()))

    @property
    def reason(self) -> str:
        """What is wrong and what to do, without where."""
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[UserError], tuple[str, ...]]:
        """The three parts, so that another process gets the same error."""
        return UserError, (self.message, self.location, self.hint)


def system_error(error: OSError) -> UserError:
    """What the operating system refused, with the file; raises `error` if it is not the system's.

    Errors of libraries without a number, and of files of this package, are faults of the program.
    """
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno is None or Path(name).is_relative_to(_PACKAGE):
        raise error
    hint = "give a shorter name" if error.errno == errno.ENAMETOOLONG else ""
    return UserError(error.strerror or str(error), name, hint)


_PACKAGE = Path(__file__).parents[1]


def one_line(error: BaseException) -> str:
    """What an error of reading a file says, in one line of plain words.

    Errors of Python's own readers are translated; others keep the first line of their text, after
    their type unless it is a `ValueError`'s.
    """
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "not text in UTF-8"
    if isinstance(error, OSError) and error.strerror:
        return "is a folder" if isinstance(error, IsADirectoryError) else error.strerror.lower()
    if isinstance(error, KeyError) and error.args:
        return f"{str(error.args[0])!r} is missing"
    if isinstance(error, (TypeError, AttributeError, LookupError)):
        return "an entry is of the wrong kind"
    text = next((line for line in str(error).splitlines() if line.strip()), "").strip()
    if isinstance(error, (ValueError, UserError)):
        return text or "it is malformed"
    return f"{type(error).__name__}: {text}"


def valid_utf8(text: str) -> str:
    """Text that can be sent and stored as UTF-8: escapes stand for what cannot.

    Names of files, and of classes that come from folders, may hold other bytes, which Python
    reads as surrogates.
    """
    return text.encode("utf-8", "backslashreplace").decode()


NEAR = 0.7
"""Least similarity, of 0 to 1, of a word that is suggested for another."""
_NEARER = 0.1
"""Words that are less similar than the most similar one by more than this are not suggested."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A hint that names the known words most similar to `name`, or the first of all of them."""
    known = list(known)
    if close := near(name, known, count):
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known[:12])}" + (", ..." if len(known) > 12 else "")


def near(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known words that `name` may be a misspelling of, the most similar first; often none.

    They have a similarity of `NEAR`, by `difflib` and without letter case, or one of the two words
    begins with the other.
    """
    wanted = name.casefold()
    matcher = difflib.SequenceMatcher(b=wanted)
    scores = {}
    for word in known:
        other = word.casefold()
        matcher.set_seq1(other)
        begins = min(len(other), len(wanted)) > 2 and (
            other.startswith(wanted) or wanted.startswith(other)
        )
        bound = NEAR if not begins else 0.0  # the quick ratios are never below the ratio
        if matcher.real_quick_ratio() >= bound and matcher.quick_ratio() >= bound:
            scores[word] = max(matcher.ratio(), NEAR if begins else 0.0)
    least = max(NEAR, max(scores.values(), default=0.0) - _NEARER)
    return sorted((w for w, s in scores.items() if s >= least), key=lambda w: -scores[w])[:count]
