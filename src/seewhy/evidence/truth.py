"""A map against a mask of where the answer is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from seewhy.errors import OptionError

from .curves import at_input

if TYPE_CHECKING:
    from torch import Tensor

    from seewhy.types import Explanation, Model


def pointing(model: Model, e: Explanation, *, mask: Any, tolerance: int = 15) -> tuple[Tensor, Tensor]:
    """1 where the largest value of the map lies on the mask or near it, else 0; of equal ones, the share that do.

    Zhang et al. 2018 (excitation backprop), section 4.1: within 15 positions. A blob in the middle does well where
    objects are in the middle: compare with the control `centre`.

    Args:
        model: who answered.
        e: what it explains.
        mask: true where the answer is, [*S] or [N, *S].
        tolerance: how many positions next to the mask still count, along each axis.
    """
    inside = _mask(e, mask)
    near = inside
    for axis in range(1, inside.ndim):
        near = torch.stack([
            _shifted(near, axis, step) for step in range(-tolerance, tolerance + 1)
            if abs(step) < inside.shape[axis]
        ]).any(0)  # fmt: skip
    whole = at_input(e).flatten(2)
    top = whole == whole.amax(2, keepdim=True)
    hits = (top & near.flatten(1).unsqueeze(1)).sum(2).double() / top.sum(2)
    return hits, torch.full_like(hits, torch.nan)


def energy(model: Model, e: Explanation, *, mask: Any) -> tuple[Tensor, Tensor]:
    """The share of the map's positive mass that lies on the mask.

    Wang et al. 2020 (Score-CAM), section 4.3.

    Args:
        model: who answered.
        e: what it explains.
        mask: true where the answer is, [*S] or [N, *S].
    """
    whole = at_input(e).clamp(min=0)
    total = whole.flatten(2).sum(2)
    share = (whole * _mask(e, mask).unsqueeze(1)).flatten(2).sum(2) / total.masked_fill(total == 0, torch.nan)
    return share, torch.full_like(share, torch.nan)


def _mask(e: Explanation, mask: Any) -> Tensor:
    given = torch.as_tensor(mask).bool()
    size, n = tuple(e.input.shape[2:]), len(e.input)
    if tuple(given.shape) not in (size, (n, *size)) or not given.flatten(-len(size)).any(-1).all():
        raise OptionError(
            f"mask of shape {list(given.shape)}: {list(size)} or {[n, *size]}, true somewhere, is needed."
        )
    return given.expand(n, *size)


def _shifted(mask: Tensor, axis: int, step: int) -> Tensor:
    """The mask moved along an axis; what comes in is false."""
    moved = mask.roll(step, axis)
    edge = [slice(None)] * mask.ndim
    edge[axis] = slice(0, step) if step > 0 else slice(mask.shape[axis] + step, None)
    if step:
        moved = moved.clone()
        moved[tuple(edge)] = False
    return moved
