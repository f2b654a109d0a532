"""Perturbation methods: exact values, other libraries, standard errors, error messages, and any callable model."""

import itertools
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeRegressor
from tests.networks import random_input, small_classifier, with_random_weights
from torch import nn

import seewhy
from seewhy.engine.random_numbers import uniform_sampler
from seewhy.maps import resample
from seewhy.visualization.overlay import overlay

PERTURBATION_METHODS = [name for name, m in seewhy.METHODS.items() if m.family == "masked_scores"]
IMAGES = random_input(3, 3, 6, 9)


def all_coalitions(count):
    """All coalitions of `count` players, [2^F, F]."""
    return torch.tensor(list(itertools.product((0, 1), repeat=count))).double()


def shapley(game, count):
    """Shapley values by definition: weighted mean of the gains over all coalitions."""
    z = all_coalitions(count)
    y, size, code = game(z).double(), z.sum(1).long(), (z @ 2.0 ** torch.arange(count - 1, -1, -1).double()).long()
    weight = torch.tensor([1 / (count * math.comb(count - 1, s)) for s in range(count)], dtype=torch.float64)
    gains = [(y[z[:, f] == 1] - y[code[z[:, f] == 1] - 2 ** (count - 1 - f)], size[z[:, f] == 1]) for f in range(count)]
    return torch.stack([(weight[s - 1] * gain).sum() for gain, s in gains])


def games(count):
    """Functions of the players, each 0 (absent) or 1 (present); x = 1 is the unmasked input."""
    g = torch.Generator().manual_seed(count)
    w, v = torch.randn(2, count, generator=g).double()
    return {
        "additive": lambda z: z @ w,
        "products": lambda z: z[:, :3].prod(1) + 2 * z[:, 2:6].prod(1),
        "majority": lambda z: (z.sum(1) > count / 2).double(),
        "gloves": lambda z: torch.minimum(z[:, :3].sum(1), z[:, 3:].sum(1)),
        "smooth": lambda z: (z @ w).tanh() + (z @ v).relu(),
    }


def explain_game(game, name, count, **options):
    """Explanation of a game at the coalition of all players; masked players are 0."""
    return seewhy.explain(game, torch.ones(1, count).double(), name, **{"batch_size": 10_000} | options)


def values_and_stderr(e):
    return e.values.flatten(), e.stderr.flatten()


# --- exact values


def test_perturbation_methods_on_additive_function():
    w, x, fill = random_input(8), random_input(8, 2)[None, :, 0], 0.7
    f = lambda x: x @ w  # noqa: E731
    drop = w * (x[0] - fill)
    ablation = seewhy.explain(f, x, "feature_ablation", mask_value=fill)
    assert torch.allclose(ablation.values.flatten(), drop, atol=1e-12)
    assert torch.equal(ablation.values.flatten(), ablation.extras["importances"].flatten())
    occlusion = seewhy.explain(f, x, "occlusion", mask_value=fill, mask_size=1, stride=1)
    assert torch.allclose(occlusion.values.flatten(), drop, atol=1e-12)
    shap = seewhy.explain(f, x, "kernel_shap", mask_value=fill, samples=16)
    assert torch.allclose(shap.values.flatten(), drop, atol=1e-10)
    assert shap.stderr.max() < 1e-7
    # cells as large as a position are sampled independently: the value is half of each drop
    rise = seewhy.explain(f, x, "rise", mask_value=fill, samples=4000, cells=8, batch_size=4000)
    assert (rise.values.flatten() - drop / 2).abs().max() < 4 * rise.stderr.max()
    assert rise.stderr.max() < 0.1 * drop.abs().max()


def test_occlusion_is_the_mean_over_covering_windows():
    w, x = random_input(2, 7, 5), random_input(1, 2, 7, 5).flip(3)
    sides, steps = (3, 2), (2, 3)
    e = seewhy.explain(lambda x: (x * w).sum((1, 2, 3)), x, "occlusion", mask_size=sides, stride=steps, mask_value=0.5)
    drop = (w * (x[0] - 0.5)).sum(0)
    expected, coverage = torch.zeros(2, 7, 5).double()
    for top in (0, 2, 4):
        for left in (0, 3):
            window = (slice(top, top + 3), slice(left, left + 2))
            expected[window] += drop[window].sum()
            coverage[window] += 1
    assert (coverage == 0).any()
    assert torch.allclose(e.values[0, 0, 0], expected / coverage.clamp(min=1), atol=1e-12)
    assert f"{int((coverage == 0).sum())} of 35 positions are not covered by any window: their value is 0" in e.notes


@pytest.mark.parametrize("name", ["products", "majority", "gloves", "smooth"])
def test_kernel_shap_with_all_coalitions_is_exact(name):
    for count in (6, 9):
        game = games(count)[name]
        e = explain_game(game, "kernel_shap", count, samples=2**count - 2)
        assert torch.allclose(e.values.flatten(), shapley(game, count), atol=1e-10)
        assert e.stderr.max() == 0
        assert e.evaluations.forward == 2**count


def test_kernel_shap_equals_published_shapley_values():
    gloves = explain_game(lambda z: torch.minimum(z[:, 0], z[:, 1:].sum(1)), "kernel_shap", 3)
    assert torch.allclose(gloves.values.flatten(), torch.tensor([4, 1, 1]).double() / 6)
    product = explain_game(lambda z: z.prod(1), "kernel_shap", 7)
    assert torch.allclose(product.values.flatten(), torch.full((7,), 1 / 7).double())
    weights = torch.tensor([4, 3, 2, 1]).double()
    council = explain_game(lambda z: (z @ weights > 5).double(), "kernel_shap", 4)
    assert torch.allclose(council.values.flatten(), torch.tensor([5, 3, 3, 1]).double() / 12)


