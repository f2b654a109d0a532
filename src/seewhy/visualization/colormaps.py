"""Colormaps: from numbers to RGB. Each has 255 entries, so that one entry is exactly in the middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from seewhy.errors import OptionError, unknown_name_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLORMAP_ENTRIES = 255
_descending = np.linspace(1, 0, COLORMAP_ENTRIES)
_ones = np.ones(COLORMAP_ENTRIES)


def _matplotlib(name: str) -> Callable[[], NDArray[np.float64]]:
    def make() -> NDArray[np.float64]:
        import matplotlib

        return np.asarray(matplotlib.colormaps[name](np.linspace(0, 1, COLORMAP_ENTRIES))[:, :3])

    return make


COLORMAPS: dict[str, Callable[[], NDArray[np.float64]]] = {
    "white_black": lambda: np.stack([_descending, _descending, _descending], 1),  # 0 is white, 1 is black
    "white_red": lambda: np.stack([_ones, _descending, _descending], 1),
    "viridis": _matplotlib("viridis"),  # perceptually uniform
    "blue_red": _matplotlib("RdBu_r"),  # diverging: zero is white
    "jet": _matplotlib("jet"),  # common in other tools; not perceptually uniform
}


def colormap(cmap: str | Any) -> NDArray[np.float64]:
    """Look up a colormap as an array of RGB entries in 0..1.

    Args:
        cmap: a name in `COLORMAPS`, the name of any matplotlib colormap, or an array [entries, 3] in 0..1.

    Returns:
        [255, 3]; for an array the array itself, [entries, 3].

    Raises:
        UnknownNameError: no colormap has this name.
        OptionError: an array of another shape or range.
    """
    if isinstance(cmap, str):
        import matplotlib

        if cmap not in COLORMAPS and cmap not in matplotlib.colormaps:
            raise unknown_name_error("colormap", cmap, COLORMAPS)
        return COLORMAPS.get(cmap, _matplotlib(cmap))()
    table = np.asarray(cmap, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 3 or len(table) < 2 or not ((table >= 0) & (table <= 1)).all():
        found = f"{list(table.shape)} from {table.min():.4g} to {table.max():.4g}" if table.size else "empty"
        raise OptionError(
            f"a colormap array must be [entries, 3] in 0..1 with at least 2 entries, this one is {found}."
        )
    return table


def apply_colormap(
    values: Any, cmap: str | Any = "white_black", low: float = 0.0, high: float = 1.0
) -> NDArray[np.uint8]:
    """Convert values to 8-bit RGB; values outside `low`..`high` are clipped.

    Args:
        values: array of any shape, without NaN.
        cmap: see `colormap`. With a diverging colormap and low = -high, zero gets the middle color.
        low: value of the first color.
        high: value of the last color.

    Returns:
        [..., 3] uint8.

    Raises:
        OptionError: a value is NaN.
    """
    table = colormap(cmap)
    numbers = np.asarray(values, dtype=np.float64)
    if np.isnan(numbers).any():
        raise OptionError("the values contain NaN, which has no color: replace it first.")
    normalized = (numbers - low) / ((high - low) or 1)
    index = (normalized.clip(0, 1) * (len(table) - 1)).round().astype(int)
    return np.asarray((table[index] * 255).round(), dtype=np.uint8)
