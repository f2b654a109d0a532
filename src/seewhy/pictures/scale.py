"""From the values of a map to the span of its colours, and the words for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seewhy.errors import OptionError, choose

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALES = ("own", "shared")
# zero has the middle colour of these
DIVERGING = frozenset(
    name + end
    for name in ("blue_red", "BrBG", "PRGn", "PiYG", "PuOr", "RdBu", "RdGy", "RdYlBu", "RdYlGn", "Spectral", "bwr",
                 "coolwarm", "seismic", "berlin", "managua", "vanimo")
    for end in ("", "_r")
)  # fmt: skip


class Span(NamedTuple):
    """The values that get the first and the last colour; what is outside gets the nearest."""

    low: float
    high: float

    def share(self, heat: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values -> 0..1."""
        return np.asarray(((heat - self.low) / ((self.high - self.low) or 1)).clip(0, 1))

    def __str__(self) -> str:
        return f"{self.low:.2g} to {self.high:.2g}"


class Scale(NamedTuple):
    """How maps get their colours.

    Attributes:
        percentile: colours end at this percentile of the values (100: at the largest).
        signed: zero has the middle colour, and both ends are equally far from it.
        shared: one span for all maps of a figure; None: each map has its own.
    """

    percentile: float
    signed: bool = False
    shared: Span | None = None

    def span(self, heat: NDArray[np.float64]) -> Span:
        """Of one map."""
        return self.shared or _span(heat, self.percentile, self.signed)

    def words(self) -> str:
        """What the colour bar says."""
        of_what = "all maps" if self.shared else "each map"
        end = "largest" if self.percentile == 100 else f"{self.percentile:g}th percentile"
        if self.signed:
            return f"{of_what}: the middle is 0, the ends are\n± the {end} of absolute values"
        if self.shared:
            return f"{of_what} on one scale: smallest\nto {end} of all values"
        return f"{of_what}: 0 its smallest value,\n1 its {end}" + " value" * (self.percentile == 100)


def scale_of(kind: str, maps: Sequence[Any], cmap: Any, percentile: float) -> Scale:
    """The scale of a figure.

    Args:
        kind: "own", each map from its smallest to its largest colour, or "shared".
        maps: all that the figure shows, tensors of any size.
        cmap: a diverging one has zero in its middle.
        percentile: see `Scale`.

    Raises:
        OptionError: an unknown kind, or a percentile out of range.
    """
    choose("scale", kind, SCALES)
    if not 0 < percentile <= 100:
        raise OptionError(f"percentile={percentile}: above 0, up to 100.")
    signed = isinstance(cmap, str) and cmap in DIVERGING
    if kind == "own":
        return Scale(percentile, signed)
    every = np.concatenate([np.asarray(m, dtype=np.float64).ravel() for m in maps])
    return Scale(percentile, signed, _span(every, percentile, signed))


def _span(heat: NDArray[np.float64], percentile: float, signed: bool) -> Span:
    if signed:
        size = np.abs(heat)
        end = float(np.percentile(size, percentile)) or float(size.max())
        return Span(-end, end)
    low, high = float(heat.min()), float(np.percentile(heat, percentile))
    return Span(low, high if high > low else float(heat.max()))
