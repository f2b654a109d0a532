"""Methods with random numbers, and methods that refine to a tolerance."""

import math

import pytest
import torch
from tests.networks import network_for
from torch import nn

import seewhy
from seewhy import maps
from seewhy.engine.families import FAMILIES
from seewhy.methods.gradient import adaptive_quadrature
from seewhy.methods.running_moments import Moments, add_samples, mean_and_stderr, variance_and_stderr

X = torch.randn(3, 3, 6, 9, generator=torch.Generator().manual_seed(5)).double()
SAMPLED = [name for name, m in seewhy.METHODS.items() if m.stochastic and m.family == "path_gradient"]


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 2 * 5, 3)]
    return nn.Sequential(*layers).double()


def test_moments_of_batches_equal_moments_of_all_samples():
    values = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).double().exp()
    moments = Moments()
    for batch in values.split([7, 1, 20, 22]):
        moments = add_samples(moments, batch)
    assert torch.allclose(mean_and_stderr(moments)[0], values.mean(0))
    assert torch.allclose(mean_and_stderr(moments)[1], values.std(0) / math.sqrt(50))
    variance = values.var(0)
    assert torch.allclose(variance_and_stderr(moments)[0], variance)
    fourth = ((values - values.mean(0)) ** 4).mean(0)
    assert torch.allclose(variance_and_stderr(moments)[1], ((fourth - 47 / 49 * variance**2) / 50).sqrt())


def test_smoothgrad_and_vargrad_of_relu():
    """The gradient of relu at t + noise has the mean Phi(t / sigma) and the variance Phi (1 - Phi)."""
    t = torch.tensor([[-0.2, 0.0, 0.3, 1.0]]).double()  # the range is 1.2
    phi = torch.special.ndtr(t / (0.25 * 1.2)).flatten()
    for name, expected in (("smoothgrad", phi), ("vargrad", phi * (1 - phi))):
        e = seewhy.explain(lambda x: x.relu().sum(1), t, name, samples=4000, sigma=0.25, batch_size=500)
        z_scores = (e.values.flatten() - expected).abs() / e.stderr.flatten().clamp(min=1e-3)
        assert z_scores.max() < 4
    plain = seewhy.explain(lambda x: x.relu().sum(1), t, "smoothgrad", samples=4000, sigma=0.25, batch_size=500)
    assert torch.allclose(plain.stderr.flatten()[:3], (phi * (1 - phi) / 4000).sqrt()[:3], rtol=0.1)


def test_smoothgrad_confidence_interval():
    """Over 200 seeds the exact value is within 1.96 standard errors in about 95% of cases."""
    t = torch.tensor([[-0.2, 0.0, 0.3, 1.0]]).double()
    phi = torch.special.ndtr(t / (0.25 * 1.2)).flatten()
    inside = []
    for seed in range(200):
        e = seewhy.explain(lambda x: x.relu().sum(1), t, "smoothgrad", samples=60, sigma=0.25, batch_size=60, seed=seed)
        inside.append(((e.values.flatten() - phi).abs() <= 1.96 * e.stderr.flatten())[:3])
    coverage = torch.stack(inside).double().mean()
    assert 0.90 < coverage < 0.98


def test_expected_gradients_of_a_linear_function():
    """The value is w_i (x_i - mean of b_i); with a single reference it is exact for any random numbers."""
    w = torch.tensor([1.0, -2.0, 3.0]).double()
    x, reference = torch.tensor([[1.0, 2.0, 4.0]]).double(), torch.tensor([[0.5, 1.0, 1.5]]).double()
    e = seewhy.explain(lambda x: x @ w, x, "expected_gradients", references=reference, samples=5)
    assert torch.allclose(e.values.flatten(), w * (x - reference).flatten())
    assert e.convergence_delta.abs().max() < 1e-12
    many = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    e = seewhy.explain(lambda x: x @ w, x, "expected_gradients", references=many, samples=2000, batch_size=500)
    z_scores = (e.values.flatten() - w * (x[0] - many.mean(0))).abs() / e.stderr.flatten()
    assert z_scores.max() < 4
    assert any("the 40 given" in n for n in e.notes)


def test_default_references_are_noted_and_independent_of_the_batch():
    single = seewhy.explain(net(), X[:1], "expected_gradients", target=0, samples=6)
    batch = seewhy.explain(net(), X, "expected_gradients", target=0, samples=6)
    assert torch.allclose(single.values[0], batch.values[0], rtol=1e-10)
    assert "references: noise with the mean and standard deviation of each channel of the sample" in single.notes


