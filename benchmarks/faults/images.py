"""Malformed image files: they become pixels or an `ImageError`, in bounded time and memory."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO, Any

from benchmarks.faults import Outcome, Report

SECONDS = 20.0
"""Of processor time that one file may take."""
SILENCE = 120.0
"""Seconds after which a process counts as hung."""
GROWTH = 100
"""Megabytes that a process may hold more at its end than after its first files."""
_WARM = 200  # files after which memory is first measured
_DECODED = "decoded"


def run(count: int, seed: int, report: Report) -> Outcome:
    """Decode `count` malformed image files, in another process."""
    from benchmarks.faults.image_files import make

    results: list[dict[str, Any]] = []
    failures: list[str] = []
    while len(results) < count:
        command = [sys.executable, "-m", "benchmarks.faults.images"]
        command += map(str, (seed, len(results), count))
        for result in supervise(command, count - len(results)):
            results.append(result)
            if len(results) % 500 == 0:
                report(f"{len(results):,} of {count:,} files")
            failure = _failure(result)
            if failure:
                number = len(results) - 1
                failures.append(f"file {number} ({make(seed, number)[0]}): {failure}")
    failures += _growth(results)
    outcomes = Counter(result["outcome"] for result in results)
    facts: dict[str, int | float] = {_DECODED: outcomes.pop(_DECODED, 0)}
    facts |= {f"refused as {kind}": number for kind, number in sorted(outcomes.items())}
    facts["s for the slowest"] = round(max(result.get("seconds", 0) for result in results), 2)
    facts["MB at the peak"] = max(result.get("peak", 0) for result in results)
    facts["MB more at the end"] = _more(results)
    return Outcome("images", count, facts, failures)


def _failure(result: dict[str, Any]) -> str:
    if "fault" in result:
        return str(result["fault"])
    if result["seconds"] > SECONDS:
        return f"took {result['seconds']:.1f} s"
    return ""


def _more(results: Sequence[dict[str, Any]]) -> int:
    """Megabytes that the last process held more at its end than after its first files."""
    held = [result["held"] for result in results if result.get("held")]
    return held[-1] - held[0] if held else 0


def _growth(results: Sequence[dict[str, Any]]) -> list[str]:
    more = _more(results)
    return [f"memory grew by {more} MB"] if more > GROWTH else []


def supervise(command: Sequence[str], expected: int) -> Iterator[dict[str, Any]]:
    """The results that a process prints, a line of JSON each, until it ends or one is a fault.

    If it ends before it has printed `expected` lines, or is silent for `SILENCE` seconds, the last
    result says so.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        lines: queue.Queue[str] = queue.Queue()
        assert process.stdout is not None
        threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True).start()
        try:
            for _ in range(expected):
                line = lines.get(timeout=SILENCE)
                if not line:
                    code = process.wait()
                    yield {"outcome": "crash", "fault": f"the process ended with code {code}"}
                    return
                yield json.loads(line)
        except queue.Empty:
            yield {"outcome": "hung", "fault": f"no answer in {SILENCE:.0f} s"}
        finally:
            process.kill()


def _forward(stream: IO[str], lines: queue.Queue[str]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed when the process is given up
        for line in stream:
            lines.put(line)
    lines.put("")


def examine(content: bytes) -> dict[str, Any]:
    """What the decoder does with one file."""
    from resnets.data.images import ImageError, decode, read_header

    began = time.process_time()
    result: dict[str, Any] = {"outcome": _DECODED}
    try:
        header = read_header(content, "it")
        image = decode(content, "it")
        small = decode(content, "it", 16)
        if image.mode != "RGB" or image.size != header.upright_size or min(small.size) < 1:
            described = f"{image.mode} {image.size} for a header of {header.upright_size}"
            result["fault"] = f"wrong image: {described}"
    except ImageError as error:
        result["outcome"] = error.kind
    except BaseException as error:  # any other is what this campaign searches for
        result |= {"outcome": "other", "fault": f"{type(error).__name__}: {error}"}
    result["seconds"] = time.process_time() - began
    return result


def _serve(seed: int, start: int, end: int) -> None:
    """Examine the files of these numbers, and print a line for each."""
    from benchmarks.faults.image_files import make

    for number in range(start, end):
        result = examine(make(seed, number)[1])
        result["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if number - start >= _WARM and number % 100 == 0:
            gc.collect()
            result["held"] = _resident()
        print(json.dumps(result), flush=True)


def _resident() -> int:
    """Megabytes that this process holds; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))
