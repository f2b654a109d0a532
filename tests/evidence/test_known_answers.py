"""Functions whose explanations are known in closed form, and mosaics where nothing may lie outside a cell."""

import numpy as np
import pytest
import torch
from tests.known import (
    CELLS,
    FUNCTIONS,
    NETS,
    PICTURE,
    PLANTED,
    READERS,
    Apart,
    Attending,
    Mosaic,
    ask,
    game,
    leaks,
    off,
    outside,
    shapley,
)
from tests.networks import drawn, noise
from torch import nn

import seewhy

POINTWISE = ["gradient", "input_x_gradient", "guided_backprop", "zeiler_fergus", "integrated_gradients", "smoothgrad",
             "vargrad", "expected_gradients", "hirescam", "layercam", "guided_gradcam", "fullgrad"]  # fmt: skip
POOLED = ["gradcam", "gradcam++", "xgradcam", "eigencam", "ablationcam", "scorecam"]  # one weight a channel, everywhere
CONTROLS = {"random", "edges", "centre"}


@pytest.mark.parametrize(("function", "method"), CELLS)
def test_known_answer(function, method):
    cell = CELLS[function, method]
    e = ask(cell)
    assert e.values.numel() == np.size(cell.truth)
    assert off(cell, e.values, e.stderr) <= (1e-12 if cell.sure else 4)


def test_all_methods_have_known_answers():
    assert {c.method for c in CELLS.values()} == set(seewhy.METHODS) - CONTROLS
    assert len(CELLS) >= 60
    assert sum(c.sure for c in CELLS.values()) >= 60


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_answers_are_right(name):
    """Slopes by differences, occlusion and Shapley values by trying every coalition, the path by many points."""
    known = FUNCTIONS[name]
    x = torch.tensor([known.x], dtype=torch.float64)
    each = torch.eye(len(known.x)).double() * 1e-6
    slopes = (known.f(x + each) - known.f(x - each)) / 2e-6
    assert np.allclose(slopes, known.gradient, atol=1e-6)
    v, everything = game(known), (1,) * len(known.x)
    falls = [v[everything] - v[tuple(int(i != j) for i in range(len(known.x)))] for j in range(len(known.x))]
    assert np.allclose(falls, known.occlusion)
    assert np.allclose(shapley(known), known.shapley)
    way = ((torch.arange(4000).double() + 0.5) / 4000)[:, None] * x
    along = [((known.f(way + row) - known.f(way - row)) / 2e-6).mean().item() for row in each]
    assert np.allclose(np.array(along) * known.x, known.integrated, atol=2e-3)
    assert sum(known.integrated) == pytest.approx(v[everything] - v[(0,) * len(known.x)])


def test_networks_that_compute_the_same_have_the_same_gradients():
    """Sundararajan et al. 2017, section 2: the layers are nobody's business; the rectifier rules fail this."""
    one = lambda x: torch.relu(x[:, 0]) - torch.relu(x[:, 1]) + 1  # noqa: E731
    two = lambda x: 1 + x.relu()[:, 0] - (x[:, 1] + (-x[:, 1]).relu())  # noqa: E731
    x = torch.tensor([[2.0, 3.0]]).double()
    for method in ("gradient", "input_x_gradient", "integrated_gradients", "occlusion", "kernel_shap"):
        given = {"mask_value": 0} if method in ("occlusion", "kernel_shap") else {}
        a, b = (seewhy.explain(f, x, method, **given).values for f in (one, two))
        assert torch.allclose(a, b, rtol=1e-12)
    kinds = (lambda x: x[:, 0] - (x[:, 0] - x[:, 1]).relu(), lambda x: x[:, 1] - (x[:, 1] - x[:, 0]).relu())
    a, b = (seewhy.explain(f, torch.tensor([[1.0, 2.0]]).double(), "guided_backprop").values for f in kinds)
    assert not torch.allclose(a, b)


@pytest.mark.parametrize("method", ["gradient", "input_x_gradient", "integrated_gradients", "smoothgrad", "vargrad",
                                    "expected_gradients", "guided_backprop", "zeiler_fergus", "feature_ablation",
                                    "occlusion"])  # fmt: skip
def test_what_the_network_does_not_read_has_exactly_nothing(method):
    net = drawn(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double())
    with torch.no_grad():
        net[0].weight[:, 2] = 0
    given = {"mask_size": 1, "stride": 1} if method == "occlusion" else {}
    values = seewhy.explain(net, noise(3, 4), method, target=[0, 1], **given).values
    assert not values[..., 2].any()
    assert values[..., [0, 1, 3]].any(-1).all()


# --- mosaics of four pictures, a head for each: DiFull of Rao et al. 2022


@pytest.fixture(scope="module")
def mosaic():
    return drawn(Mosaic().double())


def asked(net, method, j, **options):
    layer = {"feature_layer": "two", "upsample": "none"} if method in {*POOLED, "hirescam", "layercam"} else {}
    layer |= {"feature_layer": "two"} if method == "guided_gradcam" else {}
    layer |= {"samples": 6} if method in ("smoothgrad", "vargrad", "expected_gradients") else {}
    e = seewhy.explain(net, noise(1, 3, 16, 16), method, target=2 * j + 1, **layer, **options)
    return outside(e.values, j)