@pytest.mark.parametrize("count", [5, 12, 31])
def test_kernel_shap_sums_to_score_difference(count):
    g = torch.Generator().manual_seed(0)
    w = torch.randn(2, count, generator=g).double()
    game = lambda z: torch.stack([(z @ w[0]).sin(), (z @ w[1]).exp()], 1)  # noqa: E731
    e = explain_game(game, "kernel_shap", count, samples=2 * count, target=[0, 1])
    unmasked, masked = game(torch.ones(1, count).double()), game(torch.zeros(1, count).double())
    assert torch.allclose(e.extras["importances"].sum(2), unmasked - masked, rtol=1e-10)
    assert e.convergence_delta.abs().max() < 1e-8
    with pytest.raises(
        seewhy.OptionError, match=f"samples={2 * count - 1}: {count} segments need at least {2 * count}"
    ):
        explain_game(game, "kernel_shap", count, samples=2 * count - 1)


def test_coalition_sizes_are_sampled_equally_often():
    """Leverage makes sizes equally likely; small sizes are complete, and no coalition is evaluated twice."""
    evaluated = []

    def game(z):
        evaluated.extend(map(tuple, z.tolist()))
        return z.prod(1)

    explain_game(game, "kernel_shap", 10, samples=100)
    sizes = torch.tensor(evaluated).sum(1).long().bincount()
    assert sizes[[0, 10]].tolist() == [1, 1]
    assert sizes[[1, 9]].tolist() == [10, 10]
    assert sizes[2:9].min() >= 10
    assert sizes[2:9].max() <= 13
    assert len(set(evaluated)) == len(evaluated) == 102
    assert all(tuple(1 - v for v in z) in evaluated for z in evaluated), "each coalition has its complement"
    for seed in range(10):  # at the middle size a coalition and its complement are one pair
        evaluated.clear()
        explain_game(game, "kernel_shap", 6, samples=40, seed=seed)
        assert len(set(evaluated)) == len(evaluated) == 42


def test_few_coalitions_have_full_rank():
    """With as many pairs as segments a sample may have a lower rank: the fit is wrong, but without residuals."""
    game = games(8)["additive"]
    for seed in range(30):
        e = explain_game(game, "kernel_shap", 8, samples=16, seed=seed)
        assert torch.allclose(e.values.flatten(), shapley(game, 8), atol=1e-9)
    note = "sample 0: the standard error is inaccurate with fewer than 32 coalitions, 4 per segment"
    assert note in e.notes
    assert not any("inaccurate" in n for n in explain_game(game, "kernel_shap", 8, samples=32).notes)


# --- Shapley value sampling


def test_shapley_sampling_on_additive_function():
    w, x, fill = random_input(8), random_input(8, 2)[None, :, 0], 0.7
    e = seewhy.explain(lambda x: x @ w, x, "shapley_sampling", mask_value=fill, samples=2)
    assert torch.allclose(e.values.flatten(), w * (x[0] - fill), atol=1e-12)
    assert torch.equal(e.values.flatten(), e.extras["importances"].flatten())
    assert e.stderr.max() < 1e-12
    assert e.evaluations.forward == 1 + 1 + 2 * 7


@pytest.fixture
def all_orders(monkeypatch):
    """Replace the random numbers by numbers whose orders are all permutations; returns their number."""

    def draw_orders(start, stop, width):
        orders = torch.tensor(list(itertools.permutations(range(width)))[start:stop])
        return orders.float() / width

    monkeypatch.setattr("seewhy.engine.job.uniform_sampler", lambda _seed: draw_orders)
    return math.factorial


@pytest.mark.parametrize("name", ["additive", "products", "majority", "gloves", "smooth"])
def test_shapley_sampling_over_all_orders_is_exact(name, all_orders):
    for count in (3, 4, 6):  # 720 permutations of 6 are evaluated in several blocks
        game = games(count)[name]
        e = explain_game(game, "shapley_sampling", count, samples=all_orders(count))
        assert torch.allclose(e.values.flatten(), shapley(game, count), atol=1e-12)
        exact = explain_game(game, "kernel_shap", count, samples=2**count - 2)
        assert torch.allclose(e.values, exact.values, atol=1e-10)


def test_shapley_sampling_over_all_orders_keeps_axioms(all_orders):
    """Players 0 and 1 are symmetric, player 3 is a dummy with its own gain, player 4 has no gain."""
    game = lambda z: z[:, 0] * z[:, 1] * (1 + z[:, 2]) + 0.3 * z[:, 2] + 0.7 * z[:, 3]  # noqa: E731
    values = explain_game(game, "shapley_sampling", 5, samples=all_orders(5)).values.flatten()
    third = 1 / 3
    assert torch.allclose(values, torch.tensor([0.5 + third, 0.5 + third, 0.3 + third, 0.7, 0]).double(), atol=1e-12)


@pytest.mark.parametrize("name", ["products", "majority", "gloves", "smooth"])
def test_shapley_sampling_is_within_standard_errors(name):
    game, exact = games(4)[name], shapley(games(4)[name], 4)
    for seed in range(5):
        values, stderr = values_and_stderr(explain_game(game, "shapley_sampling", 4, samples=200, seed=seed))
        assert ((values - exact).abs() <= 4 * stderr + 1e-12).all()
        assert stderr.max() < 0.1 * max(1, exact.abs().max())


def test_shapley_sampling_stderr_is_that_of_the_mean_over_permutations():
    """Also across blocks of permutations: 350 of 12 players take three queries."""
    count, samples = 12, 350
    game = games(count)["smooth"]
    e = explain_game(game, "shapley_sampling", count, samples=samples, seed=3)
    orders = uniform_sampler(3)(0, samples, count).argsort(1)
    gains = torch.zeros(samples, count).double()
    for j, order in enumerate(orders):
        z = torch.zeros(count + 1, count).double()
        for step, player in enumerate(order):
            z[step + 1 :, player] = 1
        gains[j, order] = game(z).diff()
    values, stderr = values_and_stderr(e)
    assert torch.allclose(values, gains.mean(0), atol=1e-12)
    assert torch.allclose(stderr, gains.std(0) / math.sqrt(samples), atol=1e-12)


@pytest.mark.parametrize("samples", [2, 3, 200])
def test_shapley_sampling_sums_to_score_difference(samples):
    count = 31
    w = random_input(2, count)
    game = lambda z: torch.stack([(z @ w[0]).sin(), (z @ w[1]).exp()], 1)  # noqa: E731
    e = explain_game(game, "shapley_sampling", count, samples=samples, target=[0, 1])
    unmasked, masked = game(torch.ones(1, count).double()), game(torch.zeros(1, count).double())
    assert torch.allclose(e.extras["importances"].sum(2), unmasked - masked, rtol=1e-10)
    assert e.convergence_delta.shape == (1, 2)
    assert e.convergence_delta.abs().max() < 1e-10
    assert e.stderr.isfinite().all()


