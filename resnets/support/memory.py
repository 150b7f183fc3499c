"""The memory of this machine, to refuse what could never fit into it.

Linux lets a process allocate more memory than there is, and kills it when it uses it.
"""

from __future__ import annotations

import os
from pathlib import Path

from resnets.support.errors import UserError

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files in which Linux states the limit of a container."""


def total_memory() -> int | None:
    """Bytes of memory of this machine or container; None if that is unknown."""
    try:
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None
    for path in _LIMITS:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():  # not `max`
            sizes.append(int(text))
    return min(sizes)


def refuse_beyond_memory(needed: int, what: str, location: str, hint: str) -> None:
    """Raise `UserError` if a computation needs more memory than the machine has.

    Args:
        needed: bytes that it needs at least.
        what: needs them, such as `a batch of 1000 images`.
        location: the option or key.
        hint: what to do.
    """
    total = total_memory()
    if total is not None and needed > total:
        raise UserError(
            f"{what} needs more than {needed / 2**30:,.0f} GiB of memory, and this machine has "
            f"{total / 2**30:,.0f}",
            location,
            hint,
        )
