"""Metrics against reference implementations, errors and undefined values; `compare`."""

import math
from dataclasses import replace

import captum.attr
import captum.metrics
import numpy as np
import pytest
import torch
from scipy import stats
from tests.networks import random_input, small_classifier, with_random_weights
from torch import nn

import seewhy
from seewhy import incremental, testing
from seewhy.engine.random_numbers import normal_sampler
from seewhy.errors import OptionError, UnknownNameError

METRICS = [name for name, check in seewhy.CHECKS.items() if check.function]
PERTURBATION_METRICS = ["deletion", "insertion", "road", "infidelity", "sensitivity", "stability"]
SIZES = {1: (11,), 2: (4, 5), 3: (3, 4, 3)}


def explanation_of(rank=2, count=2, method="gradient", **options):
    net, x = small_classifier(rank), random_input(count, 3, *SIZES[rank])
    return net, seewhy.explain(net, x, method, **{"target": [0, 2]} | options)


def options_of(check, e):
    """Options for a fast computation, and the mask that some metrics require."""
    mask = torch.zeros(e.input.shape[2:], dtype=torch.bool)
    mask.view(-1)[:3] = True
    options = {"pointing": {"mask": mask}, "energy": {"mask": mask}, "completeness": {}}
    options |= {"sensitivity": {"samples": 2}, "stability": {"samples": 2}, "infidelity": {"samples": 3}}
    return options.get(check, {"steps": 3})


def measured_explanation(check, rank=2, count=2, **options):
    net, e = explanation_of(rank, count, "integrated_gradients" if check == "completeness" else "gradient", **options)
    return net, e, seewhy.measure(net, e, check, **options_of(check, e))


# --- deletion, insertion


def reference_curve_area(net, x, heatmap, c, steps, fill, deletion):
    """Petsiuk et al. 2018: one position after the other, in plain Python."""
    flat, area = heatmap.flatten().tolist(), 0
    order = sorted(range(len(flat)), key=lambda i: -flat[i])
    for step in range(1, steps + 1):
        first = [i for rank, i in enumerate(order) if rank * steps < step * len(flat)]
        picture = (x if deletion else fill).clone().flatten(1)
        for i in first:
            picture[:, i] = (fill if deletion else x).flatten(1)[:, i]
        area += net(picture.view(1, *x.shape)).softmax(1)[0, c].item() / steps
    return area


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("fill", [0.25, "mean", "blur"])
def test_deletion_and_insertion_match_reference(rank, fill):
    from skimage.filters import gaussian

    net, e = explanation_of(rank)
    for n in range(2):
        x = e.input[n]
        by_name = {
            0.25: torch.full_like(x, 0.25),
            "mean": x.flatten(1).mean(1).view(3, *[1] * rank).expand_as(x),
            "blur": torch.from_numpy(np.stack([gaussian(one, 2.0, mode="reflect") for one in x.numpy()])),
        }
        for k, c in enumerate([0, 2]):
            for check, is_deletion in (("deletion", True), ("insertion", False)):
                m = seewhy.measure(net, e, check, steps=4, fill=fill)
                with torch.no_grad():
                    expected = reference_curve_area(net, x, e.maps[n, k], c, 4, by_name[fill], is_deletion)
                assert m.values[n, k].item() == pytest.approx(expected, abs=1e-12)
                assert m.stderr.abs().max() == 0  # no two values are equal
                assert m.better == ("low" if is_deletion else "high")


def test_deletion_and_insertion_rank_maps_correctly():
    weights = torch.arange(1.0, 21).double().view(4, 5)
    f = lambda x: (x[:, 0] * weights.to(x)).sum((1, 2))  # noqa: E731
    e = seewhy.explain(f, torch.ones(1, 1, 4, 5).double(), "gradient")
    inverted = replace(e, maps=-e.maps)
    for check, lower_is_better in (("deletion", True), ("insertion", False)):
        correct, wrong = (seewhy.measure(f, one, check, fill=0, steps=20).mean for one in (e, inverted))
        assert (correct < wrong) == lower_is_better
    removed = np.cumsum(np.arange(1, 21)[::-1])  # the largest weights are masked first
    assert seewhy.measure(f, e, "deletion", fill=0, steps=20).mean == pytest.approx(np.mean(210 - removed))


