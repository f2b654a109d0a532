"""Intervals for means over inputs and draws: both vary, and draws are shared by all inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An estimate between two bounds."""

    estimate: float
    low: float
    high: float


def two_way(statistic: Callable[[np.ndarray, np.ndarray], float], inputs: int, draws: int, *, share: float) -> Interval:
    """Interval of `statistic(which inputs, which draws)` by leaving out each input, then each draw: a jackknife.

    Its width follows Student's law with the degrees of freedom of Satterthwaite 1946, since there are few draws. A
    percentile bootstrap over both holds the true mean in 84 % of cases, not 95 %, where four draws differ more than
    the inputs.

    Of one input nothing is known but the estimate, and the bounds are NaN.

    Args:
        statistic: a number from two arrays of indices.
        inputs: how many there are.
        draws: how many there are.
        share: what the interval is to cover, 0.95 for one test.
    """
    from scipy.stats import t

    i, d = np.arange(inputs), np.arange(draws)
    estimate = statistic(i, d)
    parts = [
        _spread([statistic(np.delete(i, k), d) for k in i]) if inputs > 1 else 0.0,
        _spread([statistic(i, np.delete(d, k)) for k in d]) if draws > 1 else 0.0,
    ]
    variance = sum(parts)
    if inputs == 1:
        return Interval(estimate, math.nan, math.nan)
    if variance == 0:
        return Interval(estimate, estimate, estimate)
    freedom = variance**2 / sum(v**2 / max(1, n - 1) for v, n in zip(parts, (inputs, draws), strict=True))
    half = float(t.ppf((1 + share) / 2, freedom)) * variance**0.5
    return Interval(estimate, estimate - half, estimate + half)


def _spread(left_out: list[float]) -> float:
    """Variance of a statistic, from its values with one left out at a time."""
    n = len(left_out)
    return float(np.var(left_out) * (n - 1))
