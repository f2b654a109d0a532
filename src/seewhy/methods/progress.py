"""A bar for work that takes longer than two seconds, on stderr only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 2.0  # seconds


@contextmanager
def tracked(what: str, wanted: bool | None) -> Iterator[Callable[..., None]]:
    """Give a function (passes, reached="") that counts; the bar appears when the patience is over.

    Args:
        what: stands before the bar.
        wanted: None: only where stderr is a terminal.
    """
    show = sys.stderr.isatty() if wanted is None else wanted
    began, count = time.monotonic(), 0
    bars: list[Any] = []

    def advance(passes: int, reached: str = "") -> None:
        nonlocal count
        count += passes
        if not show:
            return
        if not bars and time.monotonic() - began > PATIENCE:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (
                TextColumn(what),
                BarColumn(),
                TextColumn("{task.completed} passes{task.fields[reached]}"),
                TimeElapsedColumn(),
            )
            bars.append(Progress(*columns, console=Console(stderr=True, force_terminal=wanted), transient=True))
            bars[0].add_task(what, total=None, reached=reached)
            bars[0].start()
        for bar in bars:
            bar.update(bar.task_ids[0], completed=count, reached=reached)

    try:
        yield advance
    finally:
        for bar in bars:
            bar.stop()