@pytest.mark.parametrize("kind", ["one number", "probabilities", "logits"])
def test_deletion_score_is_probability_for_logits(kind):
    head = {"one number": nn.Linear(6, 1), "logits": nn.Linear(6, 3),
            "probabilities": nn.Sequential(nn.Linear(6, 3), nn.Softmax(1))}[kind]  # fmt: skip
    net = with_random_weights(nn.Sequential(nn.Flatten(), head).double())
    e = seewhy.explain(net, random_input(1, 1, 2, 3), "gradient", target=0)
    with torch.no_grad():
        masked = net(torch.zeros(1, 1, 2, 3).double())
    expected = (masked.softmax(1) if kind == "logits" else masked)[0, 0].item()
    assert seewhy.measure(net, e, "deletion", steps=1, fill=0).mean == pytest.approx(expected, abs=1e-12)


def test_deletion_orders_ties_randomly():
    """All positions but one are tied: the relevant position is masked after half of the steps on average."""
    f = lambda x: x[:, 0, 0, 0]  # noqa: E731
    e = seewhy.explain(f, torch.ones(1, 1, 3, 4).double(), "gradient")
    heatmap = torch.zeros(1, 1, 3, 4)
    heatmap[..., 2, 3] = 1
    m = seewhy.measure(f, replace(e, maps=heatmap), "deletion", steps=12, fill=0, ties=100)
    assert m.stderr.item() == pytest.approx(np.std(np.arange(1, 12) / 12) / 10, rel=0.2)
    assert abs(m.mean - 0.5) < 4 * m.stderr.item()
    assert m.mean == seewhy.measure(f, replace(e, maps=heatmap), "deletion", steps=12, fill=0, ties=100).mean
    other = seewhy.measure(f, replace(e, maps=heatmap), "deletion", steps=12, fill=0, ties=5, seed=1)
    assert other.mean != seewhy.measure(f, replace(e, maps=heatmap), "deletion", steps=12, fill=0, ties=5).mean
    assert seewhy.measure(f, replace(e, maps=heatmap), "deletion", ties=1).stderr is None


def test_deletion_evaluates_one_order_without_ties():
    """Without ties all orders are the same and only one is evaluated; with ties each is evaluated."""
    batch_sizes = []

    def f(x):
        batch_sizes.append(len(x))
        return (x[:, 0] * torch.arange(1.0, 13).double().view(3, 4)).sum((1, 2))

    e = seewhy.explain(f, torch.ones(1, 1, 3, 4).double(), "gradient")
    for heatmap, orders in ((e.maps, 1), (e.maps.clamp(max=5), 3)):
        batch_sizes.clear()
        m = seewhy.measure(f, replace(e, maps=heatmap), "deletion", steps=6, ties=3, fill=0)
        assert sum(batch_sizes) == 6 * orders
        assert (m.stderr.item() == 0) == (orders == 1)


# --- ROAD


def reference_imputation(x, masked):
    """Rong et al. 2022, section 4.1: a dense system with one equation per masked position."""
    places = [tuple(p) for p in masked.nonzero().tolist()]
    system, right = np.zeros((len(places),) * 2), np.zeros((len(places), len(x)))
    for row, (i, j) in enumerate(places):
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                at = (i + di, j + dj)
                if (di, dj) == (0, 0) or not (0 <= at[0] < masked.shape[0] and 0 <= at[1] < masked.shape[1]):
                    continue
                weight = 1 / 6 if 0 in (di, dj) else 1 / 12
                system[row, row] += weight
                if at in places:
                    system[row, places.index(at)] -= weight
                else:
                    right[row] += weight * x[(slice(None), *at)].numpy()
    picture = x.clone()
    for row, solution in zip(places, np.linalg.solve(system, right), strict=True):
        picture[(slice(None), *row)] = torch.from_numpy(solution)
    return picture


def test_road_matches_reference_imputation():
    net, e = explanation_of(count=2)
    m = seewhy.measure(net, e, "road", steps=5, noise=0)
    for n in range(2):
        for k, c in enumerate([0, 2]):
            heatmap, scores = e.maps[n, k].flatten(), []
            for step in range(1, 6):
                masked = torch.zeros(20, dtype=torch.bool)
                masked[heatmap.argsort(descending=True)[: math.ceil(20 * step / 6)]] = True
                with torch.no_grad():
                    z = net(reference_imputation(e.input[n], masked.view(4, 5))[None])
                scores.append(z.softmax(1)[0, c].item())
            assert m.values[n, k].item() == pytest.approx(np.mean(scores), abs=1e-12)


