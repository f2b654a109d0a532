"""Functions whose attributions are known in closed form, and mosaics whose attributions must lie in one cell."""

import numpy as np
import pytest
import torch
from tests.known_answers import (
    FAULTY_GRADCAM,
    FUNCTIONS,
    KNOWN_ANSWERS,
    NETWORKS,
    PICTURE,
    AttentionMosaic,
    Mosaic,
    SeparateMosaic,
    answer_error,
    coalition_scores,
    compute_explanation,
    fraction_outside,
    leakage,
    mosaic_options,
    shapley_values,
)
from tests.networks import random_input, with_random_weights
from torch import nn

import seewhy
from seewhy.engine.families import FAMILIES

POINTWISE = ["gradient", "input_x_gradient", "guided_backprop", "zeiler_fergus", "deeplift", "integrated_gradients",
             "smoothgrad", "vargrad", "expected_gradients", "hirescam", "layercam", "guided_gradcam",
             "fullgrad"]  # fmt: skip
POOLED = [
    "gradcam",
    "gradcam++",
    "xgradcam",
    "eigencam",
    "ablationcam",
    "scorecam",
]  # one weight per channel, for all positions


@pytest.mark.parametrize(("function", "method"), KNOWN_ANSWERS)
def test_method_matches_closed_form(function, method):
    answer = KNOWN_ANSWERS[function, method]
    e = compute_explanation(answer)
    assert e.values.numel() == np.size(answer.expected)
    assert answer_error(answer, e.values, e.stderr) <= (1e-12 if answer.exact else 4)


def test_most_methods_have_closed_form():
    """The oracles of `tests.oracles` cover all methods; closed forms are a second derivation of most of them."""
    assert len({c.method for c in KNOWN_ANSWERS.values()}) >= 28
    assert len(KNOWN_ANSWERS) >= 149
    assert sum(c.exact for c in KNOWN_ANSWERS.values()) >= 123


@pytest.mark.parametrize("name", FUNCTIONS)
def test_closed_forms_match_brute_force(name):
    """Gradients by finite differences, occlusion and Shapley values by enumeration, path integrals by many points."""
    known = FUNCTIONS[name]
    x = torch.tensor([known.x], dtype=torch.float64)
    steps = torch.eye(len(known.x)).double() * 1e-6
    gradient = (known.f(x + steps) - known.f(x - steps)) / 2e-6
    assert np.allclose(gradient, known.gradient, atol=1e-6)
    v, everything = coalition_scores(known), (1,) * len(known.x)
    occlusion = [v[everything] - v[tuple(int(i != j) for i in range(len(known.x)))] for j in range(len(known.x))]
    assert np.allclose(occlusion, known.occlusion)
    assert np.allclose(shapley_values(known), known.shapley)
    path = ((torch.arange(4000).double() + 0.5) / 4000)[:, None] * x
    mean_gradient = [((known.f(path + step) - known.f(path - step)) / 2e-6).mean().item() for step in steps]
    assert np.allclose(np.array(mean_gradient) * known.x, known.integrated, atol=2e-3)
    assert sum(known.integrated) == pytest.approx(v[everything] - v[(0,) * len(known.x)])


def test_implementation_invariance():
    """Sundararajan et al. 2017, section 2: only the computed function matters; guided backprop violates this."""
    one = lambda x: torch.relu(x[:, 0]) - torch.relu(x[:, 1]) + 1  # noqa: E731
    two = lambda x: 1 + x.relu()[:, 0] - (x[:, 1] + (-x[:, 1]).relu())  # noqa: E731
    x = torch.tensor([[2.0, 3.0]]).double()
    for method in ("gradient", "input_x_gradient", "integrated_gradients", "occlusion", "kernel_shap"):
        options = {"mask_value": 0} if method in ("occlusion", "kernel_shap") else {}
        a, b = (seewhy.explain(f, x, method, **options).values for f in (one, two))
        assert torch.allclose(a, b, rtol=1e-12)
    equal = (lambda x: x[:, 0] - (x[:, 0] - x[:, 1]).relu(), lambda x: x[:, 1] - (x[:, 1] - x[:, 0]).relu())
    a, b = (seewhy.explain(f, torch.tensor([[1.0, 2.0]]).double(), "guided_backprop").values for f in equal)
    assert not torch.allclose(a, b)


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient", "integrated_gradients", "smoothgrad", "vargrad",
                                    "expected_gradients", "guided_backprop", "zeiler_fergus", "feature_ablation",
                                    "occlusion"])  # fmt: skip
def test_unused_input_has_zero_attribution(method):
    net = with_random_weights(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double())
    with torch.no_grad():
        net[0].weight[:, 2] = 0
    options = {"mask_size": 1, "stride": 1} if method == "occlusion" else {}
    values = seewhy.explain(net, random_input(3, 4), method, target=[0, 1], **options).values
    assert not values[..., 2].any()
    assert values[..., [0, 1, 3]].any(-1).all()


# --- mosaics of four images with one head each: DiFull of Rao et al. 2022


@pytest.fixture(scope="module")
def mosaic():
    return with_random_weights(Mosaic().double())


