"""A bar for work that takes longer than two seconds, on stderr only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

PATIENCE = 2.0  # seconds
PAUSE = 0.1  # between two looks of the bar, which is drawn as passes come in: no thread is left behind


class Way(NamedTuple):
    """How far a call has come that is made of many."""

    began: float  # of time.monotonic
    passes: int
    parts: int  # that are done
    of: int | None  # how many there are; None: nobody knows


@contextmanager
def tracked(
    what: str, wanted: bool | Callable[..., None] | None, way: Way | None = None
) -> Iterator[Callable[..., None]]:
    """Give a function (passes, reached="") that counts; the bar appears when the patience is over.

    Args:
        what: stands before the bar.
        wanted: None: only where stderr is a terminal. A function: it is told instead, and nothing is shown.
        way: of a bar that goes on where another one ended.
    """
    if callable(wanted):
        yield lambda passes, reached="": wanted(passes)
        return
    show = sys.stderr.isatty() if wanted is None else wanted
    began, count = (time.monotonic(), 0) if way is None else (way.began, way.passes)
    bars: list[Any] = []
    drawn = 0.0

    def advance(passes: int, reached: str = "") -> None:
        nonlocal count, drawn
        count += passes
        now = time.monotonic()
        if not show:
            return
        if not bars and now - began > PATIENCE:
            bars.append(_bar(what, wanted, began, way))
        look = now - drawn > PAUSE
        drawn = now if look else drawn
        for bar in bars:
            known = {"completed": count} if way is None else {}
            bar.update(bar.task_ids[0], refresh=look, passes=count, reached=reached, **known)

    try:
        if way is not None:
            advance(0)
        yield advance
    finally:
        for bar in bars:
            bar.stop()


def _bar(what: str, wanted: bool | None, began: float, way: Way | None) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    parts = ""
    if way is not None:
        parts = f"{way.parts} batches, " if way.of is None else f"{way.parts} of {way.of} batches, "
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn(parts + "{task.fields[passes]} passes{task.fields[reached]}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True, force_terminal=wanted)
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
    bar.add_task(what, total=None if way is None else way.of, completed=way.parts if way else 0, passes=0, reached="")
    bar.tasks[0].start_time = began  # the clock of the whole, not of this part
    bar.start()
    return bar
