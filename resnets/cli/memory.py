"""A lack of memory, told as a mistake that can be mended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from resnets.support.errors import UserError

SMALLER_BATCH = "try a smaller batch: --batch 8"
MORE = "end other programs, or take a machine with more"
"""What helps where the user chooses no batch."""
_WORDS = re.compile("out of memory|allocate memory|not enough memory", re.IGNORECASE)


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python or torch means that the memory did not suffice."""
    return isinstance(error, MemoryError) or bool(_WORDS.search(str(error)))


@contextmanager
def enough_memory(hint: str) -> Iterator[None]:
    """Turn a lack of memory into a `UserError` with this hint."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        raise UserError("out of memory", hint=hint) from error
