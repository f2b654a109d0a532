"""Similarity of maps: Spearman's rank correlation, and its partial form given a third map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


# 1 - r² with the controlled map; a map with less is treated as a function of the controlled map
MIN_UNEXPLAINED_VARIANCE = 1e-3


def normalized_ranks(maps: Float[Tensor, "*N P"]) -> Float[Tensor, "*N P"]:
    """Compute ranks along the last axis, centered and scaled to unit norm: a dot product is Spearman's correlation.

    Equal values have the mean of their ranks. A constant map has zeros.

    Args:
        maps: [*N, P].

    Returns:
        [*N, P].
    """
    from scipy.stats import rankdata

    ranks: Tensor = torch.from_numpy(rankdata(maps.detach().cpu().numpy(), axis=-1))
    ranks = ranks - ranks.mean(-1, keepdim=True)
    norm: Tensor = ranks.norm(dim=-1, keepdim=True)
    ranks /= norm.masked_fill(norm == 0, 1)
    return ranks


class RankedMaps(NamedTuple):
    """Maps [N, P] and their normalized ranks [N, P]."""

    maps: Tensor
    ranks: Tensor


def rank_maps(maps: Tensor) -> RankedMaps:
    """Maps [N, P] together with their normalized ranks."""
    return RankedMaps(maps, normalized_ranks(maps))


def partial_rank_correlation(a: RankedMaps, b: RankedMaps, given: RankedMaps) -> np.ndarray:
    """Partial Spearman correlation of `a` and `b` given a third map, one value per sample.

    Only positions where `given` is greater than zero are used. A map whose order follows from `given` alone has no
    residual: the result is 1 if this holds for both maps, 0 if it holds for one. With fewer than three positions it
    is 0.

    Args:
        a: maps [N, P].
        b: maps [N, P].
        given: the maps [N, P] that are controlled for.

    Returns:
        [N].
    """
    if not bool((given.maps > 0).all()):
        return np.array([_partial_correlation_on_support(*row) for row in zip(a.maps, b.maps, given.maps, strict=True)])
    pairwise = [(u.ranks * v.ranks).sum(1).tolist() for u, v in ((a, b), (a, given), (b, given))]
    return np.array([_first_order_partial_correlation(*row) for row in zip(*pairwise, strict=True)])


def _partial_correlation_on_support(a: Tensor, b: Tensor, given: Tensor) -> float:
    support = given > 0
    if int(support.sum()) < 3:
        return 0.0
    ra, rb, rc = normalized_ranks(torch.stack([a[support], b[support], given[support]]).double())
    return _first_order_partial_correlation(*(float(u @ v) for u, v in ((ra, rb), (ra, rc), (rb, rc))))


def _first_order_partial_correlation(ab: float, ac: float, bc: float) -> float:
    """Partial correlation of a and b given c, from the three pairwise correlations."""
    no_residual = [1 - r**2 < MIN_UNEXPLAINED_VARIANCE for r in (ac, bc)]
    if any(no_residual):
        return float(all(no_residual))
    return (ab - ac * bc) / math.sqrt((1 - ac**2) * (1 - bc**2))
