"""Intervals over inputs and draws hold what they say they hold."""

from functools import partial

import numpy as np
import pytest
from scipy.stats import t

from seewhy.evidence.interval import two_way


def mean(values, i, d):
    return float(values[np.ix_(i, d)].mean())


def interval(values, share=0.95):
    return two_way(partial(mean, values), *values.shape, share=share)


def simulated(generator, n, draws, of_inputs, of_draws, rest):
    """Around 0.5: what the inputs have in common over draws, what draws have in common over inputs, and the rest."""
    return (
        0.5
        + of_inputs * generator.normal(size=(n, 1))
        + of_draws * generator.normal(size=(1, draws))
        + rest * generator.normal(size=(n, draws))
    )


@pytest.mark.parametrize(
    ("n", "draws", "of_inputs", "of_draws", "rest"),
    [
        (16, 4, 0.1, 0, 0.1),
        (16, 4, 0.1, 0.05, 0.05),
        (16, 4, 0.05, 0.2, 0.05),  # few draws, and they matter most
        (64, 8, 0.1, 0.05, 0.05),
        (5, 4, 0.1, 0.05, 0.05),
    ],
)
def test_coverage(n, draws, of_inputs, of_draws, rest):
    """Of 400 intervals at 95 %, 20 miss; 5 standard errors are 22. Too wide is wrong as well."""
    generator = np.random.default_rng(1)
    found = [interval(simulated(generator, n, draws, of_inputs, of_draws, rest)) for _ in range(400)]
    assert 0.92 < np.mean([f.low <= 0.5 <= f.high for f in found]) < 0.99
    assert 0.77 < np.mean([f.low <= 0.5 <= f.high for f in [Share(v) for v in found]]) < 0.95


class Share:
    """Two thirds of an interval, which must miss more often."""

    def __init__(self, whole):
        self.low, self.high = (whole.estimate + (end - whole.estimate) * 2 / 3 for end in (whole.low, whole.high))


def test_one_draw_is_students_interval():
    values = np.random.default_rng(0).normal(size=(12, 1))
    found = interval(values)
    half = t.ppf(0.975, 11) * values.std(ddof=1) / 12**0.5
    assert found.estimate == pytest.approx(values.mean())
    assert found.high - found.estimate == pytest.approx(half)
    assert found.estimate - found.low == pytest.approx(half)


def test_draws_are_shared_by_inputs():
    """Many inputs do not make up for few draws."""
    generator = np.random.default_rng(0)
    few, many = (interval(simulated(generator, n, 4, 0.01, 0.2, 0.01)) for n in (10, 1000))
    assert many.high - many.low > 0.3
    assert few.high - few.low > 0.3
    no_draws = interval(simulated(generator, 1000, 4, 0.01, 0, 0.01))
    assert no_draws.high - no_draws.low < 0.01


def test_ends():
    same = interval(np.full((6, 4), 0.3))
    assert same == pytest.approx((0.3, 0.3, 0.3))
    alone = interval(np.array([[0.3, 0.5]]))
    assert alone.estimate == pytest.approx(0.4)
    assert np.isnan(alone[1:]).all()  # of one input nothing is known
    values = np.random.default_rng(0).normal(size=(6, 4))
    narrow, wide = interval(values, 0.95), interval(values, 0.99)
    assert wide.low < narrow.low < narrow.estimate == wide.estimate < narrow.high < wide.high
    undefined = two_way(lambda i, d: float("nan"), 5, 3, share=0.95)
    assert np.isnan(undefined).all()