def test_shapley_sampling_is_repeatable_with_seed():
    game = games(9)["smooth"]
    first, same, other = (explain_game(game, "shapley_sampling", 9, samples=5, seed=s) for s in (1, 1, 2))
    assert torch.equal(first.values, same.values)
    assert (first.values - other.values).abs().max() > 1e-3
    with pytest.raises(seewhy.OptionError, match="samples=1: an integer from 2"):
        explain_game(game, "shapley_sampling", 9, samples=1)


def test_shapley_sampling_equals_captum_with_the_same_orders():
    attr = pytest.importorskip("captum.attr")
    net, x, fill = small_classifier(), IMAGES[:1], random_input(1, 3, 6, 9).flip(2).contiguous()
    segments = torch.arange(54).view(6, 9) // 11
    ours = seewhy.explain(net, x, "shapley_sampling", target=1, segments=segments, mask_value=fill, samples=6, seed=2)
    sampling = attr.ShapleyValueSampling(net)
    sampling.permutation_generator = lambda *_: iter(uniform_sampler(2)(0, 6, 5).argsort(1).tolist())
    theirs = sampling.attribute(
        x, baselines=fill, target=1, feature_mask=segments.repeat(1, 3, 1, 1), n_samples=6, perturbations_per_eval=3
    )
    assert (ours.values[0, 0, 0] - theirs[0, 0]).abs().max() < 1e-6 * theirs.abs().max()  # Captum computes in float32


@pytest.mark.parametrize("name", PERTURBATION_METHODS)
def test_perturbation_method_on_one_feature(name):
    e = seewhy.explain(lambda x: 3 * x.sum(1), torch.full((1, 1), 2.0), name, mask_value=1.0)
    # LIME's tree returns fractions; RISE half of the drop
    assert e.values.item() == pytest.approx({"lime": 1.0, "rise": 1.5}.get(name, 3.0))


