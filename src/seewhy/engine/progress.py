"""Progress bar on stderr, shown for work that takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

BAR_DELAY = 2.0  # seconds before the bar appears
BAR_REFRESH_INTERVAL = 0.1  # seconds; the bar is updated by calls of `advance`, without a thread of its own


class StreamProgress(NamedTuple):
    """Progress of a call that explains a data set batch by batch."""

    start_time: float  # of time.monotonic
    passes: int  # forward passes so far, counted per sample
    batches: int  # batches so far
    total_batches: int | None  # None: unknown


@contextmanager
def track_progress(
    label: str, progress: bool | Callable[..., None] | None, position: StreamProgress | None = None
) -> Iterator[Callable[..., None]]:
    """Yield a function advance(passes, detail="") that counts passes and updates the bar.

    Args:
        label: text in front of the bar.
        progress: whether to show a bar; None: only if stderr is a terminal. A function: it is called with the number
            of passes instead, and no bar is shown.
        position: the progress so far, for a bar that continues an earlier one.
    """
    if callable(progress):
        yield lambda passes, detail="": progress(passes)
        return
    show = sys.stderr.isatty() if progress is None else progress
    start_time, count = (time.monotonic(), 0) if position is None else (position.start_time, position.passes)
    bars: list[Any] = []
    last_refresh = 0.0

    def advance(passes: int, detail: str = "") -> None:
        nonlocal count, last_refresh
        count += passes
        now = time.monotonic()
        if not show:
            return
        if not bars and now - start_time > BAR_DELAY:
            bars.append(_make_bar(label, progress, start_time, position))
        refresh = now - last_refresh > BAR_REFRESH_INTERVAL
        last_refresh = now if refresh else last_refresh
        for bar in bars:
            completed = {"completed": count} if position is None else {}
            bar.update(bar.task_ids[0], refresh=refresh, passes=count, detail=detail, **completed)

    try:
        if position is not None:
            advance(0)
        yield advance
    finally:
        for bar in bars:
            bar.stop()


def _make_bar(label: str, show: bool | None, start_time: float, position: StreamProgress | None) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    batches, total = "", None
    if position is not None:
        total = position.total_batches
        batches = f"{position.batches} batches, " if total is None else f"{position.batches} of {total} batches, "
    columns = (
        TextColumn(label),
        BarColumn(),
        TextColumn(batches + "{task.fields[passes]} passes{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True, force_terminal=show)
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
    bar.add_task(label, total=total, completed=position.batches if position else 0, passes=0, detail="")
    bar.tasks[0].start_time = start_time  # for the elapsed time since the first batch
    bar.start()
    return bar
