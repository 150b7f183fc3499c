"""The one error type for what a user can cause and mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend: what is wrong, where, and how to mend it.

    The command line prints it as one line and exits with code 2.
    """

    def __init__(self, what: str, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        line = f"{where}: {what}" if where else what
        super().__init__(" ".join((f"{line}; {mend}" if mend else line).split()))

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str]]:
        """The three parts, so that another process gets the same error."""
        return UserError, (self.what, self.where, self.mend)


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A mend that names the known words nearest to `name`, or all of them if few."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.4)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(known[:12])}" + (", ..." if len(known) > 12 else "")