def all_rise_masks(size, cells):
    """All masks that RISE may sample along one axis, equally likely."""
    cell = -(-size // cells)
    masks = []
    for bits in itertools.product((0.0, 1.0), repeat=cells + 1):
        large = resample(torch.tensor([[bits]]).double(), [(cells + 1) * cell], "linear")[0, 0]
        masks += [large[shift : shift + size] for shift in range(cell)]
    return torch.stack(masks)


def expected_rise(game, masks):
    return ((game(masks) - game(1 - masks))[:, None] * (masks - 0.5)).mean(0)


def test_rise_is_unbiased_for_any_number_of_masks():
    masks = all_rise_masks(7, 3)
    game = games(7)["smooth"]
    expected = expected_rise(game, masks)
    for samples, seeds in ((4, 250), (40, 60)):
        values = torch.stack(
            [
                values_and_stderr(explain_game(game, "rise", 7, cells=3, samples=samples, seed=s))[0]
                for s in range(seeds)
            ]
        )
        z_scores = (values.mean(0) - expected) / (values.std(0) / math.sqrt(seeds))
        assert z_scores.abs().max() < 3.5
        assert values.std(0).max() / math.sqrt(seeds) < 0.12 * expected.abs().max(), "otherwise the test has no effect"


def expected_lime(game, count, samples):
    """The ridge fit over all coalitions, each weighted by its expected frequency."""
    z = all_coalitions(count)
    weights = torch.exp(-(((1 - z.mean(1).sqrt()) / 0.25) ** 2)).numpy() * samples / len(z)
    return torch.from_numpy(Ridge(alpha=1.0).fit(z.numpy(), game(z).numpy(), weights).coef_)


@pytest.mark.parametrize("name", ["kernel_shap", "lime", "rise", "shapley_sampling"])
def test_confidence_intervals_contain_exact_value(name):
    count, seeds = 8, 150
    # in a majority game of 8, a player is decisive in one of 8 orders: too rare for an interval from 64 permutations
    samples = 300 if name == "shapley_sampling" else 64
    options = {"lime": {"surrogate": "linear"}, "rise": {"cells": 4}}.get(name, {})
    exact_values = {
        "kernel_shap": shapley,
        "lime": lambda game, count: expected_lime(game, count, samples),
        "rise": lambda game, count: expected_rise(game, all_rise_masks(count, 4)),
        "shapley_sampling": shapley,
    }
    inside, errors, reported = [], [], []
    for kind in ("majority", "smooth"):
        game = games(count)[kind]
        exact = exact_values[name](game, count)
        for seed in range(seeds):
            values, stderr = values_and_stderr(explain_game(game, name, count, samples=samples, seed=seed, **options))
            inside.append((values - exact).abs() <= 1.96 * stderr)
            errors.append((values - exact) / exact.abs().max())
            reported.append(stderr / exact.abs().max())
    assert 0.93 <= torch.stack(inside).double().mean() <= 0.97
    ratio = torch.stack(reported).square().mean().sqrt() / torch.stack(errors).square().mean().sqrt()
    assert 0.95 < ratio < 1.2, "the reported errors match the actual errors"


# --- scikit-learn as the oracle of LIME's surrogate models


@pytest.mark.parametrize("surrogate", ["linear", "tree"])
def test_lime_equals_scikit_learn(surrogate):
    count, samples = 9, 120
    x, fill = random_input(1, count), 0.3
    f = lambda x: torch.stack([(2 * x).sum(1).sin() + 3 * x[:, 2] * x[:, 4], x.exp().sum(1)], 1)  # noqa: E731
    e = seewhy.explain(f, x, "lime", surrogate=surrogate, samples=samples, mask_value=fill, seed=6, target=[0, 1])
    z = (uniform_sampler(6)(0, samples, count) < 0.5).double()
    y = f(z * x + (1 - z) * fill)
    weights = torch.exp(-(((1 - z.mean(1).sqrt()) / 0.25) ** 2)).numpy()
    for k in range(2):
        if surrogate == "linear":
            fit = Ridge(alpha=1.0).fit(z.numpy(), y[:, k].numpy(), weights)
            expected = fit.coef_
        else:
            fit = DecisionTreeRegressor(min_samples_split=10, random_state=0).fit(z.numpy(), y[:, k].numpy(), weights)
            expected = fit.feature_importances_
        assert np.abs(e.extras["importances"][0, k].numpy() - expected).max() < 1e-6 * np.abs(expected).max()
        assert float(e.extras["fit"][0, k]) == pytest.approx(fit.score(z.numpy(), y[:, k].numpy(), weights), abs=1e-6)
    assert (e.stderr is None) == (surrogate == "tree")


def test_lime_of_constant_is_zero_with_perfect_fit():
    for surrogate in ("linear", "tree"):
        for seed in range(5):  # rounding: a weighted mean of equal numbers may differ from the number
            e = explain_game(lambda z: z[:, 0] * 0 + 1.1, "lime", 8, surrogate=surrogate, samples=30, seed=seed)
            assert e.values.abs().max() == 0
            assert (e.extras["fit"] == 1).all()


# --- Leverage SHAP (Musco and Witter 2025): mean squared normalized error with ten evaluations per feature


def shapley_of_trees(model, x, fill):
    """Exact Shapley values of a sum of small trees; each tree is a game of the few features that it uses."""
    values = torch.zeros(len(x)).double()
    for tree in model.estimators_[:, 0]:
        used = np.unique(tree.tree_.feature[tree.tree_.feature >= 0])

        def game(z, tree=tree, used=used):
            points = np.tile(fill, (len(z), 1))
            points[:, used] = np.where(z.bool().numpy(), x[used], fill[used])
            return torch.from_numpy(tree.predict(points)).double() * model.learning_rate

        if len(used):
            values[used] += shapley(game, len(used))
    return values


def sixty_features(kind):
    """Two data sets of the paper, as generated by the shap package."""
    rng = np.random.default_rng(0)
    beta = np.zeros(60)
    beta[0:30:3] = 1
    covariance = np.eye(60)
    if kind == "correlated":
        for a in range(0, 30, 3):
            covariance[a : a + 3, a : a + 3] = 0.99 + 0.01 * np.eye(3)
    x = rng.multivariate_normal(np.zeros(60), covariance, 1000)
    return x, x @ beta + 0.01 * rng.normal(size=1000)


# the paper's column "Leverage"; up to 10% more is accepted
@pytest.mark.parametrize(
    ("kind", "published"), [("iris", 5.4e-9), ("diabetes", 0.00307), ("independent", 0.00331), ("correlated", 0.00765)]
)
def test_kernel_shap_error_equals_published_error(kind, published):
    small = {"iris": load_iris, "diabetes": load_diabetes}
    x, y = small[kind](return_X_y=True) if kind in small else sixty_features(kind)
    if kind in small:
        model = RandomForestRegressor(random_state=0).fit(x, y)
    else:
        model = GradientBoostingRegressor(n_estimators=60, max_depth=3, learning_rate=0.3, random_state=0).fit(x, y)
    fill, count = x.mean(0), x.shape[1]
    f = lambda points: model.predict(np.asarray(points, dtype=np.float64))  # noqa: E731
    errors = []
    for seed, n in enumerate(np.random.default_rng(1).choice(len(x), 100 if kind == "diabetes" else 30)):
        if kind in small:
            exact = shapley(lambda z, n=n: torch.from_numpy(f(np.where(z.bool().numpy(), x[n], fill))), count)
        else:
            exact = shapley_of_trees(model, x[n], fill)
        if not exact.any():
            continue
        e = seewhy.explain(
            f, torch.from_numpy(x[n : n + 1]), "kernel_shap", mask_value=torch.from_numpy(fill),
            samples=10 * count, seed=seed, batch_size=10_000,
        )  # fmt: skip
        errors.append(float((e.extras["importances"].flatten() - exact).square().sum() / exact.square().sum()))
    assert np.mean(errors) <= 1.1 * published


# --- Captum


def test_occlusion_and_feature_ablation_equal_captum():
    attr = pytest.importorskip("captum.attr")
    net, x, fill = small_classifier(), IMAGES, random_input(3, 3, 6, 9).flip(0)
    # windows that end at the border, as Captum leaves out a partial window; it computes in float32
    ours = seewhy.explain(net, x, "occlusion", target=2, mask_size=(2, 3), stride=(2, 3), mask_value=fill)
    theirs = attr.Occlusion(net).attribute(x, (3, 2, 3), strides=(3, 2, 3), target=2, baselines=fill)
    assert (ours.values[:, 0] - theirs).abs().max() < 1e-6 * theirs.abs().max()
    ours = seewhy.explain(net, x, "occlusion", target=2, mask_size=(4, 3), stride=(1, 2), mask_value=fill)
    theirs = attr.Occlusion(net).attribute(x, (3, 4, 3), strides=(3, 1, 2), target=2, baselines=fill)
    assert (ours.values[:, 0] - theirs).abs().max() < 1e-6 * theirs.abs().max()
    segments = torch.arange(54).view(6, 9) // 7
    ours = seewhy.explain(net, x, "feature_ablation", target=1, segments=segments, mask_value=fill)
    theirs = attr.FeatureAblation(net).attribute(x, baselines=fill, target=1, feature_mask=segments.expand(1, 3, 6, 9))
    assert (ours.values[:, 0] - theirs).abs().max() < 1e-6 * theirs.abs().max()


def test_kernel_shap_equals_captum_shapley_values():
    """Captum's KernelSHAP is sampled; its Shapley values over all orders are exact, as ours over all coalitions."""
    attr = pytest.importorskip("captum.attr")
    net, x, fill = small_classifier(), IMAGES[:1], random_input(1, 3, 6, 9).flip(2).contiguous()
    segments = torch.arange(54).view(6, 9) // 11
    ours = seewhy.explain(net, x, "kernel_shap", target=1, segments=segments, mask_value=fill)
    theirs = attr.ShapleyValues(net).attribute(
        x, baselines=fill, target=1, feature_mask=segments.repeat(1, 3, 1, 1), perturbations_per_eval=60
    )
    assert (ours.values[0, 0, 0] - theirs[0, 0]).abs().max() < 1e-6 * theirs.abs().max()  # Captum computes in float32


# --- occlusion's windows


def windows_of(size, **options):
    """The windows along one axis, observed in the inputs of the function, and the explanation."""
    windows = []

    def f(x):
        windows.extend((one.nonzero()[0].item(), one.nonzero()[-1].item() + 1) for one in (x[:, 0] == 7) if one.any())
        return x.sum((1, 2))

    return windows, seewhy.explain(f, torch.zeros(1, 1, size), "occlusion", mask_value=7, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mask_size": 4, "stride": 3}, [(0, 4), (3, 7), (6, 10)]),
        ({"mask_size": 4, "stride": 4}, [(0, 4), (4, 8), (8, 10)]),
        ({"mask_size": 4, "stride": 4, "clip": False}, [(0, 4), (4, 8)]),
        ({"mask_size": 2, "stride": 5}, [(0, 2), (5, 7)]),
        ({"mask_size": 3, "stride": 9}, [(0, 3), (9, 10)]),
        ({"mask_size": 99}, [(0, 10)]),
        ({"mask_size": np.int64(6), "stride": 5.0, "clip": False}, [(0, 6)]),
        ({}, [(a, a + 2) for a in range(9)]),
    ],
)
def test_occlusion_windows(options, expected):
    windows, e = windows_of(10, **options)
    assert windows == expected
    covered = {i for low, high in expected for i in range(low, high)}
    assert (e.values.flatten() != 0).nonzero().flatten().tolist() == sorted(covered)
    uncovered = 10 - len(covered)
    assert any("not covered by any window" in n for n in e.notes) == bool(uncovered)
    assert e.evaluations.forward == 1 + len(expected)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3", (2, 3, 4), (None, 3), float("nan"), float("inf"), [], "wide"])
