"""Localization: how well a map agrees with a mask of the relevant region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from seewhy.errors import OptionError
from seewhy.inputs.arrays import tensor_of

from .perturbation_curves import maps_at_input_size

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.model import Model
    from seewhy.results import Explanation


def pointing(model: Model, e: Explanation, *, mask: Any, tolerance: int = 15) -> tuple[Tensor, Tensor]:
    """Pointing game: 1 if the largest value of the map lies on the mask or close to it, else 0; higher is better.

    Zhang et al. 2018 (excitation backprop), section 4.1. If several positions have the largest value, the result is
    the fraction of them that hit. Compare with the control `centre`, which scores high on centered objects.

    Args:
        model: the explained network; not used.
        e: the explanation.
        mask: true at the relevant positions, [*S] or [N, *S].
        tolerance: distance to the mask, along each axis, that still counts as a hit; 15 as in the paper.

    Returns:
        Values [N, K], and NaN as standard errors.

    Raises:
        OptionError: the mask has another shape, or no true position.
    """
    on_mask = _checked_mask(e, mask)
    near_mask = on_mask
    for axis in range(1, on_mask.ndim):
        near_mask = torch.stack([
            _shift_mask(near_mask, axis, step) for step in range(-tolerance, tolerance + 1)
            if abs(step) < on_mask.shape[axis]
        ]).any(0)  # fmt: skip
    heatmaps = maps_at_input_size(e).flatten(2)
    is_maximum = heatmaps == heatmaps.amax(2, keepdim=True)
    hits = (is_maximum & near_mask.flatten(1).unsqueeze(1)).sum(2).double() / is_maximum.sum(2)
    return hits, torch.full_like(hits, torch.nan)


def energy(model: Model, e: Explanation, *, mask: Any) -> tuple[Tensor, Tensor]:
    """Energy-based pointing game: fraction of the sum of positive values that lies on the mask; higher is better.

    Wang et al. 2020 (Score-CAM), section 4.3.

    Args:
        model: the explained network; not used.
        e: the explanation.
        mask: true at the relevant positions, [*S] or [N, *S].

    Returns:
        Values [N, K] (NaN for maps without positive values), and NaN as standard errors.

    Raises:
        OptionError: the mask has another shape, or no true position.
    """
    positive = maps_at_input_size(e).clamp(min=0)
    total = positive.flatten(2).sum(2)
    on_mask = (positive * _checked_mask(e, mask).unsqueeze(1)).flatten(2).sum(2)
    fraction = on_mask / total.masked_fill(total == 0, torch.nan)
    return fraction, torch.full_like(fraction, torch.nan)


def _checked_mask(e: Explanation, mask: Any) -> Tensor:
    """The mask as Booleans [N, *S]."""
    checked = tensor_of(mask).bool()
    size, n = tuple(e.input.shape[2:]), len(e.input)
    if tuple(checked.shape) not in (size, (n, *size)) or not checked.flatten(-len(size)).any(-1).all():
        raise OptionError(
            f"mask of shape {list(checked.shape)}: the shape must be {list(size)} or {[n, *size]}, and each mask needs "
            "at least one true position."
        )
    return checked.expand(n, *size)


def _shift_mask(mask: Tensor, axis: int, step: int) -> Tensor:
    """Shift a mask along an axis; positions that enter are false."""
    shifted = mask.roll(step, axis)
    entering = [slice(None)] * mask.ndim
    entering[axis] = slice(0, step) if step > 0 else slice(mask.shape[axis] + step, None)
    if step:
        shifted = shifted.clone()
        shifted[tuple(entering)] = False
    return shifted
