"""Throughput of several contenders, measured in turn so that other load affects all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Run = Callable[[], object]


def throughput(
    contenders: Mapping[str, Run],
    images: int,
    rounds: int,
    seconds: float,
    finish: Run = lambda: None,
) -> dict[str, list[float]]:
    """Images per second of each contender in each round; rounds alternate between them.

    Args:
        contenders: functions by name; each call processes `images` images.
        images: number of images of a call.
        rounds: number of rounds of each contender.
        seconds: length of a round, after three calls that are not timed.
        finish: waits until the device has finished its work.
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