def test_road_noise_std():
    inputs = []

    def f(x):
        inputs.append(x)
        return x.mean((1, 2, 3))

    e = seewhy.explain(f, torch.full((1, 2, 20, 20), 0.5).double(), "random")
    inputs.clear()
    seewhy.measure(f, e, "road", steps=1, noise=0.1)
    noise = inputs[-1] - 0.5
    assert (noise != 0).sum() == 400  # half of the positions, both channels
    assert noise[noise != 0].std().item() == pytest.approx(0.1, rel=0.15)
    assert abs(noise.sum().item() / 400) < 0.02


@pytest.mark.parametrize("rank", [1, 3])
def test_road_rejects_sequences_and_volumes(rank):
    net, e = explanation_of(rank)
    with pytest.raises(OptionError, match=rf"{rank + 2} axes: use deletion"):
        seewhy.measure(net, e, "road")


# --- infidelity, sensitivity, stability


def noise_samples(x, count, sigma, seed=0):
    """The noise that the metrics add, [count, N, C, *S]."""
    width = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, *[1] * (x.ndim - 1))
    return torch.stack([sigma * width * normal_sampler(seed, x)(j, j + 1) for j in range(count)])


def quadratic_form(weights):
    return lambda x: (weights.to(x) * x**2).flatten(1).sum(1)


def test_infidelity_of_quadratic_form():
    """f = Σ a x²: the error of gradient · I is Σ a I², whose mean square over normal I is known."""
    weights, x = random_input(1, 2, 3)[0], random_input(1, 1, 2, 3) * 2
    e = seewhy.explain(quadratic_form(weights), x, "gradient")
    m = seewhy.measure(quadratic_form(weights), e, "infidelity", sigma=0.1, samples=400, normalize=False)
    s = 0.1 * float(x.max() - x.min())
    expected = s**4 * float(2 * (weights**2).sum() + weights.sum() ** 2)
    assert abs(m.mean - expected) < 3 * m.stderr.item() < expected
    few = seewhy.measure(quadratic_form(weights), e, "infidelity", sigma=0.1, samples=20, normalize=False)
    assert few.stderr.item() > 2 * m.stderr.item()


def test_infidelity_of_linear_network_is_zero():
    weights, x = random_input(1, 2, 3), random_input(2, 1, 2, 3)
    f = lambda x: (weights.to(x) * x).flatten(1).sum(1)  # noqa: E731
    e = seewhy.explain(f, x, ["gradient", "input_x_gradient"])
    for normalize in (True, False):
        assert seewhy.measure(f, e[0], "infidelity", normalize=normalize).values.max() < 1e-24
        assert seewhy.measure(f, e[1], "infidelity", normalize=normalize).values.min() > 1e-5
    double = replace(e[0], values=2 * e[0].values)
    assert seewhy.measure(f, double, "infidelity").values.max() < 1e-24
    assert seewhy.measure(f, double, "infidelity", normalize=False).values.min() > 1e-4


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", ["gradient", "input_x_gradient"])
def test_infidelity_matches_captum(method, normalize):
    net, e = explanation_of(2, 3, method)
    noise = noise_samples(e.input, 12, 0.05)
    m = seewhy.measure(net, e, "infidelity", samples=12, normalize=normalize)
    for k, c in enumerate([0, 2]):

        def perturbed(inputs):
            repeated = noise.transpose(0, 1).flatten(0, 1)  # captum repeats each sample
            return repeated, inputs - repeated

        expected = captum.metrics.infidelity(
            net, perturbed, e.input, e.values[:, k].double(), target=c, n_perturb_samples=12, normalize=normalize
        )
        assert torch.allclose(m.values[:, k], expected, rtol=1e-9, atol=0)


