"""Speeds measured by turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Run = Callable[[], object]


def by_turns(
    contenders: Mapping[str, Run],
    images: int,
    rounds: int,
    seconds: float,
    finish: Run = lambda: None,
) -> dict[str, list[float]]:
    """Images per second of each contender, in rounds that alternate between them.

    Args:
        contenders: each call of one handles `images` images.
        seconds: length of a round; three calls go before its clock starts.
        finish: waits until the device has done what it was given.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            for _ in range(3):
                run()
            finish()
            calls, start = 0, time.perf_counter()
            while calls < 3 or time.perf_counter() - start < seconds:
                run()
                calls += 1
            finish()
            found[name].append(calls * images / (time.perf_counter() - start))
    return found
