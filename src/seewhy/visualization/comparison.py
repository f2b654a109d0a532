"""Output of `seewhy.compare` and `seewhy.measure`: the table of agreement, the sheet, and one line per measurement."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .sheet import png, show
from .tables import text_table

if TYPE_CHECKING:
    from PIL.Image import Image

    from seewhy.results import Comparison, Measurement


def comparison_text(comparison: Comparison) -> str:
    """Format the rank correlations as a text table, one row and one column per method, with 95 % intervals."""
    return text_table(("agreement", *comparison.methods), agreement_rows(comparison))


def agreement_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The rows of the agreement table: a method's name, then one cell per method."""
    count = len(comparison.methods)
    return [
        (name, *("" if a == b else _estimate_with_interval(*comparison.agreement[a, b]) for b in range(count)))
        for a, name in enumerate(comparison.methods)
    ]


def measurement_text(measurement: Measurement) -> str:
    """Format a measurement as one line: metric, method, mean and 95 % interval."""
    better = f" ({measurement.better} is better)" if measurement.better else ""
    mean = _estimate_with_interval(measurement.mean, measurement.low, measurement.high)
    return f"{measurement.check} of {measurement.method}{better}: {mean}"


def _estimate_with_interval(mean: float, low: float, high: float) -> str:
    if math.isnan(mean):
        return "undefined"
    return f"{mean:.3g}" if math.isnan(low) else f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def show_comparison(comparison: Comparison, **options: Any) -> Image:
    """Render one sheet with the input and the maps of all methods as a PIL image; see `figure` for the options."""
    return show(comparison.maps, **options)


def comparison_png(comparison: Comparison, **options: Any) -> bytes:
    """Encode the sheet of all methods as PNG; see `figure` for the options."""
    return png(comparison.maps, **options)
