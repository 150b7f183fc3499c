"""Metrics of a run as JSON lines and as TensorBoard events."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any

from resnets.support.errors import UserError
from resnets.support.files import write_bytes, writing

FILE = "metrics.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run folder; a last line cut off by a kill is left out.

    Raises:
        UserError: if the file holds something else.
    """
    path = folder / FILE
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise UserError(
                f"line {len(rows) + 1} is not a line of metrics", str(path), "delete that line"
            )
        rows.append(row)
    return rows


class MetricsLog:
    """Appends metrics to a run folder, going on after `step`.

    What stands there of later steps, from before a kill, is dropped: it will come again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / FILE
        kept = [json.dumps(row) + "\n" for row in read(folder) if row["step"] <= step]
        write_bytes(self.path, "".join(kept).encode())
        with writing(self.path):
            self._file = self.path.open("a", encoding="utf-8")
        self._events = _event_writer(folder / "tensorboard", step)

    def write(self, metrics: dict[str, Any]) -> None:
        """Append one line; `step` is among the metrics. Raises `UserError` on a full disk."""
        with writing(self.path):
            self._file.write(json.dumps(metrics) + "\n")
            self._file.flush()
            if self._events is not None:
                for name, value in metrics.items():
                    if name not in ("step", "epoch", "seconds"):
                        self._events.add_scalar(name, value, metrics["step"])

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # On a full disk closing fails like writing did; the first failure is the one to tell.
        with contextlib.suppress(OSError) if error else writing(self.path):
            if self._events is not None:
                self._events.close()
        with contextlib.suppress(OSError) if error else writing(self.path):
            self._file.close()


def _event_writer(folder: Path, step: int) -> Any | None:
    """TensorBoard's writer, where the package is installed: bare GPU images lack it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    with writing(folder):
        return SummaryWriter(str(folder), purge_step=step + 1)
