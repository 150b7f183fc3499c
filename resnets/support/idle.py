"""Processes that yield the processor to all other work."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

LOWEST = 19
"""The lowest priority of POSIX systems, as a nice value."""
_AUTOGROUP = Path("/proc/self/autogroup")


def yield_to_others() -> list[str]:
    """Let this process, and those that it will start, run where others leave the processor idle.

    Threads that it has already started are not changed.

    Returns:
        What was set: `nice 19`, `SCHED_IDLE` and `autogroup` on Linux, less on other systems.
    """
    done = []
    with contextlib.suppress(AttributeError, OSError):
        os.nice(LOWEST)
        done.append(f"nice {LOWEST}")
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        done.append("SCHED_IDLE")
    if yield_session():
        done.append("autogroup")
    return done


def yield_session() -> bool:
    """Give the processes of this session, as a group, the lowest share of the processor.

    Linux may divide the processor among sessions first, whatever the nice values inside them. A
    process that starts a session calls this in it.

    Returns:
        Whether the kernel groups by session and accepted it.
    """
    for _ in range(4):
        try:
            _AUTOGROUP.write_text(str(LOWEST))
            return True
        except BlockingIOError:  # the kernel accepts only some of these in a second
            time.sleep(0.15)
        except OSError:
            return False
    return False
