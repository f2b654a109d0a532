"""Spearman's correlation, and what is left of it when the input is taken out."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from seewhy.evidence.similarity import partial, ranked, ranks


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def spearman(a, b):
    return float((ranks(a[None]) * ranks(b[None])).sum())


@pytest.mark.parametrize("values", [1e9, 5, 2], ids=["no ties", "many ties", "two values"])
def test_ranks_give_spearman(values):
    a, b = draw(20, 49), draw(20, 49, seed=1)
    a, b = ((v * values).round() if values < 1e9 else v for v in (a, a * 0.5 + b))
    if values == 2:
        a, b = (a > 0).double(), (b > 0.5).double()
    product = (ranks(a) * ranks(b)).sum(1)
    for n in range(20):
        assert float(product[n]) == pytest.approx(spearmanr(a[n], b[n]).statistic, abs=1e-12)
    whole = ranks(a) @ ranks(b).T
    assert float(whole[3, 7]) == pytest.approx(spearmanr(a[3], b[7]).statistic, abs=1e-12)


def test_a_constant_map_is_like_nothing():
    """Not even like itself; no NaN, and no 1 for two maps that show nothing."""
    flat, other = torch.zeros(9), draw(9)
    assert spearman(flat, other) == spearman(flat, flat) == spearman(flat, flat + 3) == 0
    assert spearman(other, other) == pytest.approx(1)
    assert ranks(torch.zeros(3, 1)).tolist() == [[0], [0], [0]]


def test_maps_are_compared_position_by_position():
    """The same values in other places are no likeness: not a histogram, not a sorted raster."""
    a = draw(400)
    moved = a.view(20, 20).T.flatten()
    assert abs(spearman(a, moved)) < 0.2
    assert spearman(a, a.exp()) == pytest.approx(1)  # any rising function of it is the same map
    assert spearman(a, -a) == pytest.approx(-1)


def residual(a, b, c):
    """The definition: ranks, what a straight line through the third explains taken out, correlation of what is left."""
    left = []
    for v in (a, b):
        x, y = rankdata(c), rankdata(v)
        slope, at = np.polyfit(x, y, 1)
        left.append(y - slope * x - at)
    return np.corrcoef(*left)[0, 1]


def test_partial_is_the_correlation_of_residuals():
    c = draw(12, 60).abs() + 0.1
    a, b = c + draw(12, 60, seed=1).abs(), 2 * c + draw(12, 60, seed=2)
    found = partial(ranked(a), ranked(b), ranked(c))
    for n in range(12):
        assert found[n] == pytest.approx(residual(a[n], b[n], c[n]), abs=1e-9)


def test_partial_looks_only_where_the_input_differs_from_the_baseline():
    c = draw(8, 80).abs()
    c[:, ::3] = 0
    a, b = c * draw(8, 80, seed=1).abs(), c * draw(8, 80, seed=2).abs()
    a[:, 0], b[:, 0] = 7, 7  # where nothing is, nothing counts
    found = partial(ranked(a), ranked(b), ranked(c))
    for n in range(8):
        on = c[n] > 0
        assert found[n] == pytest.approx(residual(a[n][on], b[n][on], c[n][on]), abs=1e-9)
    c[0] = 0
    assert partial(ranked(a), ranked(b), ranked(c))[0] == 0  # nothing left to look at


def test_functions_of_the_input_alone():
    """Their residual is nothing, which must not become 0/0: two of them are the same, one of them is like no other."""
    for c in (draw(3, 50).abs() + 0.1, draw(3, 50).abs() * (draw(3, 50, seed=4) > 0)):
        other = draw(3, 50, seed=1)
        assert partial(ranked(c**2), ranked(c**3), ranked(c)).tolist() == [1, 1, 1]
        assert partial(ranked(c**2), ranked(other), ranked(c)).tolist() == [0, 0, 0]
        assert partial(ranked(c * 0), ranked(other), ranked(c)).tolist() == [0, 0, 0]
    for n in range(3):  # an interval of them is all there is
        assert np.isfinite(partial(ranked(c[n : n + 1] * 0), ranked(c[n : n + 1] * 0), ranked(c[n : n + 1]))).all()


def test_sparse_pictures_force_a_product_but_not_what_is_left_of_it():
    """200 pictures of 784 pixels, a sixth of them ink; the weights of two networks are independent of one another."""
    generator = np.random.default_rng(0)
    ink = generator.random((200, 784)) * (generator.random((200, 784)) < 0.177)
    first, second = generator.normal(size=(2, 200, 784))
    c = torch.from_numpy(ink)
    product = [torch.from_numpy(np.abs(g) * ink) for g in (first, second)]
    raw = float((ranks(product[0]) * ranks(product[1])).sum(1).mean())
    left = partial(ranked(product[0]), ranked(product[1]), ranked(c)).mean()
    assert raw > 0.97
    assert abs(left) < 0.08
    # what hardly depends on the weights stays alike with the input taken out as well
    shape = np.abs(generator.normal(size=(200, 784))) * ink
    edge = [torch.from_numpy(shape * (1 + 0.05 * g)) for g in (first, second)]
    assert float((ranks(edge[0]) * ranks(edge[1])).sum(1).mean()) > 0.99
    assert partial(ranked(edge[0]), ranked(edge[1]), ranked(c)).mean() > 0.95
