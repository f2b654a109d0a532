"""Intervals for means over inputs and draws: both are resampled, since draws are shared by all inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

ROUNDS = 1000


class Interval(NamedTuple):
    """An estimate between two bounds."""

    estimate: float
    low: float
    high: float


def two_way(
    statistic: Callable[[np.ndarray, np.ndarray], float], inputs: int, draws: int, *, share: float, seed: int
) -> Interval:
    """Percentile interval of `statistic(which inputs, which draws)`, both drawn with replacement.

    Args:
        statistic: a number from two arrays of indices.
        inputs: how many there are.
        draws: how many there are.
        share: what the interval is to cover, 0.95 for one test.
        seed: of the resampling.
    """
    draw = np.random.default_rng((seed, 11))
    found = [statistic(draw.integers(inputs, size=inputs), draw.integers(draws, size=draws)) for _ in range(ROUNDS)]
    low, high = np.nanquantile(found, [(1 - share) / 2, (1 + share) / 2])
    return Interval(statistic(np.arange(inputs), np.arange(draws)), float(low), float(high))
