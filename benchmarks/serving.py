"""The server under load: throughput, latency, memory; and its responses to malformed requests.

`resnets serve` and wrk, which generates the load, run on the same machine. wrk compares every
response with the offline prediction for the same image.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from benchmarks import malformed
from benchmarks.measure import Report, Row, Table, rows
from resnets.inference import image_inputs
from resnets.inference.predictor import Predictor, open_predictor
from resnets.serve.limits import Limits
from resnets.support.errors import UserError

MAX_IMAGES = 128
OFFLINE = "the runtime alone, offline"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options of the benchmark.

    Args:
        model: for `resnets serve`.
        data: folder of images to send; generated ones by default.
        connections: of wrk, each with one request at a time.
        rounds: of load and of the offline runtime, which take turns.
        seconds: length of a round.
        minutes: of load while memory is measured; 0 to skip this.
        attacks: number of malformed requests; 0 to skip them.
    """

    model: str
    data: Path | None
    connections: int
    rounds: int
    seconds: float
    minutes: float
    attacks: int


class Server:
    """A process of `resnets serve`."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address

    def megabytes(self) -> float:
        """Resident memory in megabytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        assert found is not None
        return int(found[1]) / 1000

    def descriptors(self) -> int:
        """Number of open files and connections."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def _print(line: str) -> None:
    print(line, end="", file=sys.stderr)


@contextlib.contextmanager
def serving(model: str, on_line: Callable[[str], object] = _print) -> Iterator[Server]:
    """Start a server, and wait until it is ready; at the end it must stop with exit code 0.

    Args:
        model: for `resnets serve`.
        on_line: called with each line that the server writes to stderr once it is ready.
    """
    command = [sys.executable, "-m", "resnets", "serve", f"it={model}", "--port", "0"]
    with tempfile.TemporaryFile("w+") as stdout:
        process = subprocess.Popen(
            [*command, "--log", "none"], stderr=subprocess.PIPE, stdout=stdout, text=True
        )
        assert process.stderr is not None
        try:
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if found := re.search(r"http://\S+", line):
                    break
            else:
                raise UserError(
                    (lines or ["the server ended"])[-1].strip().removeprefix("resnets: "), model
                )
            # Read what the server writes later, so that the pipe never fills up.
            reader = threading.Thread(target=_read, args=(process.stderr, on_line), daemon=True)
            reader.start()
            yield Server(process, found[0])
            process.terminate()
            if process.wait(60) != 0:
                raise UserError(f"the server ended with {process.returncode}", model)
            reader.join()
        finally:
            process.kill()
            process.wait()


def _read(stream: IO[str], on_line: Callable[[str], object]) -> None:
    for line in stream:
        on_line(line)


def measure(plan: Plan, report: Report) -> list[Table]:
    """Measure throughput, latency, wrong responses, memory and responses to malformed requests."""
    if shutil.which("wrk") is None:
        raise UserError("wrk is not installed", hint="apt-get install wrk")
    if plan.data is not None and not plan.data.is_dir():
        raise UserError("no such folder", f"--data {plan.data}")
    predictor = open_predictor(plan.model, allow_int8=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = _images(plan, predictor, folder)
        _expected(predictor, folder, count)
        with serving(plan.model) as server:
            runs: list[dict[str, Any]] = []
            tables = _load(plan, predictor, server, folder, count, runs, report)
            if plan.minutes:
                tables.append(_memory(plan, server, folder, count, runs, report))
            tables.append(_compared(plan, runs))
            if plan.attacks:
                tables += _attack(plan, server, (folder / "0").read_bytes(), report)
    return tables


def _images(plan: Plan, predictor: Predictor, folder: Path) -> int:
    """Write images into a folder as files 0, 1, ...; return their number."""
    if plan.data is not None:
        found = image_inputs.find_images([str(plan.data)])[:MAX_IMAGES]
        for number, path in enumerate(found):
            shutil.copy(path, folder / str(number))
        return len(found)
    small = predictor.preprocessing.size <= 64
    size, kind = ((32, 32), "PNG") if small else ((500, 375), "JPEG")
    random = np.random.default_rng(0)
    for number in range(32):
        colours = random.integers(0, 256, (6, 8, 3), np.uint8)
        picture = np.asarray(Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC))
        noisy = picture + random.normal(
            0, 12, picture.shape
        )  # so that decoding takes as long as for a photograph
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        image.save(folder / str(number), kind, quality=90)
    return 32


def _expected(predictor: Predictor, folder: Path, count: int) -> None:
    """Write the offline predictions: a line with class index and probability for each image."""
    found = predictor.predict([folder / str(number) for number in range(count)], top=1)
    lines = []
    for answer in found:
        if answer.error is not None:
            raise UserError(answer.error, answer.image)
        lines.append(f"{answer.top[0].index} {answer.top[0].probability}")
    (folder / "expected").write_text("\n".join(lines) + "\n")


def _offline(predictor: Predictor, batch: int, seconds: float) -> float:
    """Images per second of the runtime without a server."""
    size = predictor.preprocessing.size
    pixels = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), np.uint8)
    )
    for _ in range(3):
        predictor.runtime(pixels)
    calls, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        predictor.runtime(pixels)
        calls += 1
    return batch * calls / (time.perf_counter() - start)


def wrk(
    server: Server, folder: Path, count: int, connections: int, seconds: float
) -> dict[str, Any]:
    """Run wrk, and return seconds, latencies in milliseconds, and counts of responses.

    `compared` counts predictions, `wrong` those of them that differ from the offline ones,
    `failed` other responses, and requests without a response.
    """
    script = resources.files("benchmarks") / "load.lua"
    with resources.as_file(script) as path:
        load = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "60s"]
        url = f"{server.address}/v1/predict?top=1"
        command = ["wrk", *load, "-s", str(path), url, "--", str(folder), str(count)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or "RESULT " not in done.stdout:
        raise UserError((done.stderr or done.stdout).strip()[-300:], "wrk")
    found: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT ")[2])
    return found


def _load(
    plan: Plan,
    predictor: Predictor,
    server: Server,
    folder: Path,
    count: int,
    runs: list[dict[str, Any]],
    report: Report,
) -> list[Table]:
    """Measure throughput, offline throughput and latency; append the results of wrk to `runs`."""
    batch = Limits.batch
    server_row = f"resnets serve, {plan.connections} connections"
    found: dict[str, list[float]] = {OFFLINE: [], server_row: []}
    wrk(server, folder, count, plan.connections, 3)
    for number in range(plan.rounds):
        report(f"load, round {number + 1} of {plan.rounds}")
        found[OFFLINE].append(_offline(predictor, batch, plan.seconds))
        runs.append(wrk(server, folder, count, plan.connections, plan.seconds))
        found[server_row].append(runs[-1]["compared"] / runs[-1]["seconds"])
    latencies = {
        f"{name}, {plan.connections} connections": [run[key] for run in runs]
        for name, key in (("median", "p50"), ("99th percentile", "p99"))
    }
    report("one request at a time")
    alone = [wrk(server, folder, count, 1, plan.seconds) for _ in range(plan.rounds)]
    latencies["median, 1 connection"] = [run["p50"] for run in alone]
    latencies["99th percentile, 1 connection"] = [run["p99"] for run in alone]
    runs += alone
    size = predictor.preprocessing.size
    work = f"{plan.model}, {predictor.runtime.name}, batches of up to {batch}, {size} pixels"
    facts = {"rounds": plan.rounds, "seconds": plan.seconds, "images": count}
    return [
        Table(f"requests to {work}", "images/s", OFFLINE, rows(found, OFFLINE), facts),
        Table(f"latency of {plan.model}", "milliseconds", "", rows(latencies, None), facts),
    ]


def _compared(plan: Plan, runs: Sequence[Mapping[str, Any]]) -> Table:
    """Counts of the responses in all runs of wrk."""
    sums = {key: sum(run[key] for run in runs) for key in ("compared", "wrong", "failed")}
    return counted(f"answers of {plan.model} compared with offline ones", "requests", sums)


def counted(title: str, unit: str, numbers: dict[str, float]) -> Table:
    """A table of counts, which have no range."""
    made = tuple(Row(name, number, number, number) for name, number in numbers.items())
    return Table(title, unit, "", made, {})


def _memory(
    plan: Plan,
    server: Server,
    folder: Path,
    count: int,
    runs: list[dict[str, Any]],
    report: Report,
) -> Table:
    """Measure resident memory under load, in the first and the last fifth of the time."""
    report(f"memory: {plan.minutes:g} minutes of load")
    samples: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            samples.append(server.megabytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    run = wrk(server, folder, count, plan.connections, 60 * plan.minutes)
    over.set()
    watcher.join()
    fifth = max(1, len(samples) // 5)
    parts = {"first fifth": samples[:fifth], "last fifth": samples[-fifth:]}
    runs.append(run)
    facts = {"megabytes": [round(sample) for sample in samples[:: max(1, len(samples) // 60)]]}
    title = f"memory of the server, {plan.minutes:g} minutes, {run['compared']:,} answers"
    return Table(title, "MB", "", rows(parts, None), facts)


def _attack(plan: Plan, server: Server, image: bytes, report: Report) -> list[Table]:
    # A first run, so that modules which are imported on demand do not count as growth.
    malformed.run(server.address, image, max(100, plan.attacks // 10), report)
    before = server.megabytes(), server.descriptors()
    report(f"attack: {plan.attacks} malformed requests")
    found = malformed.run(server.address, image, plan.attacks, report)
    time.sleep(3)  # until connections are closed
    numbers = {
        f"{kind}: {malformed.OUTCOMES.get(status, status)}": float(count)
        for kind, statuses in found.items()
        for status, count in sorted(statuses.items())
    }
    good = malformed.good(server.address, image)
    after = server.megabytes(), server.descriptors()
    total = sum(numbers.values())
    return [
        counted(f"{total:,.0f} malformed requests", "requests", numbers),
        counted(
            "the server after them",
            "MB or number",
            {
                "memory before": round(before[0]), "memory after": round(after[0]),
                "open descriptors before": before[1], "open descriptors after": after[1],
                "status of a good request": good,
            },
        ),
    ]  # fmt: skip