def test_infidelity_of_map_without_channels():
    net, e = explanation_of(method="hirescam", upsample="linear")
    m = seewhy.measure(net, e, "infidelity", samples=6, normalize=False)
    noise = noise_samples(e.input, 6, 0.05)
    predicted = (e.maps.double()[None] * noise.sum(2)[:, :, None]).flatten(3).sum(3)
    with torch.no_grad():
        actual = net(e.input)[:, [0, 2]] - torch.stack([net(e.input - one)[:, [0, 2]] for one in noise])
    assert torch.allclose(m.values, ((predicted - actual) ** 2).mean(0), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_sensitivity_matches_captum():
    net, e = explanation_of(2, 3)
    m = seewhy.measure(net, e, "sensitivity", samples=4, radius=0.03, seed=7)
    generator = torch.Generator().manual_seed(7)
    perturbations = [(2 * torch.rand(3, 4, 5, generator=generator, dtype=torch.float64) - 1) * 0.03 for _ in range(4)]
    for k, c in enumerate([0, 2]):
        expected = captum.metrics.sensitivity_max(
            lambda inputs, c=c: captum.attr.Saliency(net).attribute(inputs, target=c, abs=False),
            e.input, lambda inputs: inputs + torch.stack(perturbations).repeat(3, 1, 1, 1), n_perturb_samples=4,
        )  # fmt: skip
        assert torch.allclose(m.values[:, k], expected.double(), rtol=1e-6)
    assert m.stderr is None


def test_sensitivity_of_quadratic_form():
    """The gradient 2 a x changes by 2 a d, at most 2 a times the radius per value."""
    x = random_input(2, 1, 2, 3)
    e = seewhy.explain(quadratic_form(torch.ones(1)), x, "gradient")
    m = seewhy.measure(quadratic_form(torch.ones(1)), e, "sensitivity", radius=0.5, samples=60)
    bound = 0.5 * 6**0.5 / x.flatten(1).norm(dim=1, keepdim=True)
    assert (m.values <= bound).all()
    assert (m.values > 0.65 * bound).all()
    fewer = seewhy.measure(quadratic_form(torch.ones(1)), e, "sensitivity", radius=0.5, samples=5)
    assert (fewer.values <= m.values).all()


def test_stability_matches_scipy():
    net, e = explanation_of(2, 3)
    m = seewhy.measure(net, e, "stability", samples=4, sigma=0.2)
    each = np.zeros((4, 3, 2))
    for j, noise in enumerate(noise_samples(e.input, 4, 0.2)):
        again = seewhy.explain(net, e.input + noise, "gradient", target=[0, 2]).maps
        for n in range(3):
            for k in range(2):
                each[j, n, k] = stats.spearmanr(e.maps[n, k].flatten(), again[n, k].flatten()).statistic
    assert np.allclose(m.values, each.mean(0), atol=1e-12)
    assert np.allclose(m.stderr, each.std(0, ddof=1) / 2, atol=1e-12)


EXPLAIN_CALLS = {
    "smooth": {"method": seewhy.smooth("gradient", samples=3, sigma=0.2)},
    "tta": {"method": seewhy.tta("gradient")},
    "several layers": {"method": "hirescam", "feature_layer": ["1", "3"]},
    "another output": {"method": "gradient", "reduction_layer": "2", "target": [1, 4]},
    "own size": {"method": "hirescam", "upsample": "none"},
    "a seed": {"method": "smoothgrad", "samples": 3, "seed": 5, "score": "margin"},
}


@pytest.mark.parametrize("name", EXPLAIN_CALLS)
def test_measure_repeats_the_explain_call(name):
    """All arguments of the call are kept: the map at the input itself is the same."""
    net, e = explanation_of(**EXPLAIN_CALLS[name])
    assert seewhy.measure(net, e, "sensitivity", radius=0, samples=1).values.max() == 0
    assert seewhy.measure(net, e, "sensitivity", radius=0.5, samples=1).values.min() > 0
    assert seewhy.measure(net, e, "deletion", steps=2).values.isfinite().all()


def test_measure_network_whose_last_layer_runs_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x):
            return self.head(self.head(self.conv(x).relu().mean((2, 3))))

    net = with_random_weights(Twice().double())
    e = seewhy.explain(net, random_input(1, 3, 6, 7), "gradcam", target=0)
    with torch.no_grad():
        masked = net(torch.zeros(1, 3, 6, 7).double()).softmax(1)[0, 0].item()
    assert seewhy.measure(net, e, "deletion", steps=1, fill=0).mean == pytest.approx(masked, abs=1e-12)
    assert seewhy.measure(net, e, "sensitivity", samples=1).mean > 0


def test_measure_rejects_explanation_without_call():
    net, e = explanation_of()
    with pytest.raises(OptionError, match="has no `call`"):
        seewhy.measure(net, replace(e, call=None), "stability")


# --- completeness, pointing game, energy


def test_completeness_is_relative_to_score_difference():
    f = lambda x: x[:, 0] ** 3  # noqa: E731
    e = seewhy.explain(f, torch.tensor([[2.0]]).double(), "integrated_gradients", steps=1)
    m = seewhy.measure(f, e, "completeness")
    assert m.mean == pytest.approx(2 / 8)  # one midpoint gives 6 of 8
    assert m.stderr is None


