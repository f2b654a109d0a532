"""Numbers -> colours. Every colormap has 255 entries, so that one of them is the exact middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from seewhy.errors import OptionError, unknown

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENTRIES = 255
_fall = np.linspace(1, 0, ENTRIES)
_full = np.ones(ENTRIES)


def _matplotlib(name: str) -> Callable[[], NDArray[np.float64]]:
    def make() -> NDArray[np.float64]:
        import matplotlib

        return np.asarray(matplotlib.colormaps[name](np.linspace(0, 1, ENTRIES))[:, :3])

    return make


COLORMAPS: dict[str, Callable[[], NDArray[np.float64]]] = {
    "white_black": lambda: np.stack([_fall, _fall, _fall], 1),  # 0 is white, 1 is black
    "white_red": lambda: np.stack([_full, _fall, _fall], 1),
    "viridis": _matplotlib("viridis"),  # perceptual: equal steps look equal
    "blue_red": _matplotlib("RdBu_r"),  # diverging: white is zero
    "jet": _matplotlib("jet"),  # as other tools draw; its steps do not look equal
}


def colormap(cmap: str | Any) -> NDArray[np.float64]:
    """[255, 3] in 0..1 (or the rows of an array given): one of `COLORMAPS`, any name of matplotlib's, or an array.

    Raises:
        UnknownNameError: no such colormap.
        OptionError: an array that is none.
    """
    if isinstance(cmap, str):
        import matplotlib

        if cmap not in COLORMAPS and cmap not in matplotlib.colormaps:
            raise unknown("colormap", cmap, COLORMAPS)
        return COLORMAPS.get(cmap, _matplotlib(cmap))()
    table = np.asarray(cmap, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 3 or len(table) < 2 or not ((table >= 0) & (table <= 1)).all():
        span = f"{list(table.shape)} from {table.min():.4g} to {table.max():.4g}" if table.size else "empty"
        raise OptionError(f"a colormap is an array [entries, 3] in 0..1, this one is {span}.")
    return table


def colour(values: Any, cmap: str | Any = "white_black", low: float = 0.0, high: float = 1.0) -> NDArray[np.uint8]:
    """[..., 3] 8-bit RGB: `low` gets the first colour, `high` the last, what is outside gets the nearest.

    Args:
        values: any array; not NaN.
        cmap: see `colormap`. For a diverging one give low = -high, and zero has the middle colour.
        low: value of the first colour.
        high: value of the last.

    Raises:
        OptionError: values that are NaN.
    """
    table = colormap(cmap)
    numbers = np.asarray(values, dtype=np.float64)
    if np.isnan(numbers).any():
        raise OptionError("NaN has no colour.")
    share = (numbers - low) / ((high - low) or 1)
    index = (share.clip(0, 1) * (len(table) - 1)).round().astype(int)
    return np.asarray((table[index] * 255).round(), dtype=np.uint8)