@pytest.mark.parametrize("name", ["mask_size", "stride"])
def test_invalid_occlusion_windows_are_refused(name, value):
    with pytest.raises(seewhy.OptionError, match=rf"{name}=.*: a whole number above 0 is needed, or 2 of them"):
        seewhy.explain(small_classifier(), IMAGES, "occlusion", **{name: value})


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("name", PERTURBATION_METHODS)
def test_perturbation_method_on_signals_images_and_volumes(name, rank):
    net, x = small_classifier(rank), random_input(2, 3, *(6, 9, 4)[:rank])
    options = seewhy.METHODS[name].quick_options | (
        {"features": 3} if "features" in seewhy.METHODS[name].options and rank == 1 else {}
    )
    e = seewhy.explain(net, x, name, target=[1, 3], **options)
    assert e.values.shape == (2, 2, 1, *x.shape[2:])
    assert (e.maps.flatten(2).std(2) > 0).all()
    assert torch.allclose(e.scores, net(x)[:, [1, 3]])
    if name == "occlusion":
        whole = seewhy.explain(net, x, name, target=[1, 3], mask_size=9)
        masked_scores = net(x.flatten(2).mean(2).view(2, 3, *[1] * rank).expand_as(x))[:, [1, 3]]
        assert torch.allclose(whole.values.flatten(2)[..., 0], e.scores - masked_scores)


@pytest.mark.parametrize("name", PERTURBATION_METHODS)
def test_perturbation_method_does_not_depend_on_batch(name):
    """The map depends neither on the batch size nor on the other samples of the batch."""
    net = small_classifier()
    whole = seewhy.explain(net, IMAGES, name, target=[0, 2], **seewhy.METHODS[name].quick_options)
    for size in (1, 2, 7):
        e = seewhy.explain(net, IMAGES, name, target=[0, 2], batch_size=size, **seewhy.METHODS[name].quick_options)
        assert torch.allclose(e.values, whole.values, atol=1e-12)
        assert e.evaluations == whole.evaluations
    single = seewhy.explain(net, IMAGES[1:2], name, target=2, **seewhy.METHODS[name].quick_options)
    assert torch.allclose(single.values[0, 0], whole.values[1, 1], atol=1e-12)


@pytest.mark.parametrize("name", PERTURBATION_METHODS)
def test_perturbation_method_with_function_and_segmentation_targets(name):
    net = with_random_weights(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 1)).double())
    by_class = seewhy.explain(net, IMAGES, name, target=[2, 0], **seewhy.METHODS[name].quick_options)
    by_function = seewhy.explain(
        net,
        IMAGES,
        name,
        target=[lambda y: y[:, 2].sum((1, 2)), lambda y: y[:, 0].sum((1, 2))],
        **seewhy.METHODS[name].quick_options,
    )
    assert torch.allclose(by_class.values, by_function.values, atol=1e-10)
    assert by_class.values.abs().max() > 0


# --- mask values


def test_mask_value_replaces_masked_positions(lite0, shipped):
    x = lite0.prepare(shipped["coffee"])
    small = x[..., ::4, ::4].contiguous()
    black = torch.full_like(small, -1.0)
    means = small.mean((2, 3))
    other = small.flip(3)
    blur = seewhy.path(lite0, small, baseline="blur", steps=2)[0]
    fills = {0.5: 0.5 * torch.ones_like(small), "black": black, "blur": blur}
    cases = [*fills.items(), ("mean", means[..., None, None].expand_as(small)), (other, other), (other[0], other)]
    cases.append((means[0].tolist(), means[..., None, None].expand_as(small)))
    for given, expected in cases:
        e = seewhy.explain(lite0, small, "feature_ablation", target=967, segments="grid", features=4, mask_value=given)
        masked = small.clone()
        masked[..., :28, :28] = expected[..., :28, :28]
        with torch.no_grad():
            drop = lite0.module(small)[0, 967] - lite0.module(masked)[0, 967]
        assert float(e.values[0, 0, 0, 0, 0]) == pytest.approx(float(drop), abs=1e-4)


@pytest.mark.parametrize("value", ["red", float("nan"), float("inf"), [0.0, 1.0], torch.zeros(3, 6, 8), "black"])
def test_invalid_mask_value_is_refused(value):
    for name in PERTURBATION_METHODS:
        with pytest.raises(seewhy.OptionError):
            seewhy.explain(small_classifier(), IMAGES, name, mask_value=value, **seewhy.METHODS[name].quick_options)


# --- segments