def test_completeness_of_segments_and_bias_parts():
    net, x = small_classifier(), random_input(2, 3, 8, 9)
    for method, options in (
        ("kernel_shap", {"segments": "grid", "features": 4, "samples": 14, "mask_value": 0}),
        ("fullgrad", {}),
    ):
        e = seewhy.explain(net, x, method, target=1, **options)
        shifted = replace(e, convergence_delta=e.convergence_delta + 0.5)
        with torch.no_grad():
            expected = net(x)[:, [1]] - (net(torch.zeros_like(x))[:, [1]] if options else 0)
        if options:
            shifted = replace(shifted, extras={**e.extras, "importances": e.extras["importances"] + 0.5 / 4})
        else:
            shifted = replace(shifted, extras={**e.extras, "input_part": e.extras["input_part"] + 0.5})
        assert torch.allclose(seewhy.measure(net, shifted, "completeness").values, (0.5 / expected).abs(), rtol=1e-6)
        assert seewhy.measure(net, e, "completeness").values.max() < 1e-9


def test_completeness_rejects_method_without_completeness():
    net, e = explanation_of()
    with pytest.raises(OptionError, match="gradient has no completeness property"):
        seewhy.measure(net, e, "completeness")


def explanation_with_peak(*place, size=(9, 12)):
    f = lambda x: x.sum((1, 2, 3))  # noqa: E731
    e = seewhy.explain(f, random_input(1, 1, *size), "gradient")
    heatmap = torch.zeros(1, 1, *size)
    heatmap[(0, 0, *place)] = 1
    return f, replace(e, maps=heatmap)


@pytest.mark.parametrize(
    ("place", "tolerance", "hit"),
    [((4, 5), 0, 1), ((4, 6), 0, 0), ((4, 6), 1, 1), ((5, 6), 1, 1), ((6, 6), 1, 0), ((6, 7), 2, 1), ((0, 5), 3, 0),
     ((0, 5), 4, 1), ((8, 11), 5, 0), ((8, 11), 6, 1), ((0, 0), 15, 1)],
)  # fmt: skip
def test_pointing_game_tolerance(place, tolerance, hit):
    f, e = explanation_with_peak(*place)
    mask = torch.zeros(9, 12)
    mask[4, 5] = 1
    m = seewhy.measure(f, e, "pointing", mask=mask, tolerance=tolerance)
    assert m.values.item() == hit


def test_pointing_game_tolerance_does_not_wrap_around():
    f, e = explanation_with_peak(8, 11)
    mask = np.zeros((9, 12), bool)
    mask[0, 0] = True
    assert seewhy.measure(f, e, "pointing", mask=mask, tolerance=7).mean == 0


def test_pointing_game_with_equal_maxima():
    f, e = explanation_with_peak(0, 0)
    heatmap = e.maps.clone()
    heatmap[0, 0, 8, 8:12] = 1
    mask = torch.zeros(9, 12)
    mask[0, 0] = 1
    assert seewhy.measure(f, replace(e, maps=heatmap), "pointing", mask=mask, tolerance=0).mean == pytest.approx(1 / 5)


def test_energy_counts_positive_values_only():
    f, e = explanation_with_peak(0, 0, size=(2, 3))
    e = replace(e, maps=torch.tensor([[[[3.0, -7, 1], [0, 4, -2]]]]))
    mask = torch.tensor([[1, 1, 0], [1, 0, 1]])
    assert seewhy.measure(f, e, "energy", mask=mask).mean == pytest.approx(3 / 8)
    negative = seewhy.measure(f, replace(e, maps=-e.maps.abs()), "energy", mask=mask)
    assert math.isnan(negative.mean)


def test_energy_with_mask_per_sample():
    net, e = explanation_of(count=2)
    masks = torch.zeros(2, 4, 5)
    masks[0, :2], masks[1, 2:] = 1, 1
    both = seewhy.measure(net, e, "energy", mask=masks).values
    upper = seewhy.measure(net, e, "energy", mask=masks[0]).values
    assert torch.allclose(both[0], upper[0])
    assert torch.allclose(both[1], 1 - upper[1])


@pytest.mark.parametrize(
    "mask", [torch.ones(5, 4), torch.ones(3, 4, 5), torch.ones(2, 1, 4, 5), torch.zeros(4, 5), torch.ones(1)]
)
@pytest.mark.parametrize("check", ["pointing", "energy"])
def test_localization_rejects_invalid_masks(check, mask):
    net, e = explanation_of(count=2)
    with pytest.raises(OptionError, match=r"\[4, 5\] or \[2, 4, 5\], and each mask needs at least one true"):
        seewhy.measure(net, e, check, mask=mask)


