"""A bar that counts things on a terminal; nothing elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def counting(what: str, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Gives a function to call with the number done and the total; the bar is on stderr."""
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


@contextlib.contextmanager
def bar(images: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """The same for so many images; gives a function to call with the number done."""
    with counting("images", shown) as count:
        yield lambda done: count(done, images)
