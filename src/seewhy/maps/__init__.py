"""Operations on attribution maps: channel reduction, rescaling, resampling, and named filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .resample import resample

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from seewhy.types import Maps, Values


__all__ = ["absolute_sum", "channel_sum", "resample", "rescale", "value_range"]


def absolute_sum(values: Values) -> Maps:
    """Sum of the channels' absolute values (Simonyan et al. 2014, section 3.1, with a sum in place of the maximum)."""
    return values.abs().sum(dim=2)


def channel_sum(values: Values) -> Maps:
    """Signed sum of the channels."""
    return values.sum(dim=2)


def value_range(maps: Maps) -> Float[Tensor, "N K"]:
    """Largest minus smallest value of each map."""
    flat = maps.flatten(2)
    return flat.amax(2) - flat.amin(2)


def rescale(maps: Maps) -> Maps:
    """Rescale each map to [0, 1]: (m - min) / (max - min). A constant map becomes zeros; no epsilon is added."""
    flat = maps.flatten(2)
    low, width = flat.amin(2, keepdim=True), value_range(maps).unsqueeze(2)
    return ((flat - low) / width.masked_fill(width == 0, 1)).reshape(maps.shape)