# --- all metrics


@pytest.mark.parametrize("check", METRICS)
def test_measure_constant_map_is_undefined(check):
    """NaN, not the value for an arbitrary order."""
    net, e = explanation_of(method="integrated_gradients" if check == "completeness" else "gradient", count=2)
    values = e.values.clone()
    values[1] = 0
    delta = None if e.convergence_delta is None else e.convergence_delta * torch.tensor([[1.0], [0.0]])
    one_constant = replace(e, values=values, maps=values.abs().sum(2).float(), convergence_delta=delta)
    m = seewhy.measure(net, one_constant, check, **options_of(check, e))
    assert m.values[1].isnan().all()
    assert m.values[0].isfinite().all()
    assert m.notes == ("sample 1, target 0: undefined", "sample 1, target 1: undefined")
    assert m.mean == pytest.approx(m.values[0].mean().item())
    zeros = {"values": e.values * 0, "maps": one_constant.maps * 0}
    all_constant = replace(e, **zeros, convergence_delta=None if delta is None else delta * 0)
    m = seewhy.measure(net, all_constant, check, **options_of(check, e))
    assert all(map(math.isnan, (m.mean, m.low, m.high)))
    assert "undefined" in str(m)


@pytest.mark.parametrize("check", ["infidelity", "stability"])
def test_measure_without_noise_is_undefined(check):
    net = small_classifier()
    e = seewhy.explain(net, torch.ones(1, 3, 4, 5).double(), "gradient")
    assert math.isnan(seewhy.measure(net, e, check).mean)
    net, e = explanation_of()
    assert math.isnan(seewhy.measure(net, e, check, sigma=0).mean)


@pytest.mark.parametrize("count", [1, 4, 5, 7])
def test_measure_interval_requires_five_samples(count):
    net, e = explanation_of(count=count)
    m = seewhy.measure(net, e, "deletion", steps=3)
    assert m.mean == pytest.approx(m.values.mean().item())
    each = m.values.mean(1).numpy()
    if count < 5:
        assert math.isnan(m.low)
        assert math.isnan(m.high)
    else:
        expected = stats.t.interval(0.95, count - 1, each.mean(), stats.sem(each))
        assert (m.low, m.high) == pytest.approx(expected)
        assert f"[{m.low:.3g}, {m.high:.3g}]" in str(m)
    assert f"deletion of gradient (low is better): {m.mean:.3g}" in str(m)


@pytest.mark.parametrize("check", METRICS)
def test_measure_value_does_not_depend_on_batch(check):
    """Also for maps with ties, whose random order must be that of the sample alone."""
    net, e, _ = measured_explanation(check, count=3)
    e = replace(e, maps=e.maps.round(decimals=1))
    assert all(len(m.unique()) < 20 for m in e.maps.flatten(0, 1))
    rest = options_of(check, e)
    m = seewhy.measure(net, e, check, **rest)
    assert m.values.shape == (3, 2)
    alone = replace(e, **{
        key: getattr(e, key)[2:, 1:]
        for key in ("values", "maps", "scaled", "scores", "targets", "convergence_delta") if getattr(e, key) is not None
    }, input=e.input[2:])  # fmt: skip
    one = seewhy.measure(net, alone, check, **rest)
    assert torch.allclose(one.values, m.values[2:, 1:], rtol=1e-6, atol=1e-15 if check != "completeness" else 1e-12)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("check", [name for name in METRICS if name != "road"])
def test_measure_sequences_and_volumes(rank, check):
    _, _, m = measured_explanation(check, rank)
    assert m.values.shape == (2, 2)
    assert m.values.isfinite().all()


@pytest.mark.parametrize("check", PERTURBATION_METRICS)
def test_measure_channels_last_layout(check):
    """A channels-last network has the same values as the network with its channels first."""
    plain, e = explanation_of()
    net = seewhy.wrap(plain, forward=lambda module, x: module(x.permute(0, 3, 1, 2)), layout="NHWC")
    last = seewhy.explain(net, e.input.permute(0, 2, 3, 1), "gradient", target=[0, 2])
    both = [seewhy.measure(*one, check, **options_of(check, e)).values for one in ((plain, e), (net, last))]
    assert torch.allclose(*both, rtol=1e-9)


