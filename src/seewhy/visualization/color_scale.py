"""Color scales: which values of a map get the first and the last color, and the label of the color bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seewhy.errors import OptionError, check_choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE_MODES = ("own", "shared")
# diverging colormaps: zero gets their middle color
DIVERGING_COLORMAPS = frozenset(
    name + end
    for name in ("blue_red", "BrBG", "PRGn", "PiYG", "PuOr", "RdBu", "RdGy", "RdYlBu", "RdYlGn", "Spectral", "bwr",
                 "coolwarm", "seismic", "berlin", "managua", "vanimo")
    for end in ("", "_r")
)  # fmt: skip


class ColorRange(NamedTuple):
    """The values that get the first and the last color; values outside are clipped."""

    low: float
    high: float

    def normalize(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map `low`..`high` linearly to 0..1 and clip."""
        return np.asarray(((values - self.low) / ((self.high - self.low) or 1)).clip(0, 1))

    def __str__(self) -> str:
        return f"{self.low:.2g} to {self.high:.2g}"


class ColorScale(NamedTuple):
    """How the values of maps are assigned to colors.

    Attributes:
        percentile: the last color stands for this percentile of the values (100: for the largest value).
        signed: zero gets the middle color, and the range is symmetric around zero.
        shared: one range for all maps of a figure; None: each map has its own.
    """

    percentile: float
    signed: bool = False
    shared: ColorRange | None = None

    def range_of(self, values: NDArray[np.float64]) -> ColorRange:
        """The color range of one map."""
        return self.shared or _color_range(values, self.percentile, self.signed)

    def label(self) -> str:
        """The label of the color bar."""
        subject = "all maps" if self.shared else "each map"
        end = "largest" if self.percentile == 100 else f"{self.percentile:g}th percentile"
        if self.signed:
            return f"{subject}: the middle is 0, the ends are\n± the {end} of absolute values"
        if self.shared:
            return f"{subject} on one scale: smallest\nto {end} of all values"
        return f"{subject}: 0 is its smallest value,\n1 is its {end}" + " value" * (self.percentile == 100)


def make_color_scale(mode: str, maps: Sequence[Any], cmap: Any, percentile: float) -> ColorScale:
    """Make the color scale of a figure.

    Args:
        mode: "own": each map uses all colors; "shared": one range of values for all maps.
        maps: all maps of the figure, tensors of any shape; used by "shared" only.
        cmap: the colormap; if it is the name of a diverging one, zero gets its middle color.
        percentile: see `ColorScale`.

    Raises:
        OptionError: an unknown mode, or a percentile out of range.
    """
    check_choice("scale", mode, SCALE_MODES)
    if not 0 < percentile <= 100:
        raise OptionError(f"percentile={percentile}: it must be above 0 and at most 100.")
    signed = isinstance(cmap, str) and cmap in DIVERGING_COLORMAPS
    if mode == "own":
        return ColorScale(percentile, signed)
    values = np.concatenate([np.asarray(m, dtype=np.float64).ravel() for m in maps])
    return ColorScale(percentile, signed, _color_range(values, percentile, signed))


def _color_range(values: NDArray[np.float64], percentile: float, signed: bool) -> ColorRange:
    if signed:
        size = np.abs(values)
        end = float(np.percentile(size, percentile)) or float(size.max())
        return ColorRange(-end, end)
    low, high = float(values.min()), float(np.percentile(values, percentile))
    return ColorRange(low, high if high > low else float(values.max()))