def test_given_segments():
    net = small_classifier()
    one = np.arange(54).reshape(6, 9) // 20 * 10 - 5  # any whole numbers
    e = seewhy.explain(net, IMAGES, "feature_ablation", target=1, segments=one)
    assert e.extras["segments"].unique().tolist() == [0, 1, 2]
    assert e.extras["importances"].shape == (3, 1, 3)
    for label in range(3):
        place = e.extras["segments"][0] == label
        assert e.values[0, 0, 0][place].unique().tolist() == e.extras["importances"][0, :, label].tolist()


SEGMENT_METHODS = [name for name, m in seewhy.METHODS.items() if "segments" in m.options]


def options_without_segments(name):
    return {k: v for k, v in seewhy.METHODS[name].quick_options.items() if k not in ("segments", "features")}


@pytest.mark.parametrize("name", SEGMENT_METHODS)
def test_samples_with_unequal_numbers_of_segments(name):
    """Missing segments are NaN, and a sample does not depend on the number of segments of the others."""
    net = small_classifier()
    segments = torch.stack([torch.arange(54).view(6, 9) // size for size in (14, 9, 30)])
    e = seewhy.explain(net, IMAGES, name, target=[1, 0], segments=segments, **options_without_segments(name))
    assert e.extras["importances"].shape == (3, 2, 6)
    assert e.extras["importances"].isnan().sum((1, 2)).tolist() == [4, 0, 8]
    assert e.values.isfinite().all()
    single = seewhy.explain(
        net, IMAGES[2:], name, target=[1, 0], segments=segments[2], **options_without_segments(name)
    )
    assert torch.allclose(single.values, e.values[2:], atol=1e-12)


@pytest.mark.parametrize("name", SEGMENT_METHODS)
def test_unequal_numbers_of_superpixels_in_batches(name):
    net, x = small_classifier(), resample(random_input(3, 3, 3, 4), (24, 32))
    whole = seewhy.explain(net, x, name, target=1, features=9, **options_without_segments(name))
    counts = [int(one.max()) + 1 for one in whole.extras["segments"]]
    assert len(set(counts)) > 1, "otherwise the test has no effect"
    for size in (1, 2):
        e = seewhy.explain(net, x, name, target=1, features=9, batch_size=size, **options_without_segments(name))
        assert torch.allclose(e.extras["importances"], whole.extras["importances"], equal_nan=True, atol=1e-12)
        assert (~e.extras["importances"].isnan()).sum(2).flatten().tolist() == counts


@pytest.mark.parametrize("given", [None, "squares", 3, np.zeros((6, 9)), np.zeros((6, 8), int), torch.ones(6, 9) > 0])
def test_invalid_segments_are_refused(given):
    with pytest.raises(seewhy.OptionError, match="segments"):
        seewhy.explain(small_classifier(), IMAGES, "lime", segments=given, samples=8)


def test_single_superpixel_is_refused():
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    f = lambda x: x.mean((1, 2, 3))  # noqa: E731
    with pytest.raises(seewhy.InputError, match=r"superpixels of sample 0 are one segment.*use segments='grid'"):
        seewhy.explain(f, x, "feature_ablation")
    e = seewhy.explain(f, torch.ones(1, 3, 64, 64), "feature_ablation", segments="grid", features=16, mask_value=0.0)
    assert torch.allclose(e.values, torch.full_like(e.values, 1 / 16)), (
        "all segments of a constant image have the same value"
    )
    assert "the map of sample 0, target 0 is constant: it shows nothing" in e.notes


def test_grid_segments():
    for size, features, sides in (
        ((6, 9), 9, (3, 3)),
        ((2, 50), 16, (2, 4)),
        ((20,), 5, (5,)),
        ((4, 6, 8), 8, (2,) * 3),
    ):
        x = random_input(1, 2, *size)
        e = seewhy.explain(lambda x: x.flatten(1).sum(1), x, "feature_ablation", segments="grid", features=features)
        labels = e.extras["segments"][0]
        assert labels.unique().tolist() == list(range(math.prod(sides)))
        for axis, side in enumerate(sides):
            first = labels.movedim(axis, -1).reshape(-1, size[axis])[0]
            assert len(first.unique()) == side


# --- tolerance


@pytest.mark.parametrize("name", ["lime", "rise", "kernel_shap"])
def test_perturbation_method_reaches_tolerance(name):
    count, evaluated = 14, []
    w, v = random_input(2, count)

    def game(z):
        evaluated.extend(map(tuple, (z > 0.5).tolist() if name == "kernel_shap" else z.tolist()))
        return (z @ w).tanh() + (z @ v).relu()

    options = {"lime": {"surrogate": "linear"}, "rise": {"cells": 5}}.get(name, {})
    tolerance = {"lime": 0.03, "rise": 0.05, "kernel_shap": 0.01}[name]
    plain = explain_game(game, name, count, samples=60, **options)
    evaluated.clear()
    e = explain_game(game, name, count, samples=60, tolerance=tolerance, **options)
    relative_errors = [
        float(one.stderr.square().mean().sqrt() / (one.values.max() - one.values.min())) for one in (plain, e)
    ]
    assert relative_errors[1] <= tolerance < relative_errors[0]
    assert e.evaluations.forward == len(evaluated)
    assert 1 + 60 < len(evaluated) < 64 * 60
    if name == "kernel_shap":
        assert len(evaluated) == len(set(evaluated)), "no coalition is evaluated twice"
    if name == "rise":
        assert e.extras["masks"].tolist() == [len(evaluated) - 1]


@pytest.mark.parametrize("name", ["lime", "rise", "kernel_shap"])
def test_unreached_tolerance_of_perturbation_method_is_noted(name):
    options = {"lime": {"surrogate": "linear"}, "rise": {"cells": 5}}.get(name, {})
    count, samples = 14, 30
    game = games(count)["majority"]
    e = explain_game(game, name, count, samples=samples, tolerance=0.0, **options)
    start = "sample 0: the tolerance 0 was not reached; after "
    assert any(re.fullmatch(start + r"19\d\d \w+ the standard error is 0\.\d+ of the range", n) for n in e.notes)
    assert 64 * samples <= e.evaluations.forward <= 3 * 64 * samples
    small = explain_game(lambda z: z.prod(1), "kernel_shap", 5, samples=10, tolerance=0.0)
    assert small.stderr.max() == 0, "with few features all coalitions are evaluated"
    assert small.evaluations.forward == 32


def test_lime_tree_with_tolerance_is_refused():
    with pytest.raises(seewhy.OptionError, match="a tree has no standard error"):
        seewhy.explain(small_classifier(), IMAGES, "lime", segments="grid", tolerance=0.1)


# --- any callable model


def weights_of(net):
    (layer,) = (m for m in net.modules() if isinstance(m, nn.Linear))
    return layer.weight.detach(), layer.bias.detach()


@pytest.fixture
def linear():
    return with_random_weights(nn.Sequential(nn.Flatten(), nn.Linear(24, 3)).double())


X = random_input(2, 2, 3, 4)


@pytest.mark.parametrize("name", PERTURBATION_METHODS)
@pytest.mark.parametrize(
    "kind", ["torch", "numpy in", "numpy out", "numpy only", "negative strides", "onnx", "onnx of one"]
)
def test_perturbation_method_on_any_callable(linear, name, kind):
    weight, bias = (w.numpy() for w in weights_of(linear))

    def negative_strides(x):  # torch tensors cannot have negative strides, so the arrays are copied
        return (x[:, :, :, ::-1].reshape(len(x), -1) @ flipped_weight + bias[::-1])[:, ::-1]

    flipped_weight = weight.reshape(3, 2, 3, 4)[::-1, :, :, ::-1].reshape(3, 24).T
    functions = {
        "torch": lambda x: x.flatten(1) @ weights_of(linear)[0].T + weights_of(linear)[1],
        "numpy in": lambda x: torch.from_numpy(x.astype("float64").reshape(len(x), -1) @ weight.T + bias),
        "numpy out": lambda x: np.asarray(x).reshape(len(x), -1) @ weight.T + bias,
        "numpy only": lambda x: np.broadcast_to(x.reshape(len(x), -1).astype("float64") @ weight.T + bias, (len(x), 3)),
        "negative strides": negative_strides,
    }
    f = functions[kind] if kind in functions else onnx_session(weight, bias, 1 if kind == "onnx of one" else "N")
    tolerance = 1e-4 if "onnx" in kind else 1e-10
    expected = seewhy.explain(linear, X, name, target=[2, 0], **seewhy.METHODS[name].quick_options)
    e = seewhy.explain(f, X, name, target=[2, 0], **seewhy.METHODS[name].quick_options)
    assert torch.allclose(e.values, expected.values, atol=tolerance)
    assert e.evaluations == expected.evaluations


def onnx_session(weight, bias, batch):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    h, dtype = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [h.make_node("Flatten", ["x"], ["flat"]), h.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1)]
    constants = [onnx.numpy_helper.from_array(a.astype("float32"), name) for a, name in ((weight, "w"), (bias, "b"))]
    values = [h.make_tensor_value_info(name, dtype, [batch, *size]) for name, size in (("x", (2, 3, 4)), ("y", (3,)))]
    graph = h.make_graph(nodes, "linear", values[:1], values[1:], constants)
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    return runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_onnx_session_with_fixed_batch_size(linear):
    weight, bias = (w.numpy() for w in weights_of(linear))
    model = seewhy.wrap(onnx_session(weight, bias, 4))
    x = random_input(6, 2, 3, 4)
    assert torch.allclose(model.forward(x).double(), linear(x), atol=1e-5)


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "guided_backprop"])
def test_gradient_method_on_numpy_function_is_refused(linear, name):
    weight, bias = (w.numpy() for w in weights_of(linear))
    for f in (
        lambda x: np.asarray(x).reshape(len(x), -1) @ weight.T + bias,
        lambda x: x.astype("float64").reshape(len(x), -1) @ weight.T + bias,
    ):
        with pytest.raises(seewhy.ModelError, match=r"numpy arrays.*Methods that need no gradient: occlusion"):
            seewhy.explain(f, X, name)


