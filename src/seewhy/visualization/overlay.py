"""Overlay: a colored map blended over its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from seewhy.errors import OptionError

from .colormaps import apply_colormap

if TYPE_CHECKING:
    from numpy.typing import NDArray


def overlay(picture: Any, scaled: Any, alpha: float = 0.5, cmap: str | Any = "jet") -> NDArray[np.uint8]:
    """Blend a map over a picture: (1 - alpha) · picture + alpha · colored map.

    Args:
        picture: [H, W, 3] in 0..1.
        scaled: the map, [H, W] in 0..1.
        alpha: weight of the map: 0 shows the picture only, 1 the map only.
        cmap: see `colormap`.

    Returns:
        [H, W, 3] uint8 RGB.

    Raises:
        OptionError: alpha is outside 0..1, or the sizes differ.
    """
    base, heat = np.asarray(picture, dtype=np.float64), np.asarray(scaled)
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha={alpha}: it must be from 0 (picture) to 1 (map).")
    if base.shape != (*heat.shape, 3):
        raise OptionError(
            f"the picture is {list(base.shape)}, the map {list(heat.shape)}: they must be [H, W, 3] and [H, W]."
        )
    return ((1 - alpha) * base * 255 + alpha * apply_colormap(heat, cmap)).round().astype(np.uint8)
