"""Coverage and width of the two-way jackknife interval."""

from functools import partial

import numpy as np
import pytest
from scipy.stats import t

from seewhy.evaluation.confidence_interval import jackknife_interval


def mean_of_selected(values, i, d):
    return float(values[np.ix_(i, d)].mean())


def interval(values, confidence=0.95):
    return jackknife_interval(partial(mean_of_selected, values), *values.shape, confidence=confidence)


def simulated_values(generator, n, draws, input_std, draw_std, residual_std):
    """Values around 0.5: sum of an effect of the input, an effect of the draw and a residual."""
    return (
        0.5
        + input_std * generator.normal(size=(n, 1))
        + draw_std * generator.normal(size=(1, draws))
        + residual_std * generator.normal(size=(n, draws))
    )


@pytest.mark.parametrize(
    ("n", "draws", "input_std", "draw_std", "residual_std"),
    [
        (16, 4, 0.1, 0, 0.1),
        (16, 4, 0.1, 0.05, 0.05),
        (16, 4, 0.05, 0.2, 0.05),  # few draws with the largest variance
        (64, 8, 0.1, 0.05, 0.05),
        (5, 4, 0.1, 0.05, 0.05),
    ],
)
def test_jackknife_interval_coverage(n, draws, input_std, draw_std, residual_std):
    """Coverage of 400 intervals of 95 %, and of the same intervals shortened by a third."""
    generator = np.random.default_rng(1)
    samples = (simulated_values(generator, n, draws, input_std, draw_std, residual_std) for _ in range(400))
    intervals = [interval(values) for values in samples]
    assert 0.92 < np.mean([i.low <= 0.5 <= i.high for i in intervals]) < 0.99
    assert 0.77 < np.mean([i.low <= 0.5 <= i.high for i in map(Shortened, intervals)]) < 0.95


class Shortened:
    """An interval shortened to two thirds of its width."""

    def __init__(self, whole):
        self.low, self.high = (whole.estimate + (end - whole.estimate) * 2 / 3 for end in (whole.low, whole.high))


def test_jackknife_interval_one_draw_is_t_interval():
    values = np.random.default_rng(0).normal(size=(12, 1))
    result = interval(values)
    half = t.ppf(0.975, 11) * values.std(ddof=1) / 12**0.5
    assert result.estimate == pytest.approx(values.mean())
    assert result.high - result.estimate == pytest.approx(half)
    assert result.estimate - result.low == pytest.approx(half)


def test_jackknife_interval_width_with_few_draws():
    """The width does not decrease with the number of inputs if the draws vary."""
    generator = np.random.default_rng(0)
    few, many = (interval(simulated_values(generator, n, 4, 0.01, 0.2, 0.01)) for n in (10, 1000))
    assert many.high - many.low > 0.3
    assert few.high - few.low > 0.3
    no_draws = interval(simulated_values(generator, 1000, 4, 0.01, 0, 0.01))
    assert no_draws.high - no_draws.low < 0.01


def test_jackknife_interval_edge_cases():
    same = interval(np.full((6, 4), 0.3))
    assert same == pytest.approx((0.3, 0.3, 0.3))
    alone = interval(np.array([[0.3, 0.5]]))
    assert alone.estimate == pytest.approx(0.4)
    assert np.isnan(alone[1:]).all()  # undefined for a single input
    values = np.random.default_rng(0).normal(size=(6, 4))
    narrow, wide = interval(values, 0.95), interval(values, 0.99)
    assert wide.low < narrow.low < narrow.estimate == wide.estimate < narrow.high < wide.high
    undefined = jackknife_interval(lambda i, d: float("nan"), 5, 3, confidence=0.95)
    assert np.isnan(undefined).all()
