"""Spearman's rank correlation and its partial form."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from seewhy.evaluation.rank_correlation import normalized_ranks, partial_rank_correlation, rank_maps


def normal_values(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def spearman(a, b):
    return float((normalized_ranks(a[None]) * normalized_ranks(b[None])).sum())


@pytest.mark.parametrize("values", [1e9, 5, 2], ids=["no ties", "many ties", "two values"])
def test_normalized_ranks_match_spearman(values):
    a, b = normal_values(20, 49), normal_values(20, 49, seed=1)
    a, b = ((v * values).round() if values < 1e9 else v for v in (a, a * 0.5 + b))
    if values == 2:
        a, b = (a > 0).double(), (b > 0.5).double()
    product = (normalized_ranks(a) * normalized_ranks(b)).sum(1)
    for n in range(20):
        assert float(product[n]) == pytest.approx(spearmanr(a[n], b[n]).statistic, abs=1e-12)
    all_pairs = normalized_ranks(a) @ normalized_ranks(b).T
    assert float(all_pairs[3, 7]) == pytest.approx(spearmanr(a[3], b[7]).statistic, abs=1e-12)


def test_constant_map_has_correlation_zero():
    """Also with itself: neither NaN nor 1."""
    flat, other = torch.zeros(9), normal_values(9)
    assert spearman(flat, other) == spearman(flat, flat) == spearman(flat, flat + 3) == 0
    assert spearman(other, other) == pytest.approx(1)
    assert normalized_ranks(torch.zeros(3, 1)).tolist() == [[0], [0], [0]]


def test_rank_correlation_depends_on_positions():
    """The same values at other positions are not similar, unlike with histograms."""
    a = normal_values(400)
    moved = a.view(20, 20).T.flatten()
    assert abs(spearman(a, moved)) < 0.2
    assert spearman(a, a.exp()) == pytest.approx(1)  # invariant to increasing functions
    assert spearman(a, -a) == pytest.approx(-1)


def partial_correlation_by_regression(a, b, c):
    """Definition: correlation of the residuals of linear regressions on the ranks of the third variable."""
    residuals = []
    for v in (a, b):
        x, y = rankdata(c), rankdata(v)
        slope, intercept = np.polyfit(x, y, 1)
        residuals.append(y - slope * x - intercept)
    return np.corrcoef(*residuals)[0, 1]


def test_partial_rank_correlation_matches_residuals():
    c = normal_values(12, 60).abs() + 0.1
    a, b = c + normal_values(12, 60, seed=1).abs(), 2 * c + normal_values(12, 60, seed=2)
    result = partial_rank_correlation(rank_maps(a), rank_maps(b), rank_maps(c))
    for n in range(12):
        assert result[n] == pytest.approx(partial_correlation_by_regression(a[n], b[n], c[n]), abs=1e-9)


def test_partial_rank_correlation_uses_support_only():
    c = normal_values(8, 80).abs()
    c[:, ::3] = 0
    a, b = c * normal_values(8, 80, seed=1).abs(), c * normal_values(8, 80, seed=2).abs()
    a[:, 0], b[:, 0] = 7, 7  # outside the support, ignored
    result = partial_rank_correlation(rank_maps(a), rank_maps(b), rank_maps(c))
    for n in range(8):
        support = c[n] > 0
        expected = partial_correlation_by_regression(a[n][support], b[n][support], c[n][support])
        assert result[n] == pytest.approx(expected, abs=1e-9)
    c[0] = 0
    assert partial_rank_correlation(rank_maps(a), rank_maps(b), rank_maps(c))[0] == 0  # empty support


def test_partial_rank_correlation_of_functions_of_the_input():
    """Their residuals are zero: the result is 1 for two of them and 0 for one of them, not 0/0."""
    for c in (normal_values(3, 50).abs() + 0.1, normal_values(3, 50).abs() * (normal_values(3, 50, seed=4) > 0)):
        other = normal_values(3, 50, seed=1)
        assert partial_rank_correlation(rank_maps(c**2), rank_maps(c**3), rank_maps(c)).tolist() == [1, 1, 1]
        assert partial_rank_correlation(rank_maps(c**2), rank_maps(other), rank_maps(c)).tolist() == [0, 0, 0]
        assert partial_rank_correlation(rank_maps(c * 0), rank_maps(other), rank_maps(c)).tolist() == [0, 0, 0]
    for n in range(3):
        zeros = rank_maps(c[n : n + 1] * 0)
        assert np.isfinite(partial_rank_correlation(zeros, zeros, rank_maps(c[n : n + 1]))).all()


def test_partial_rank_correlation_of_products_with_sparse_input():
    """200 images of 784 pixels, about a sixth of them nonzero, multiplied by independent weights."""
    generator = np.random.default_rng(0)
    ink = generator.random((200, 784)) * (generator.random((200, 784)) < 0.177)
    first, second = generator.normal(size=(2, 200, 784))
    c = torch.from_numpy(ink)
    product = [torch.from_numpy(np.abs(g) * ink) for g in (first, second)]
    raw = float((normalized_ranks(product[0]) * normalized_ranks(product[1])).sum(1).mean())
    partial = partial_rank_correlation(rank_maps(product[0]), rank_maps(product[1]), rank_maps(c)).mean()
    assert raw > 0.97
    assert abs(partial) < 0.08
    # maps that hardly depend on the weights have a high partial correlation as well
    shape = np.abs(generator.normal(size=(200, 784))) * ink
    edge = [torch.from_numpy(shape * (1 + 0.05 * g)) for g in (first, second)]
    assert float((normalized_ranks(edge[0]) * normalized_ranks(edge[1])).sum(1).mean()) > 0.99
    assert partial_rank_correlation(rank_maps(edge[0]), rank_maps(edge[1]), rank_maps(c)).mean() > 0.95
