"""A map over its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from seewhy.errors import OptionError

from .colour import colour

if TYPE_CHECKING:
    from numpy.typing import NDArray


def overlay(picture: Any, scaled: Any, alpha: float = 0.5, cmap: str | Any = "jet") -> NDArray[np.uint8]:
    """[H, W, 3] 8-bit RGB: (1 - alpha) · picture + alpha · coloured map.

    Args:
        picture: [H, W, 3] in 0..1.
        scaled: [H, W] in 0..1.
        alpha: 0 shows the picture, 1 the map.
        cmap: see `colormap`.

    Raises:
        OptionError: alpha outside 0..1, or sizes that differ.
    """
    base, heat = np.asarray(picture, dtype=np.float64), np.asarray(scaled)
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha={alpha}: from 0 (picture) to 1 (map).")
    if base.shape != (*heat.shape, 3):
        raise OptionError(f"the picture is {list(base.shape)}, the map {list(heat.shape)}: [H, W, 3] over [H, W].")
    return ((1 - alpha) * base * 255 + alpha * colour(heat, cmap)).round().astype(np.uint8)