@pytest.mark.parametrize("given", ["noise", torch.ones(2, 3, 6, 8), torch.ones(2, 3, 6, 9) * torch.nan, 3.0])
def test_invalid_references_are_refused(given):
    with pytest.raises(seewhy.OptionError, match="references"):
        seewhy.explain(net(), X, "expected_gradients", references=given)


@pytest.mark.parametrize("name", SAMPLED)
def test_sampled_methods_depend_on_seed_only(name):
    """A seed determines the map, whatever the batch size; the global random state is not used."""
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = seewhy.explain(net(), X, name, target=1, samples=7, seed=3)
    same_seed = seewhy.explain(net(), X, name, target=1, samples=7, seed=3, batch_size=1)
    other_seed = seewhy.explain(net(), X, name, target=1, samples=7, seed=4)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.values - same_seed.values).abs().max() < 1e-10 * first.values.abs().max()
    assert (first.values - other_seed.values).abs().max() > 1e-3 * first.values.abs().max()
    assert first.stderr.shape == first.values.shape
    with pytest.raises(seewhy.OptionError, match="seed=-1"):
        seewhy.explain(net(), X, name, seed=-1)


@pytest.mark.parametrize("name", [n for n, m in seewhy.METHODS.items() if not FAMILIES[m.family].uses_attention])
def test_smooth_and_tta_of_method(name):
    ensembles = [seewhy.smooth(name, samples=3, sigma=0.05), seewhy.tta(name)]
    both = seewhy.explain(network_for(name), X, ensembles, target=[0, 2], **seewhy.METHODS[name].quick_options)
    single_channel = seewhy.METHODS[name].reduce is maps.channel_sum
    for e, kind in zip(both, ("smooth", "tta"), strict=True):
        assert e.method == f"{kind}({name})"
        layer = FAMILIES[seewhy.METHODS[name].family].uses_layer
        shape = (3, 2, 1, *((3, 5) if layer else (6, 9))) if single_channel else (3, 2, 3, 6, 9)
        assert e.values.shape == e.stderr.shape == shape
        assert torch.isfinite(e.values).all()
        expected = maps.resample(e.values[:, :, 0], (6, 9)) if single_channel else e.values.abs().sum(2)
        assert torch.equal(e.maps, expected.float())


def test_smooth_gradient_equals_smoothgrad():
    a = seewhy.explain(net(), X, seewhy.smooth("gradient", samples=6, sigma=0.1), target=1, seed=2)
    b = seewhy.explain(net(), X, "smoothgrad", samples=6, sigma=0.1, target=1, seed=2)
    assert torch.allclose(a.values, b.values)
    assert torch.allclose(a.stderr, b.stderr)
    assert torch.equal(a.scores, seewhy.explain(net(), X, "gradient", target=1).scores)


def test_tta_averages_mirrored_maps():
    e = seewhy.explain(net(), X, seewhy.tta("gradient"), target=1).values
    plain, mirrored = (seewhy.explain(net(), x, "gradient", target=1).values for x in (X, X.flip(-1)))
    assert torch.allclose(e, (plain + mirrored.flip(-1)) / 2)
    with pytest.raises(seewhy.OptionError, match="tta mirrors pictures"):
        seewhy.explain(nn.Linear(3, 2), torch.ones(1, 3), seewhy.tta("gradient"))


def test_smooth_explains_the_class_of_the_original_input():
    best = net()(X).argmax(1, keepdim=True)
    smooth = seewhy.smooth("gradient", samples=8, sigma=3.0)
    e = seewhy.explain(net(), X, smooth)
    assert torch.equal(e.targets, best)
    assert torch.equal(e.values, seewhy.explain(net(), X, smooth, target=best).values), (
        "also if the noise changes the predicted class"
    )


def test_smooth_refuses_unknown_method_and_single_sample():
    with pytest.raises(seewhy.UnknownNameError, match="unknown method 'grad'"):
        seewhy.smooth("grad")
    with pytest.raises(seewhy.OptionError, match="samples=1"):
        seewhy.smooth("gradient", samples=1)