@pytest.mark.parametrize("check", [name for name in PERTURBATION_METRICS if name != "road"])
def test_measure_features(check):
    net, x = (
        with_random_weights(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()),
        random_input(2, 6),
    )
    e = seewhy.explain(net, x, "gradient")
    m = seewhy.measure(net, e, check, **options_of(check, e))
    assert m.values.isfinite().all()
    if check == "deletion":  # features cannot be blurred: filled with 0
        with torch.no_grad():
            masked = net(torch.zeros_like(x)).softmax(1).gather(1, e.targets)
        assert torch.allclose(seewhy.measure(net, e, check, steps=1).values, masked)
    if check == "infidelity":
        noise = noise_samples(e.input, 3, 0.05)[:, :, 0]
        with torch.no_grad():
            actual = torch.stack([(net(x) - net(x - one)).gather(1, e.targets)[:, 0] for one in noise])
        predicted = (e.values[:, 0, 0] * noise).sum(2)
        values = seewhy.measure(net, e, check, samples=3, normalize=False).values[:, 0]
        assert torch.allclose(values, ((predicted - actual) ** 2).mean(0))


def test_measure_single_channel_sequences():
    net = with_random_weights(nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                              nn.Linear(4, 3)).double())  # fmt: skip
    e = seewhy.explain(net, random_input(2, 1, 9), "gradient")
    with torch.no_grad():
        masked = net(torch.zeros(2, 1, 9).double()).softmax(1).gather(1, e.targets)
    assert torch.allclose(seewhy.measure(net, e, "deletion", steps=1, fill=0).values, masked)


@pytest.mark.parametrize("check", PERTURBATION_METRICS)
def test_measure_has_no_side_effects(check):
    net, x = testing.network(), testing.inputs()
    e = seewhy.explain(net, x, "gradient", target=[0, 1])
    kept = e.input.clone(), e.values.clone(), e.maps.clone()
    before = testing.state(net)
    seewhy.measure(net, e, check, **options_of(check, e))
    assert testing.states_equal(before, testing.state(net))
    handle = net[3].register_forward_hook(lambda *_: 1 / 0)
    before = testing.state(net)
    with pytest.raises(seewhy.ModelError, match="ZeroDivisionError"):
        seewhy.measure(net, e, check, **options_of(check, e))
    assert testing.states_equal(before, testing.state(net))
    handle.remove()
    assert all(map(torch.equal, kept, (e.input, e.values, e.maps)))


@pytest.mark.parametrize("check", PERTURBATION_METRICS)
def test_measure_batch_size_is_at_most_eight(check, monkeypatch):
    """With full and with incremental inference."""
    net, e = explanation_of(count=19)
    sizes, incremental_sizes = [], []
    handle = net.register_forward_pre_hook(lambda m, a: sizes.append(len(a[0])))
    outputs_for = incremental.PreparedNetwork.outputs_for
    monkeypatch.setattr(
        incremental.PreparedNetwork,
        "outputs_for",
        lambda self, points, verify: incremental_sizes.append(len(points)) or outputs_for(self, points, verify=verify),
    )
    seewhy.measure(net, e, check, **options_of(check, e))
    handle.remove()
    assert 1 < max(sizes + incremental_sizes) <= 8


def test_measure_rejects_unknown_names():
    net, e = explanation_of()
    with pytest.raises(UnknownNameError, match=r"unknown check 'deletoin'. Did you mean 'deletion'"):
        seewhy.measure(net, e, "deletoin")
    with pytest.raises(UnknownNameError, match=r"unknown option of deletion 'step'. Did you mean 'steps'"):
        seewhy.measure(net, e, "deletion", step=3)


@pytest.mark.parametrize("check", ["T0", "T1", "T2", "T3"])
def test_measure_rejects_tests_of_check(check):
    net, e = explanation_of()
    with pytest.raises(OptionError, match=r"part of seewhy.check\(model, x, methods\)"):
        seewhy.measure(net, e, check)


@pytest.mark.parametrize(
    ("check", "option"),
    [("deletion", {"steps": 0}), ("deletion", {"steps": 2.5}), ("insertion", {"ties": 0}), ("road", {"noise": -0.1}),
     ("infidelity", {"samples": 0}), ("infidelity", {"sigma": math.inf}), ("sensitivity", {"radius": math.nan}),
     ("stability", {"sigma": "wide"}), ("pointing", {"tolerance": -1}), ("deletion", {"steps": True})],
)  # fmt: skip
def test_measure_rejects_invalid_options(check, option):
    net, e = explanation_of()
    ((key, given),) = option.items()
    with pytest.raises(
        OptionError, match=rf"{key}={given!r}: (an integer|a finite number) of at least [01] is required"
    ):
        seewhy.measure(net, e, check, **option, **({"mask": torch.ones(4, 5)} if check == "pointing" else {}))


