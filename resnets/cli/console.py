"""What several verbs print: progress bars, tables, durations, out-of-memory errors."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resnets.support.errors import UserError
from resnets.support.files import refuse_unwritable
from resnets.support.names import counted, printable

if TYPE_CHECKING:
    from rich.table import Table

SMALLER_BATCH = "try a smaller batch: --batch 8"
MORE_MEMORY = "close other programs, or use a machine with more memory"
"""The hint where the user chooses no batch."""
_NO_MEMORY = re.compile("out of memory|allocate memory|not enough memory", re.IGNORECASE)


def to_stderr(line: str) -> None:
    """Print a line that does not belong to the result."""
    print(printable(line), file=sys.stderr)


def yield_if(idle: bool) -> None:
    """Yield the processor to all other work, and say by what means."""
    if idle:
        from resnets.support.idle import yield_to_others

        means = ", ".join(yield_to_others()) or "not possible on this system"
        to_stderr(f"yielding to other work: {means}")


def program() -> str:
    """How the user can call this program again: by its name only where it is on the PATH."""
    if shutil.which("resnets"):
        return "resnets"
    return "python -m resnets" if sys.argv[0].endswith("__main__.py") else sys.argv[0]


def refuse_plot(path: Path | None) -> None:
    """Raise `UserError` if a picture cannot be written at `path`; None is no picture."""
    refuse_unwritable(path, "--plot", (".png",))


@contextmanager
def progress_bar(what: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere.

    Args:
        what: what is counted, such as `images`.

    Yields:
        A function to call with the number done and the total.
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        BarColumn(bar_width=32),
        TextColumn("{task.completed:,.0f} / {task.total:,.0f} " + what + ", left"),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True, highlight=False),
        transient=True,
        refresh_per_second=4,
    )
    with bar:
        task = bar.add_task("", total=1)
        yield lambda done, total: bar.update(task, completed=done, total=max(total, 1))


@contextmanager
def resumable(path: Path, what: str) -> Iterator[None]:
    """After Ctrl-C, say how to continue to write `what` in `path`."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"Stopped; the {what} so far are in {path}. Repeat the command to continue.")
        sys.exit(130)


@contextmanager
def image_bar(images: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """The same for a known number of images; yields a function of the number done."""
    with progress_bar("images", shown) as update:
        yield lambda done: update(done, images)


def say_unreadable(images: int) -> None:
    """Say on stderr how many images could not be read, unless it is none."""
    if images:
        to_stderr(f"resnets: {counted(images, 'image')} could not be read")


def table(*columns: str, gap: int = 3) -> Table:
    """A table without lines: the first column to the left, the others to the right."""
    from rich.table import Table

    made = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for number, title in enumerate(columns):
        made.add_column(title, justify="right" if number else "left", no_wrap=not number)
    return made


def print_table(made: Table) -> None:
    """Print a table without colours."""
    from rich.console import Console

    Console(highlight=False).print(made)


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about(seconds: float) -> str:
    """A rough time: 3 h, 12 min, 40 s."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python or PyTorch means that memory ran out."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


@contextmanager
def enough_memory(hint: str) -> Iterator[None]:
    """Turn an error for lack of memory into a `UserError` with this hint."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError("out of memory", hint=hint) from error


def error_line(what: str, wrong: int, images: int) -> str:
    """An error rate in percent, with its counts and its 95 % interval."""
    from resnets.evaluation.results import wilson

    low, high = wilson(wrong, images)
    return (
        f"{what}: {100 * wrong / images:.2f} % ({wrong:,} of {counted(images, 'image')}; "
        f"95 % interval {low:.2f} to {high:.2f} %)"
    )