@pytest.mark.parametrize(
    "error", [ConnectionError, TypeError, AttributeError, ValueError, RuntimeError, OSError, KeyError]
)
def test_error_of_predictor_is_raised(error):
    def remote(x):
        raise error("the server answered 503")

    with pytest.raises((error, seewhy.ModelError), match="the server answered 503"):
        seewhy.explain(remote, X, "rise")

    calls = []

    def later(x):
        calls.append(len(x))
        if len(calls) > 2:
            raise error("the quota is spent")
        return x.flatten(1)

    with pytest.raises((error, seewhy.ModelError), match="the quota is spent"):
        seewhy.explain(later, X, "rise", target=0)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: np.asarray(x).reshape(len(x), -1) * np.nan, "NaN"),
        (lambda x: np.ones((3, 2)), "the first axis must be the batch"),
        (lambda x: 3.0, "returns a float"),
        (lambda x: np.asarray(x).reshape(len(x), -1).argmax(1), "floating-point scores are needed, not decisions"),
        (lambda x: (x.flatten(1), x), "a class needs one tensor of scores"),
    ],
)
def test_invalid_output_of_function_is_refused(output, message):
    with pytest.raises(seewhy.ModelError, match=message):
        seewhy.explain(output, X, "occlusion", target=0)


PROGRAM = """
import resource, sys, torch
from torch import nn
import seewhy

torch.set_num_threads(1)
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
x = torch.randn(1, 3, 96, 96)

def peak(few, many):
    for one in (few, many):
        name, options = one
        seewhy.explain(net, x, name, target=1, **options)
        yield resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3

grid = {"segments": "grid", "features": 16}
for name, few, many in (
    ("rise", {"samples": 200}, {"samples": 2000}),
    ("kernel_shap", grid | {"samples": 64}, grid | {"samples": 2000}),
    ("lime", grid | {"samples": 64, "surrogate": "linear"}, grid | {"samples": 2000, "surrogate": "linear"}),
    ("shapley_sampling", grid | {"samples": 4}, grid | {"samples": 133}),
    ("occlusion", {"stride": 12, "mask_size": 12}, {"stride": 2, "mask_size": 12}),
):
    before, after = peak((name, few), (name, many))
    print(name, after - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has another unit on other systems")
def test_memory_does_not_grow_with_number_of_masks():
    output = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout
    growth = {line.split()[0]: float(line.split()[1]) for line in output.splitlines()}
    assert len(growth) == 5
    # 2000 masked pictures at once would be 220 MB, 2000 masks as single bytes 18
    assert max(growth.values()) < 15, growth


# --- a pretrained network


@pytest.mark.row(75, 77)
def test_occlusion_default_options_on_lite0(lite0, shipped):
    x = lite0.prepare(shipped["chelsea"])
    e = seewhy.explain(lite0, x, "occlusion", target="Egyptian cat", score="probability")
    assert "masked parts: the mean of each channel" in e.notes
    starts = range(0, 224 - 45 + 22, 22)
    assert f"{len(starts) ** 2} windows of 45 × 45" in e.notes
    assert e.evaluations.forward == 1 + len(starts) ** 2
    probability = torch.softmax(lite0.module(x), 1)[0, 285].detach()
    assert float(e.scores) == pytest.approx(float(probability), abs=1e-5)

    def drop(top, left):
        masked = x.clone()
        masked[..., top : top + 45, left : left + 45] = x.mean((2, 3), keepdim=True)
        return float(probability - torch.softmax(lite0.module(masked).detach(), 1)[0, 285])

    assert float(e.maps[0, 0, 0, 0]) == pytest.approx(drop(0, 0), abs=1e-5)
    assert float(e.maps[0, 0, 223, 223]) == pytest.approx(drop(starts[-1], starts[-1]), abs=1e-5), (
        "clipped at the border"
    )
    mean = np.mean([drop(a, b) for a in starts for b in starts if a <= 90 < a + 45 and b <= 110 < b + 45])
    assert float(e.maps[0, 0, 90, 110]) == pytest.approx(mean, abs=1e-5)
    assert e.maps.max() > 0.02


@pytest.mark.row(76)
def test_occlusion_mask_size_and_stride_on_lite0(lite0, shipped):
    x = lite0.prepare(shipped["chelsea"])[..., ::2, ::2].contiguous()
    coarse = seewhy.explain(lite0, x, "occlusion", target=285, mask_size=(28, 56), stride=56)
    fine = seewhy.explain(lite0, x, "occlusion", target=285, mask_size=(28, 56), stride=(28, 28))
    assert (coarse.evaluations.forward, fine.evaluations.forward) == (1 + 2 * 2, 1 + 4 * 3)
    assert float(fine.maps[0, 0, 0, 0]) == pytest.approx(float(coarse.maps[0, 0, 0, 0]), abs=1e-4)
    options = seewhy.METHODS["occlusion"].options
    assert "noisier" in options["mask_size"].help
    assert "more forward passes" in options["stride"].help


@pytest.mark.row(78)
def test_lime_of_top_two_classes_on_lite0(lite0, shipped):
    options = seewhy.METHODS["lime"].options
    assert (options["features"].default, options["samples"].default) == (49, 2048)
    assert (options["surrogate"].default, options["segments"].default) == ("tree", "superpixels")
    e = seewhy.explain(lite0, shipped["coffee"], "lime", target="top2", samples=32)
    assert e.labels == (("espresso", "cup"),)
    assert e.maps.shape == (1, 2, 224, 224)
    assert 25 <= int(e.extras["segments"].max()) + 1 <= 60
    assert torch.allclose(e.extras["importances"].sum(2), torch.ones(1, 2).double())
    assert (e.maps[0, 0] - e.maps[0, 1]).abs().max() > 0.05
    other = seewhy.explain(lite0, shipped["coffee"], "lime", target="cup", samples=32)
    assert torch.allclose(other.maps[:, 0], e.maps[:, 1]), "the map of a class does not depend on the other targets"


@pytest.mark.row(79)
def test_lime_overlay_is_redder_for_larger_importance(lite0, shipped):
    x = lite0.prepare(shipped["coffee"])[..., ::2, ::2].contiguous()
    for surrogate in ("tree", "linear"):
        e = seewhy.explain(lite0, x, "lime", surrogate=surrogate, samples=48, segments="grid", features=16)
        shown = overlay(np.ones((112, 112, 3)), e.scaled[0, 0], 1.0, "white_red").astype(int)
        order = e.extras["importances"][0, 0].argsort()
        redness = [255 - shown[(e.extras["segments"][0] == label).numpy()][0, 1] for label in order]
        assert redness == sorted(redness)
        assert (redness[0], redness[-1]) == (0, 255)


class NotTraceable(torch.nn.Module):
    """Leaves torch during the forward pass, so its operations cannot be traced."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        h = self.net(x)
        return torch.from_numpy(h.numpy() * 1)