def leak_from_cell(net, method, j, **options):
    options = mosaic_options(method) | options
    e = seewhy.explain(net, random_input(1, 3, 16, 16), method, target=2 * j + 1, **options)
    return fraction_outside(e.values, j)


@pytest.mark.parametrize("method", POINTWISE)
def test_mosaic_no_leak_with_pointwise_methods(mosaic, method):
    """Attributions outside the cell are exactly 0: remaining hooks or mixed-up samples would be detected."""
    # FullGrad spreads each execution of a layer over the whole image: the layers must not be executed per cell
    net = with_random_weights(Mosaic(kernel=1).double()) if method == "fullgrad" else mosaic
    assert [leak_from_cell(net, method, j) for j in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize("method", ["hirescam", "layercam"])
def test_mosaic_no_leak_at_any_layer(mosaic, method):
    for layer in ("one", "two"):
        e = seewhy.explain(mosaic, random_input(1, 3, 16, 16), method, target=3, feature_layer=layer, upsample="none")
        assert fraction_outside(e.values, 1) == 0


@pytest.mark.parametrize("method", POOLED)
def test_mosaic_pooled_channel_weights_leak(mosaic, method):
    """By definition: the channel weight of one cell applies to all cells."""
    leak = [leak_from_cell(mosaic, method, j) for j in range(4)]
    assert max(leak) > 0.3


# --- cells without shared channels or tokens: one weight per channel does not cause leaks

CHANNEL_WEIGHTED = ["gradcam", "gradcam++", "xgradcam", "ablationcam", "recipro_cam"]
ATTENTION_METHODS = ["rollout", "attention_gradient"]
# EigenCAM is class-agnostic, Score-CAM's softmax gives weight to unused channels, LeGrad uses the mean of all tokens
KNOWN_LEAKS = {"eigencam", "scorecam", "legrad"}


@pytest.fixture(scope="module")
def separate_cells():
    return with_random_weights(SeparateMosaic().double(), 3)  # no map is zero everywhere with this seed


@pytest.mark.parametrize("method", [*POINTWISE, *CHANNEL_WEIGHTED])
def test_separate_channels_no_leak(separate_cells, method):
    """Exactly 0, for four samples and four classes in one call, at every layer."""
    for layer in ("one", "two") if FAMILIES[seewhy.METHODS[method].family].uses_layer else ("two",):
        assert leakage(separate_cells, method, **mosaic_options(method, layer)) == [[0] * 4] * 4


@pytest.mark.parametrize("method", [*ATTENTION_METHODS, "gradient", "input_x_gradient", "integrated_gradients"])
def test_separate_attention_no_leak(method):
    net = with_random_weights(AttentionMosaic().double())
    assert leakage(net, method, **mosaic_options(method)) == [[0] * 4] * 4


@pytest.mark.parametrize("method", sorted(KNOWN_LEAKS))
def test_separate_cells_known_leaks(separate_cells, method):
    attention = FAMILIES[seewhy.METHODS[method].family].uses_attention
    net = with_random_weights(AttentionMosaic().double()) if attention else separate_cells
    assert np.mean(leakage(net, method, **mosaic_options(method))) > 0.1


@pytest.mark.parametrize("fault", FAULTY_GRADCAM)
def test_planted_leaks_are_detected(separate_cells, fault):
    """Faulty implementations of Grad-CAM have nonzero leaks, so the measure detects leaks."""
    leaks = np.array(leakage(separate_cells, FAULTY_GRADCAM[fault], feature_layer="two", upsample="none"))
    assert np.nanmax(leaks) > 1e-5
    assert np.nanmean(leaks > 0) >= 0.5


def test_mosaic_windows_leak_only_across_cell_borders(mosaic):
    """No leak, up to rounding, if windows are aligned with the cells; a leak if they cross a border."""
    aligned = {"mask_size": 4, "stride": 4}
    assert leak_from_cell(mosaic, "occlusion", 2, **aligned) < 1e-13
    assert leak_from_cell(mosaic, "feature_ablation", 2) < 1e-13
    assert 0.01 < leak_from_cell(mosaic, "occlusion", 2, **aligned | {"mask_size": 6}) < 0.5


def test_mosaic_no_leak_with_shapley_sampling(mosaic):
    """The contributions of segments in other cells are 0, up to rounding, in every permutation."""
    assert leak_from_cell(mosaic, "shapley_sampling", 2, samples=3) < 1e-13


@pytest.mark.parametrize("method", ["rise", "kernel_shap", "lime"])
def test_mosaic_random_masks_leak_decreases_with_samples(mosaic, method):
    options = {"surrogate": "linear"} if method == "lime" else {}
    few, many = (leak_from_cell(mosaic, method, 2, samples=samples, **options) for samples in (64, 1024))
    assert 0 < many < few < 0.75


def test_known_networks_are_responsive():
    """Between 10 and 90 % of the activations are positive, so that zero attributions are meaningful."""
    for net in NETWORKS.values():
        layer = net[:2](PICTURE)
        assert 0.1 < (layer > 0).double().mean() < 0.9