def test_integrated_gradients_reaches_tolerance():
    x = torch.tensor([[0.4, 0.9, -0.1], [1.0, 0.2, 0.3]]).double()
    f = lambda x: (8 * x.sum(1)).tanh() + (3 * x[:, 0] - 1).relu() - (7 * x[:, 1] - 2).relu()  # noqa: E731
    plain = seewhy.explain(f, x, "integrated_gradients", steps=4)
    e = seewhy.explain(f, x, "integrated_gradients", steps=4, tolerance=1e-3)
    change = (f(x) - f(0 * x)).abs()[:, None]
    assert (plain.convergence_delta.abs() > 1e-3 * change).any(), "otherwise the test has no effect"
    assert (e.convergence_delta.abs() <= 1e-3 * change).all()
    assert (e.extras["map_error"] <= 5e-3 * change).all()
    assert e.extras["reached"].all()
    fine = seewhy.explain(f, x, "integrated_gradients", steps=20_000, batch_size=500)
    assert (e.values - fine.values).abs().sum() < 2e-2 * fine.values.abs().sum()
    sums = e.values.flatten(1).sum(1) - (f(x) - f(0 * x))
    assert torch.allclose(e.convergence_delta[:, 0], sums, atol=1e-12), "the delta is reported exactly"


def test_no_gradient_is_computed_twice():
    points = []

    def f(x):
        if x.requires_grad:
            points.extend(x.detach()[:, 0].tolist())
        return (9 * x).tanh().sum(1)

    x = torch.ones(1, 1).double()
    e = seewhy.explain(f, x, "integrated_gradients", steps=3, tolerance=1e-4)
    assert len(points) == len({round(p, 12) for p in points}) == e.evaluations.backward


def test_dropped_gradients_are_computed_again(monkeypatch):
    x = torch.tensor([[0.4, 0.9]]).double()
    f = lambda x: (8 * x.sum(1)).tanh() + (3 * x[:, 0] - 1).relu()  # noqa: E731
    cached = seewhy.explain(f, x, "integrated_gradients", steps=4, tolerance=1e-3)
    monkeypatch.setattr(adaptive_quadrature, "MAX_CACHED_GRADIENTS", 1)
    uncached = seewhy.explain(f, x, "integrated_gradients", steps=4, tolerance=1e-3)
    assert torch.allclose(cached.values, uncached.values)
    assert uncached.evaluations.backward > cached.evaluations.backward


def test_unreached_tolerance_is_noted():
    x = torch.tensor([[0.4, 0.9]]).double()
    e = seewhy.explain(
        lambda x: (80 * x).sin().sum(1), x, "integrated_gradients", steps=2, tolerance=1e-5, max_steps=10
    )
    assert any("10 steps were spent before the tolerance 1e-05 was reached" in n for n in e.notes)
    assert not e.extras["reached"].any()
    assert e.evaluations.backward <= 10


def test_tolerance_of_sample_does_not_depend_on_other_samples():
    x = torch.tensor([[0.4, 0.9, -0.1], [1.0, 0.2, 0.3]]).double()
    f = lambda x: torch.stack([(8 * x.sum(1)).tanh(), (3 * x[:, 0] - 1).relu()], 1)  # noqa: E731
    both = seewhy.explain(f, x, "integrated_gradients", target=[0, 1], steps=4, tolerance=1e-2)
    for n in range(2):
        single = seewhy.explain(f, x[n : n + 1], "integrated_gradients", target=[0, 1], steps=4, tolerance=1e-2)
        assert torch.allclose(single.values[0], both.values[n], atol=1e-12)


def test_tolerance_with_other_rule_is_refused():
    with pytest.raises(seewhy.OptionError, match="a tolerance refines midpoints"):
        seewhy.explain(net(), X, "integrated_gradients", tolerance=0.01, rule="gauss")
    with pytest.raises(seewhy.OptionError, match="tolerance=2"):
        seewhy.explain(net(), X, "integrated_gradients", tolerance=2)


def test_one_percent_tolerance_on_lite0(lite0, shipped):
    e = seewhy.explain(lite0, shipped["coffee"], "integrated_gradients", steps=16, tolerance=0.01)
    black = lite0.module(torch.full((1, 3, 224, 224), -1.0)).gather(1, e.targets).detach()
    assert e.convergence_delta.abs() <= 0.0101 * (e.scores - black).abs()
    assert e.extras["map_error"] <= 0.0501 * (e.scores - black).abs()
    assert e.evaluations.backward < 400
