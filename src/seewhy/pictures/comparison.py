"""Methods side by side, and the table of how far they agree."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .sheet import png, show
from .table import table

if TYPE_CHECKING:
    from seewhy.types import Comparison, Measured


def text(given: Comparison) -> str:
    """A row and a column a method: rank correlation with its interval."""
    return table(("agreement", *given.methods), rows(given))


def rows(given: Comparison) -> list[tuple[str, ...]]:
    """Name, and a cell a method."""
    return [
        (name, *("" if a == b else _cell(*given.agreement[a, b]) for b in range(len(given.methods))))
        for a, name in enumerate(given.methods)
    ]


def measured(given: Measured) -> str:
    """One line."""
    better = f" ({given.better} is better)" if given.better else ""
    return f"{given.check} of {given.method}{better}: {_cell(given.mean, given.low, given.high)}"


def _cell(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "undefined"
    return f"{mean:.3g}" if math.isnan(low) else f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def sheet(given: Comparison, **options: Any) -> Any:
    """The sheet of all methods, the input first, as a PIL picture."""
    return show(given.maps, **options)


def picture(given: Comparison, **options: Any) -> bytes:
    """The same as the bytes of a PNG file."""
    return png(given.maps, **options)