@pytest.mark.parametrize("method", ["rise", "lime", "kernel_shap", "shapley_sampling"])
def test_incremental_inference_equals_full_forward_passes(method):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(800, 3)
    ).double()
    net[1].running_mean.uniform_(-1, 1), net[1].running_var.uniform_(0.5, 2)
    net.eval()
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    options = {"samples": 64, "target": [0, 2]} | ({} if method == "rise" else {"segments": "grid", "features": 9})
    incremental, full = (seewhy.explain(m, x, method, **options) for m in (net, NotTraceable(net)))
    assert incremental.evaluations == full.evaluations
    assert (incremental.maps - full.maps).abs().max() <= 1e-10 * full.maps.abs().max()


@pytest.mark.parametrize("method", ["rise", "occlusion", "lime"])
def test_perturbation_method_with_target_per_sample(method):
    net, x = small_classifier(), random_input(2, 3, 8, 9)
    options = {"occlusion": {"mask_size": 4, "stride": 4}, "rise": {"samples": 32}, "lime": {"samples": 32}}[method]
    options |= {"segments": "grid", "features": 4} if method == "lime" else {}
    both = seewhy.explain(net, x, method, target=torch.tensor([2, 0]), **options).values
    same = seewhy.explain(net, x, method, target=[2, 0], **options).values
    torch.testing.assert_close(both[0, 0], same[0, 0])
    torch.testing.assert_close(both[1, 0], same[1, 1])
    assert (same[0, 0] - same[0, 1]).abs().max() > 1e-3