@pytest.mark.parametrize("check", PERTURBATION_METRICS)
def test_measure_rejects_function_targets(check):
    net, e = explanation_of(target=lambda z: z[:, 0])
    with pytest.raises(OptionError, match="only explanations of classes"):
        seewhy.measure(net, e, check)


@pytest.mark.parametrize("check", ["infidelity", "stability"])
@pytest.mark.filterwarnings("error")
def test_measure_single_sample_has_no_standard_error(check):
    net, e = explanation_of()
    assert seewhy.measure(net, e, check, samples=1).stderr is None


# --- compare


@pytest.mark.row(88)
def test_compare_matches_spearman_and_t_interval():
    net, x = small_classifier(), random_input(6, 3, 8, 9)
    names = ["gradient", "input_x_gradient", "hirescam"]
    comparison = seewhy.compare(net, x, names, target=[0, 2])
    assert comparison.methods == tuple(names)
    assert comparison.agreement.shape == (3, 3, 3)
    assert np.allclose(np.diagonal(comparison.agreement), 1)
    assert np.allclose(comparison.agreement, comparison.agreement.transpose(1, 0, 2))
    for a in range(3):
        for b in range(a):
            each = np.array([
                [stats.spearmanr(u.abs().flatten(), v.abs().flatten()).statistic for u, v in zip(p, q, strict=True)]
                for p, q in zip(comparison.maps[a].maps, comparison.maps[b].maps, strict=True)
            ]).mean(1)  # fmt: skip
            expected = each.mean(), *stats.t.interval(0.95, 5, each.mean(), stats.sem(each))
            assert np.allclose(comparison.agreement[a, b], expected)
            assert expected[0] < 0.95


def test_compare_few_samples_has_no_interval():
    comparison = seewhy.compare(small_classifier(), random_input(4, 3, 8, 9), ["gradient", "edges"])
    assert np.isfinite(comparison.agreement[..., 0]).all()
    assert np.isnan(comparison.agreement[..., 1:]).all()


def test_compare_constant_map_is_undefined():
    net = small_classifier()
    with torch.no_grad():
        net[6].weight[1] = 0
    comparison = seewhy.compare(net, random_input(5, 3, 8, 9), ["gradient", "gradcam", "edges"], target=1)
    assert np.isnan(comparison.agreement[:2]).all()
    assert comparison.agreement[2, 2, 0] == pytest.approx(1)
    assert "undefined" in str(comparison)


@pytest.mark.parametrize("methods", ["gradient", ["gradient"], []])
def test_compare_rejects_fewer_than_two_methods(methods):
    with pytest.raises(OptionError, match="at least two"):
        seewhy.compare(small_classifier(), random_input(1, 3, 8, 9), methods)


def test_compare_rejects_different_sizes_and_lists():
    with pytest.raises(OptionError, match="different sizes"):
        seewhy.compare(small_classifier(), random_input(1, 3, 8, 9), ["gradient", "gradcam"], upsample="none")
    with pytest.raises(OptionError, match=r"torch.stack"):
        seewhy.compare(small_classifier(), list(random_input(2, 3, 8, 9)), ["gradient", "gradcam"])


def test_comparison_prints_table_and_draws_sheet(tmp_path):
    from seewhy.visualization.sheet import figure

    net, x = small_classifier(), random_input(5, 3, 8, 9)
    comparison = seewhy.compare(net, x, ["gradient", "hirescam"])
    mean, low, high = comparison.agreement[0, 1]
    lines = str(comparison).splitlines()
    assert lines[0].split() == ["agreement", "gradient", "hirescam"]
    assert f"{mean:.3g} [{low:.3g}, {high:.3g}]" in lines[2]
    comparison = seewhy.compare(net, x[:1], ["gradient", "hirescam"])
    assert [axis.get_title() for axis in figure(comparison.maps).axes][:3] == ["Input", "Gradient", "HiResCAM"]
    comparison.save(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes()[:4] == comparison._repr_png_()[:4] == b"\x89PNG"
    assert comparison.show().size[0] > 2 * comparison.show().size[1]


def test_compare_restores_state():
    net = testing.network()
    before = testing.state(net)
    seewhy.compare(net, testing.inputs(), ["gradient", "gradcam"])
    assert testing.states_equal(before, testing.state(net))