@pytest.mark.parametrize("method", POINTWISE)
def test_nothing_leaks_out_of_a_cell(mosaic, method):
    """Exactly nothing, for every cell: a hook left over, or a batch mixed up, would show here."""
    # FullGrad spreads each run of a layer over the whole picture: its layers must not run cell by cell
    net = drawn(Mosaic(kernel=1).double()) if method == "fullgrad" else mosaic
    assert [asked(net, method, j) for j in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize("method", ["hirescam", "layercam"])
def test_nothing_leaks_at_any_layer(mosaic, method):
    for layer in ("one", "two"):
        e = seewhy.explain(mosaic, noise(1, 3, 16, 16), method, target=3, feature_layer=layer, upsample="none")
        assert outside(e.values, 1) == 0


@pytest.mark.parametrize("method", POOLED)
def test_one_weight_a_channel_leaks(mosaic, method):
    """By their definition, not by a fault: the weight found in one cell counts in all of them."""
    leak = [asked(mosaic, method, j) for j in range(4)]
    assert max(leak) > 0.3


# --- cells that share no channel either, or no token: one weight a channel is no excuse any more

WEIGHED = ["gradcam", "gradcam++", "xgradcam", "ablationcam", "recipro_cam"]
ATTENTION = ["rollout", "attention_gradient"]
# EigenCAM knows no class, Score-CAM's softmax gives weight to channels that do not count, LeGrad reads all tokens' mean
CANNOT = {"eigencam", "scorecam", "legrad"}
MASKS = {"occlusion", "feature_ablation", "rise", "lime", "kernel_shap"}


@pytest.fixture(scope="module")
def apart():
    return drawn(Apart().double(), 3)  # no map of any method is zero all over


def _options(method, layer="two"):
    if method in READERS and method != "guided_gradcam":
        return {"feature_layer": layer, "upsample": "none"}
    return {"feature_layer": layer} if method == "guided_gradcam" else \
        {"samples": 6} if method in ("smoothgrad", "vargrad", "expected_gradients") else {}  # fmt: skip


@pytest.mark.parametrize("method", [*POINTWISE, *WEIGHED])
def test_nothing_leaks_where_cells_share_no_channel(apart, method):
    """Exactly nothing, for four samples and four classes in one call, at every layer."""
    for layer in ("one", "two") if method in READERS else ("two",):
        assert leaks(apart, method, **_options(method, layer)) == [[0] * 4] * 4


@pytest.mark.parametrize("method", [*ATTENTION, "gradient", "input_x_gradient", "integrated_gradients"])
def test_nothing_leaks_where_tokens_attend_to_their_cell(method):
    assert leaks(drawn(Attending().double()), method, upsample="none") == [[0] * 4] * 4


@pytest.mark.parametrize("method", sorted(CANNOT))
def test_some_leak_even_so(apart, method):
    net = drawn(Attending().double()) if method == "legrad" else apart
    layer = {} if method == "legrad" else {"feature_layer": "two"}
    assert np.mean(leaks(net, method, upsample="none", **layer)) > 0.1


@pytest.mark.parametrize("fault", PLANTED)
def test_planted_leaks_show(apart, fault):
    """Else zeros would say nothing; the networks themselves are alive in every cell."""
    found = np.array(leaks(apart, PLANTED[fault], feature_layer="two", upsample="none"))
    assert np.nanmax(found) > 1e-5
    assert np.nanmean(found > 0) >= 0.5


def test_every_method_is_asked_for_leaks():
    assert {*POINTWISE, *WEIGHED, *ATTENTION, *MASKS} | CANNOT == set(seewhy.METHODS) - CONTROLS


def test_windows_leak_only_across_the_border(mosaic):
    """A window within a cell tells nothing of another, up to rounding; one across the border does."""
    aligned = {"mask_size": 4, "stride": 4, "mask_value": 0}
    assert asked(mosaic, "occlusion", 2, **aligned) < 1e-13
    assert asked(mosaic, "feature_ablation", 2, segments="grid", features=16, mask_value=0) < 1e-13
    assert 0.01 < asked(mosaic, "occlusion", 2, **aligned | {"mask_size": 6}) < 0.5


@pytest.mark.parametrize("method", ["rise", "kernel_shap", "lime"])
def test_random_masks_leak_by_their_standard_error(mosaic, method):
    given = {"rise": {}, "kernel_shap": {"segments": "grid", "features": 16},
             "lime": {"segments": "grid", "features": 16, "surrogate": "linear"}}[method]  # fmt: skip
    few, many = (asked(mosaic, method, 2, samples=samples, mask_value=0, **given) for samples in (64, 1024))
    assert 0 < many < few < 0.75


def test_the_pictures_are_not_all_dead():
    """Else zeros would be right for the wrong reason."""
    for net in NETS.values():
        layer = net[:2](PICTURE)
        assert 0.1 < (layer > 0).double().mean() < 0.9
