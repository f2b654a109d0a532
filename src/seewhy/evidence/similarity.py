"""How alike two maps are: Spearman's rank correlation, and what is left of it when a third thing is taken out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


ALONE = 1e-3  # share of a map's order that does not follow from the input, below which it is called a function of it


def ranks(maps: Float[Tensor, "*N P"]) -> Float[Tensor, "*N P"]:
    """Average ranks along the last axis, centred and of length one, so that a product is Spearman's correlation.

    Equal values share the mean of their ranks; where all are equal there is no order, and the row is zero.
    """
    from scipy.stats import rankdata

    found: Tensor = torch.from_numpy(rankdata(maps.detach().cpu().numpy(), axis=-1))
    found = found - found.mean(-1, keepdim=True)
    length: Tensor = found.norm(dim=-1, keepdim=True)
    found /= length.masked_fill(length == 0, 1)
    return found


class Ranked(NamedTuple):
    """Maps [N, P] with their ranks."""

    maps: Tensor
    ranks: Tensor


def ranked(maps: Tensor) -> Ranked:
    """Maps [N, P], each with its ranks."""
    return Ranked(maps, ranks(maps))


def partial(a: Ranked, b: Ranked, given: Ranked) -> np.ndarray:
    """Spearman's correlation of maps, row by row, with what follows from a third taken out, where that is not zero.

    Where a map has nothing but the third's order, it is a function of the input alone: 1 if both are, else 0.
    """
    if not bool((given.maps > 0).all()):
        return np.array([_on_support(*row) for row in zip(a.maps, b.maps, given.maps, strict=True)])
    three = [(u.ranks * v.ranks).sum(1).tolist() for u, v in ((a, b), (a, given), (b, given))]
    return np.array([_taken_out(*row) for row in zip(*three, strict=True)])


def _on_support(a: Tensor, b: Tensor, given: Tensor) -> float:
    on = given > 0
    if int(on.sum()) < 3:
        return 0.0
    ra, rb, rc = ranks(torch.stack([a[on], b[on], given[on]]).double())
    return _taken_out(*(float(u @ v) for u, v in ((ra, rb), (ra, rc), (rb, rc))))


def _taken_out(ab: float, ac: float, bc: float) -> float:
    """First-order partial correlation."""
    alone = [1 - r**2 < ALONE for r in (ac, bc)]
    if any(alone):
        return float(all(alone))
    return (ab - ac * bc) / math.sqrt((1 - ac**2) * (1 - bc**2))
