"""Numbers for an explanation against slow ones written from the papers, and what has no number."""

import math
from dataclasses import replace

import captum.attr
import captum.metrics
import numpy as np
import pytest
import torch
from scipy import stats
from tests.networks import classifier, drawn, noise
from torch import nn

import seewhy
from seewhy import testing
from seewhy.errors import OptionError, UnknownNameError
from seewhy.methods.draws import normal
from seewhy.trace import reuse

NUMBERS = [name for name, line in seewhy.CHECKS.items() if line.where]
ASKED = ["deletion", "insertion", "road", "infidelity", "sensitivity", "stability"]  # they ask the network
SIZES = {1: (11,), 2: (4, 5), 3: (3, 4, 3)}


def explained(rank=2, count=2, method="gradient", **options):
    net, x = classifier(rank), noise(count, 3, *SIZES[rank])
    return net, seewhy.explain(net, x, method, **{"target": [0, 2]} | options)


def options_of(check, e):
    """A small number of steps, and the mask that some need."""
    mask = torch.zeros(e.input.shape[2:], dtype=torch.bool)
    mask.view(-1)[:3] = True
    own = {"pointing": {"mask": mask}, "energy": {"mask": mask}, "completeness": {}}
    own |= {"sensitivity": {"samples": 2}, "stability": {"samples": 2}, "infidelity": {"samples": 3}}
    return own.get(check, {"steps": 3})


def measured(check, rank=2, count=2, **options):
    net, e = explained(rank, count, "integrated_gradients" if check == "completeness" else "gradient", **options)
    return net, e, seewhy.measure(net, e, check, **options_of(check, e))


# --- deletion, insertion


def curve(net, x, heat, c, steps, fill, hide):
    """Petsiuk et al. 2018: one position after the other, in plain Python."""
    flat, area = heat.flatten().tolist(), 0
    order = sorted(range(len(flat)), key=lambda i: -flat[i])
    for step in range(1, steps + 1):
        first = [i for rank, i in enumerate(order) if rank * steps < step * len(flat)]
        picture = (x if hide else fill).clone().flatten(1)
        for i in first:
            picture[:, i] = (fill if hide else x).flatten(1)[:, i]
        area += net(picture.view(1, *x.shape)).softmax(1)[0, c].item() / steps
    return area


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("fill", [0.25, "mean", "blur"])
def test_deletion_and_insertion_are_the_papers(rank, fill):
    from skimage.filters import gaussian

    net, e = explained(rank)
    for n in range(2):
        x = e.input[n]
        by_name = {
            0.25: torch.full_like(x, 0.25),
            "mean": x.flatten(1).mean(1).view(3, *[1] * rank).expand_as(x),
            "blur": torch.from_numpy(np.stack([gaussian(one, 2.0, mode="reflect") for one in x.numpy()])),
        }
        for k, c in enumerate([0, 2]):
            for check, hide in (("deletion", True), ("insertion", False)):
                m = seewhy.measure(net, e, check, steps=4, fill=fill)
                with torch.no_grad():
                    known = curve(net, x, e.maps[n, k], c, 4, by_name[fill], hide)
                assert m.values[n, k].item() == pytest.approx(known, abs=1e-12)
                assert m.stderr.abs().max() == 0  # no two values are equal
                assert m.better == ("low" if hide else "high")


def test_they_tell_a_good_map_from_a_bad_one():
    weights = torch.arange(1.0, 21).double().view(4, 5)
    f = lambda x: (x[:, 0] * weights.to(x)).sum((1, 2))  # noqa: E731
    e = seewhy.explain(f, torch.ones(1, 1, 4, 5).double(), "gradient")
    worst = replace(e, maps=-e.maps)
    for check, good in (("deletion", True), ("insertion", False)):
        best, bad = (seewhy.measure(f, one, check, fill=0, steps=20).mean for one in (e, worst))
        assert (best < bad) == good
    falling = np.cumsum(np.arange(1, 21)[::-1])  # the largest weights go first
    assert seewhy.measure(f, e, "deletion", fill=0, steps=20).mean == pytest.approx(np.mean(210 - falling))


@pytest.mark.parametrize("kind", ["one number", "probabilities", "logits"])
def test_the_score_is_a_probability_only_where_there_are_logits(kind):
    head = {"one number": nn.Linear(6, 1), "logits": nn.Linear(6, 3),
            "probabilities": nn.Sequential(nn.Linear(6, 3), nn.Softmax(1))}[kind]  # fmt: skip
    net = drawn(nn.Sequential(nn.Flatten(), head).double())
    e = seewhy.explain(net, noise(1, 1, 2, 3), "gradient", target=0)
    with torch.no_grad():
        nothing = net(torch.zeros(1, 1, 2, 3).double())
    known = (nothing.softmax(1) if kind == "logits" else nothing)[0, 0].item()
    assert seewhy.measure(net, e, "deletion", steps=1, fill=0).mean == pytest.approx(known, abs=1e-12)


def test_equal_values_go_in_random_order():
    """One place first, all others at random: the place that matters is hidden in the middle, not first or last."""
    f = lambda x: x[:, 0, 0, 0]  # noqa: E731
    e = seewhy.explain(f, torch.ones(1, 1, 3, 4).double(), "gradient")
    heat = torch.zeros(1, 1, 3, 4)
    heat[..., 2, 3] = 1
    m = seewhy.measure(f, replace(e, maps=heat), "deletion", steps=12, fill=0, ties=100)
    assert m.stderr.item() == pytest.approx(np.std(np.arange(1, 12) / 12) / 10, rel=0.2)
    assert abs(m.mean - 0.5) < 4 * m.stderr.item()
    assert m.mean == seewhy.measure(f, replace(e, maps=heat), "deletion", steps=12, fill=0, ties=100).mean
    other = seewhy.measure(f, replace(e, maps=heat), "deletion", steps=12, fill=0, ties=5, seed=1)
    assert other.mean != seewhy.measure(f, replace(e, maps=heat), "deletion", steps=12, fill=0, ties=5).mean
    assert seewhy.measure(f, replace(e, maps=heat), "deletion", ties=1).stderr is None


def test_where_no_two_values_are_equal_one_order_is_asked():
    """The other orders are the same, and so are their numbers; of a map with equal values each is asked."""
    asked = []

    def f(x):
        asked.append(len(x))
        return (x[:, 0] * torch.arange(1.0, 13).double().view(3, 4)).sum((1, 2))

    e = seewhy.explain(f, torch.ones(1, 1, 3, 4).double(), "gradient")
    for heat, orders in ((e.maps, 1), (e.maps.clamp(max=5), 3)):
        asked.clear()
        m = seewhy.measure(f, replace(e, maps=heat), "deletion", steps=6, ties=3, fill=0)
        assert sum(asked) == 6 * orders
        assert (m.stderr.item() == 0) == (orders == 1)


# --- ROAD


def filled(x, hidden):
    """Rong et al. 2022, section 4.1: a dense system, one equation a hidden position."""
    places = [tuple(p) for p in hidden.nonzero().tolist()]
    system, right = np.zeros((len(places),) * 2), np.zeros((len(places), len(x)))
    for row, (i, j) in enumerate(places):
        for di in (-1, 0, 1):
            for dj in (-1, 0, 1):
                at = (i + di, j + dj)
                if (di, dj) == (0, 0) or not (0 <= at[0] < hidden.shape[0] and 0 <= at[1] < hidden.shape[1]):
                    continue
                weight = 1 / 6 if 0 in (di, dj) else 1 / 12
                system[row, row] += weight
                if at in places:
                    system[row, places.index(at)] -= weight
                else:
                    right[row] += weight * x[(slice(None), *at)].numpy()
    picture = x.clone()
    for row, found in zip(places, np.linalg.solve(system, right), strict=True):
        picture[(slice(None), *row)] = torch.from_numpy(found)
    return picture


def test_road_fills_in_from_the_neighbours():
    net, e = explained(count=2)
    m = seewhy.measure(net, e, "road", steps=5, noise=0)
    for n in range(2):
        for k, c in enumerate([0, 2]):
            heat, scores = e.maps[n, k].flatten(), []
            for step in range(1, 6):
                hidden = torch.zeros(20, dtype=torch.bool)
                hidden[heat.argsort(descending=True)[: math.ceil(20 * step / 6)]] = True
                with torch.no_grad():
                    z = net(filled(e.input[n], hidden.view(4, 5))[None])
                scores.append(z.softmax(1)[0, c].item())
            assert m.values[n, k].item() == pytest.approx(np.mean(scores), abs=1e-12)


def test_road_adds_noise_of_the_asked_width():
    seen = []

    def f(x):
        seen.append(x)
        return x.mean((1, 2, 3))

    e = seewhy.explain(f, torch.full((1, 2, 20, 20), 0.5).double(), "random")
    seen.clear()
    seewhy.measure(f, e, "road", steps=1, noise=0.1)
    off = seen[-1] - 0.5
    assert (off != 0).sum() == 400  # half of the positions, both channels
    assert off[off != 0].std().item() == pytest.approx(0.1, rel=0.15)
    assert abs(off.sum().item() / 400) < 0.02


@pytest.mark.parametrize("rank", [1, 3])
def test_road_is_for_pictures(rank):
    net, e = explained(rank)
    with pytest.raises(OptionError, match=rf"{rank + 2} axes: use deletion"):
        seewhy.measure(net, e, "road")


# --- infidelity, sensitivity, stability


def pushes(x, count, sigma, seed=0):
    """[count, N, ...]: what the measures add."""
    width = (x.flatten(1).amax(1) - x.flatten(1).amin(1)).view(-1, *[1] * (x.ndim - 1))
    return torch.stack([sigma * width * normal(seed, x)(j, j + 1) for j in range(count)])


def bowl(weights):
    return lambda x: (weights.to(x) * x**2).flatten(1).sum(1)


def test_infidelity_of_a_bowl_is_known():
    """f = Σ a x²: gradient · I misses f(x) - f(x - I) by Σ a I², whose mean square over normal I is known."""
    weights, x = noise(1, 2, 3)[0], noise(1, 1, 2, 3) * 2
    e = seewhy.explain(bowl(weights), x, "gradient")
    m = seewhy.measure(bowl(weights), e, "infidelity", sigma=0.1, samples=400, normalize=False)
    s = 0.1 * float(x.max() - x.min())
    known = s**4 * float(2 * (weights**2).sum() + weights.sum() ** 2)
    assert abs(m.mean - known) < 3 * m.stderr.item() < known
    few = seewhy.measure(bowl(weights), e, "infidelity", sigma=0.1, samples=20, normalize=False)
    assert few.stderr.item() > 2 * m.stderr.item()


def test_the_gradient_of_a_linear_network_has_no_infidelity():
    weights, x = noise(1, 2, 3), noise(2, 1, 2, 3)
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
def test_infidelity_is_captums(method, normalize):
    net, e = explained(2, 3, method)
    given = pushes(e.input, 12, 0.05)
    m = seewhy.measure(net, e, "infidelity", samples=12, normalize=normalize)
    for k, c in enumerate([0, 2]):

        def perturbed(inputs):
            own = given.transpose(0, 1).flatten(0, 1)  # captum repeats each sample
            return own, inputs - own

        peer = captum.metrics.infidelity(
            net, perturbed, e.input, e.values[:, k].double(), target=c, n_perturb_samples=12, normalize=normalize
        )
        assert torch.allclose(m.values[:, k], peer, rtol=1e-9, atol=0)


def test_a_map_without_channels_counts_the_noise_over_channels():
    net, e = explained(method="hirescam", upsample="linear")
    m = seewhy.measure(net, e, "infidelity", samples=6, normalize=False)
    push = pushes(e.input, 6, 0.05)
    said = (e.maps.double()[None] * push.sum(2)[:, :, None]).flatten(3).sum(3)
    with torch.no_grad():
        true = net(e.input)[:, [0, 2]] - torch.stack([net(e.input - p)[:, [0, 2]] for p in push])
    assert torch.allclose(m.values, ((said - true) ** 2).mean(0), rtol=1e-9)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_sensitivity_is_captums():
    net, e = explained(2, 3)
    m = seewhy.measure(net, e, "sensitivity", samples=4, radius=0.03, seed=7)
    draw = torch.Generator().manual_seed(7)
    given = [(2 * torch.rand(3, 4, 5, generator=draw, dtype=torch.float64) - 1) * 0.03 for _ in range(4)]
    for k, c in enumerate([0, 2]):
        peer = captum.metrics.sensitivity_max(
            lambda inputs, c=c: captum.attr.Saliency(net).attribute(inputs, target=c, abs=False),
            e.input, lambda inputs: inputs + torch.stack(given).repeat(3, 1, 1, 1), n_perturb_samples=4,
        )  # fmt: skip
        assert torch.allclose(m.values[:, k], peer.double(), rtol=1e-6)
    assert m.stderr is None


def test_sensitivity_of_a_bowl_is_known():
    """The gradient is 2 a x, so it moves by 2 a d: at most the radius at every number."""
    x = noise(2, 1, 2, 3)
    e = seewhy.explain(bowl(torch.ones(1)), x, "gradient")
    m = seewhy.measure(bowl(torch.ones(1)), e, "sensitivity", radius=0.5, samples=60)
    most = 0.5 * 6**0.5 / x.flatten(1).norm(dim=1, keepdim=True)
    assert (m.values <= most).all()
    assert (m.values > 0.65 * most).all()
    more = seewhy.measure(bowl(torch.ones(1)), e, "sensitivity", radius=0.5, samples=5)
    assert (more.values <= m.values).all()


def test_stability_is_the_rank_correlation_with_noisy_copies():
    net, e = explained(2, 3)
    m = seewhy.measure(net, e, "stability", samples=4, sigma=0.2)
    each = np.zeros((4, 3, 2))
    for j, push in enumerate(pushes(e.input, 4, 0.2)):
        again = seewhy.explain(net, e.input + push, "gradient", target=[0, 2]).maps
        for n in range(3):
            for k in range(2):
                each[j, n, k] = stats.spearmanr(e.maps[n, k].flatten(), again[n, k].flatten()).statistic
    assert np.allclose(m.values, each.mean(0), atol=1e-12)
    assert np.allclose(m.stderr, each.std(0, ddof=1) / 2, atol=1e-12)


ASKED_AGAIN = {
    "smooth": {"method": seewhy.smooth("gradient", samples=3, sigma=0.2)},
    "tta": {"method": seewhy.tta("gradient")},
    "several layers": {"method": "hirescam", "feature_layer": ["1", "3"]},
    "another output": {"method": "gradient", "reduction_layer": "2", "target": [1, 4]},
    "own size": {"method": "hirescam", "upsample": "none"},
    "a seed": {"method": "smoothgrad", "samples": 3, "seed": 5, "score": "margin"},
}


@pytest.mark.parametrize("name", ASKED_AGAIN)
def test_the_same_question_is_asked_again(name):
    """Nothing of what was asked is lost: at the input itself it gives the same map."""
    net, e = explained(**ASKED_AGAIN[name])
    assert seewhy.measure(net, e, "sensitivity", radius=0, samples=1).values.max() == 0
    assert seewhy.measure(net, e, "sensitivity", radius=0.5, samples=1).values.min() > 0
    assert seewhy.measure(net, e, "deletion", steps=2).values.isfinite().all()


def test_a_layer_that_ran_twice_may_give_the_output():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, x):
            return self.head(self.head(self.conv(x).relu().mean((2, 3))))

    net = drawn(Twice().double())
    e = seewhy.explain(net, noise(1, 3, 6, 7), "gradcam", target=0)
    with torch.no_grad():
        nothing = net(torch.zeros(1, 3, 6, 7).double()).softmax(1)[0, 0].item()
    assert seewhy.measure(net, e, "deletion", steps=1, fill=0).mean == pytest.approx(nothing, abs=1e-12)
    assert seewhy.measure(net, e, "sensitivity", samples=1).mean > 0


def test_a_method_of_ones_own_cannot_be_asked_again():
    net, e = explained()
    with pytest.raises(OptionError, match="mine cannot be asked again"):
        seewhy.measure(net, replace(e, method="mine"), "stability")


# --- completeness, pointing game, energy


def test_completeness_is_a_share_of_what_was_promised():
    f = lambda x: x[:, 0] ** 3  # noqa: E731
    e = seewhy.explain(f, torch.tensor([[2.0]]).double(), "integrated_gradients", steps=1)
    m = seewhy.measure(f, e, "completeness")
    assert m.mean == pytest.approx(2 / 8)  # one midpoint gives 6 of 8
    assert m.stderr is None


def test_completeness_counts_a_segment_once():
    net, x = classifier(), noise(2, 3, 8, 9)
    for method, whole in (("kernel_shap", None), ("fullgrad", net(x)[:, [1]])):
        given = {"segments": "grid", "features": 4, "samples": 14, "mask_value": 0} if whole is None else {}
        e = seewhy.explain(net, x, method, target=1, **given)
        off = replace(e, completeness=e.completeness + 0.5)
        with torch.no_grad():
            known = net(x)[:, [1]] - (net(torch.zeros_like(x))[:, [1]] if whole is None else 0)
        if whole is None:
            off = replace(off, extras={**e.extras, "importances": e.extras["importances"] + 0.5 / 4})
        else:
            off = replace(off, extras={**e.extras, "input_part": e.extras["input_part"] + 0.5})
        assert torch.allclose(seewhy.measure(net, off, "completeness").values, (0.5 / known).abs(), rtol=1e-6)
        assert seewhy.measure(net, e, "completeness").values.max() < 1e-9


def test_completeness_needs_a_promise():
    net, e = explained()
    with pytest.raises(OptionError, match="gradient does not promise"):
        seewhy.measure(net, e, "completeness")


def peak_at(*place, size=(9, 12)):
    f = lambda x: x.sum((1, 2, 3))  # noqa: E731
    e = seewhy.explain(f, noise(1, 1, *size), "gradient")
    heat = torch.zeros(1, 1, *size)
    heat[(0, 0, *place)] = 1
    return f, replace(e, maps=heat)


@pytest.mark.parametrize(
    ("place", "tolerance", "hit"),
    [((4, 5), 0, 1), ((4, 6), 0, 0), ((4, 6), 1, 1), ((5, 6), 1, 1), ((6, 6), 1, 0), ((6, 7), 2, 1), ((0, 5), 3, 0),
     ((0, 5), 4, 1), ((8, 11), 5, 0), ((8, 11), 6, 1), ((0, 0), 15, 1)],
)  # fmt: skip
def test_the_pointing_game_counts_neighbours(place, tolerance, hit):
    f, e = peak_at(*place)
    mask = torch.zeros(9, 12)
    mask[4, 5] = 1
    m = seewhy.measure(f, e, "pointing", mask=mask, tolerance=tolerance)
    assert m.values.item() == hit


def test_a_mask_at_the_border_does_not_reach_round_it():
    f, e = peak_at(8, 11)
    mask = np.zeros((9, 12), bool)
    mask[0, 0] = True
    assert seewhy.measure(f, e, "pointing", mask=mask, tolerance=7).mean == 0


def test_of_equal_peaks_each_counts_a_share():
    f, e = peak_at(0, 0)
    heat = e.maps.clone()
    heat[0, 0, 8, 8:12] = 1
    mask = torch.zeros(9, 12)
    mask[0, 0] = 1
    assert seewhy.measure(f, replace(e, maps=heat), "pointing", mask=mask, tolerance=0).mean == pytest.approx(1 / 5)


def test_energy_is_the_share_of_what_speaks_for_the_class():
    f, e = peak_at(0, 0, size=(2, 3))
    e = replace(e, maps=torch.tensor([[[[3.0, -7, 1], [0, 4, -2]]]]))
    mask = torch.tensor([[1, 1, 0], [1, 0, 1]])
    assert seewhy.measure(f, e, "energy", mask=mask).mean == pytest.approx(3 / 8)
    negative = seewhy.measure(f, replace(e, maps=-e.maps.abs()), "energy", mask=mask)
    assert math.isnan(negative.mean)


def test_each_sample_may_have_its_mask():
    net, e = explained(count=2)
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
def test_masks_that_do_not_fit_are_refused(check, mask):
    net, e = explained(count=2)
    with pytest.raises(OptionError, match=r"\[4, 5\] or \[2, 4, 5\], true somewhere"):
        seewhy.measure(net, e, check, mask=mask)


# --- what holds for all


@pytest.mark.parametrize("check", NUMBERS)
def test_a_constant_map_has_no_number(check):
    """Never 1.0, never the raster's order."""
    net, e = explained(method="integrated_gradients" if check == "completeness" else "gradient", count=2)
    values = e.values.clone()
    values[1] = 0
    gap = None if e.completeness is None else e.completeness * torch.tensor([[1.0], [0.0]])
    flat = replace(e, values=values, maps=values.abs().sum(2).float(), completeness=gap)
    m = seewhy.measure(net, flat, check, **options_of(check, e))
    assert m.values[1].isnan().all()
    assert m.values[0].isfinite().all()
    assert m.notes == ("sample 1, target 0: undefined", "sample 1, target 1: undefined")
    assert m.mean == pytest.approx(m.values[0].mean().item())
    nothing = replace(flat, values=flat.values * 0, maps=flat.maps * 0, completeness=None if gap is None else gap * 0)
    m = seewhy.measure(net, nothing, check, **options_of(check, e))
    assert all(map(math.isnan, (m.mean, m.low, m.high)))
    assert "undefined" in str(m)


@pytest.mark.parametrize("check", ["infidelity", "stability"])
def test_an_input_that_noise_does_not_move_has_no_number(check):
    net = classifier()
    e = seewhy.explain(net, torch.ones(1, 3, 4, 5).double(), "gradient")
    assert math.isnan(seewhy.measure(net, e, check).mean)
    net, e = explained()
    assert math.isnan(seewhy.measure(net, e, check, sigma=0).mean)


@pytest.mark.parametrize("count", [1, 4, 5, 7])
def test_intervals_need_five_samples(count):
    net, e = explained(count=count)
    m = seewhy.measure(net, e, "deletion", steps=3)
    assert m.mean == pytest.approx(m.values.mean().item())
    each = m.values.mean(1).numpy()
    if count < 5:
        assert math.isnan(m.low)
        assert math.isnan(m.high)
    else:
        known = stats.t.interval(0.95, count - 1, each.mean(), stats.sem(each))
        assert (m.low, m.high) == pytest.approx(known)
        assert f"[{m.low:.3g}, {m.high:.3g}]" in str(m)
    assert f"deletion of gradient (low is better): {m.mean:.3g}" in str(m)


@pytest.mark.parametrize("check", NUMBERS)
def test_a_number_depends_on_its_sample_and_target_only(check):
    """Maps with equal values too: their random order is nobody else's."""
    net, e, _ = measured(check, count=3)
    e = replace(e, maps=e.maps.round(decimals=1))
    assert all(len(m.unique()) < 20 for m in e.maps.flatten(0, 1))
    rest = options_of(check, e)
    m = seewhy.measure(net, e, check, **rest)
    assert m.values.shape == (3, 2)
    alone = replace(e, **{
        key: getattr(e, key)[2:, 1:]
        for key in ("values", "maps", "scaled", "scores", "targets", "completeness") if getattr(e, key) is not None
    }, input=e.input[2:])  # fmt: skip
    one = seewhy.measure(net, alone, check, **rest)
    assert torch.allclose(one.values, m.values[2:, 1:], rtol=1e-6, atol=1e-15 if check != "completeness" else 1e-12)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("check", [name for name in NUMBERS if name != "road"])
def test_sequences_and_volumes(rank, check):
    _, _, m = measured(check, rank)
    assert m.values.shape == (2, 2)
    assert m.values.isfinite().all()


@pytest.mark.parametrize("check", ASKED)
def test_the_networks_own_layout(check):
    """A channels-last network gets the numbers of the same network with its channels first."""
    plain, e = explained()
    net = seewhy.wrap(plain, forward=lambda module, x: module(x.permute(0, 3, 1, 2)), layout="NHWC")
    last = seewhy.explain(net, e.input.permute(0, 2, 3, 1), "gradient", target=[0, 2])
    both = [seewhy.measure(*one, check, **options_of(check, e)).values for one in ((plain, e), (net, last))]
    assert torch.allclose(*both, rtol=1e-9)


@pytest.mark.parametrize("check", [name for name in ASKED if name != "road"])
def test_plain_features(check):
    net, x = drawn(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()), noise(2, 6)
    e = seewhy.explain(net, x, "gradient")
    m = seewhy.measure(net, e, check, **options_of(check, e))
    assert m.values.isfinite().all()
    if check == "deletion":  # without a picture to blur, 0 is filled in
        with torch.no_grad():
            nothing = net(torch.zeros_like(x)).softmax(1).gather(1, e.targets)
        assert torch.allclose(seewhy.measure(net, e, check, steps=1).values, nothing)
    if check == "infidelity":
        rest = pushes(e.input, 3, 0.05)[:, :, 0]
        with torch.no_grad():
            true = torch.stack([(net(x) - net(x - p)).gather(1, e.targets)[:, 0] for p in rest])
        said = (e.values[:, 0, 0] * rest).sum(2)
        assert torch.allclose(
            seewhy.measure(net, e, check, samples=3, normalize=False).values[:, 0], ((said - true) ** 2).mean(0)
        )


def test_sequences_of_one_channel_are_no_plain_features():
    net = drawn(nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                              nn.Linear(4, 3)).double())  # fmt: skip
    e = seewhy.explain(net, noise(2, 1, 9), "gradient")
    with torch.no_grad():
        nothing = net(torch.zeros(2, 1, 9).double()).softmax(1).gather(1, e.targets)
    assert torch.allclose(seewhy.measure(net, e, "deletion", steps=1, fill=0).values, nothing)


@pytest.mark.parametrize("check", ASKED)
def test_the_network_and_the_explanation_stay_as_they_were(check):
    net, x = testing.network(), testing.inputs()
    e = seewhy.explain(net, x, "gradient", target=[0, 1])
    kept = e.input.clone(), e.values.clone(), e.maps.clone()
    before = testing.state(net)
    seewhy.measure(net, e, check, **options_of(check, e))
    assert testing.same(before, testing.state(net))
    handle = net[3].register_forward_hook(lambda *_: 1 / 0)
    before = testing.state(net)
    with pytest.raises(ZeroDivisionError):
        seewhy.measure(net, e, check, **options_of(check, e))
    assert testing.same(before, testing.state(net))
    handle.remove()
    assert all(map(torch.equal, kept, (e.input, e.values, e.maps)))


@pytest.mark.parametrize("check", ASKED)
def test_no_more_than_eight_samples_at_once(check, monkeypatch):
    """Whether the network is asked or its record."""
    net, e = explained(count=19)
    sizes, quick = [], []
    handle = net.register_forward_pre_hook(lambda m, a: sizes.append(len(a[0])))
    answer = reuse.Prepared.answer
    monkeypatch.setattr(
        reuse.Prepared, "answer", lambda self, points, ask: quick.append(len(points)) or answer(self, points, ask=ask)
    )
    seewhy.measure(net, e, check, **options_of(check, e))
    handle.remove()
    assert 1 < max(sizes + quick) <= 8


def test_names_that_do_not_exist():
    net, e = explained()
    with pytest.raises(UnknownNameError, match=r"unknown check 'deletoin'. Did you mean 'deletion'"):
        seewhy.measure(net, e, "deletoin")
    with pytest.raises(UnknownNameError, match=r"unknown option of deletion 'step'. Did you mean 'steps'"):
        seewhy.measure(net, e, "deletion", step=3)


@pytest.mark.parametrize("check", ["T0", "T1", "T2", "T3"])
def test_parts_of_the_verdict_are_no_numbers(check):
    net, e = explained()
    with pytest.raises(OptionError, match=r"part of seewhy.check\(model, x, methods\)"):
        seewhy.measure(net, e, check)


@pytest.mark.parametrize(
    ("check", "option"),
    [("deletion", {"steps": 0}), ("deletion", {"steps": 2.5}), ("insertion", {"ties": 0}), ("road", {"noise": -0.1}),
     ("infidelity", {"samples": 0}), ("infidelity", {"sigma": math.inf}), ("sensitivity", {"radius": math.nan}),
     ("stability", {"sigma": "wide"}), ("pointing", {"tolerance": -1}), ("deletion", {"steps": True})],
)  # fmt: skip
def test_values_that_are_not_allowed(check, option):
    net, e = explained()
    ((key, given),) = option.items()
    with pytest.raises(OptionError, match=rf"{key}={given!r}: a (whole )?number from [01] on"):
        seewhy.measure(net, e, check, **option, **({"mask": torch.ones(4, 5)} if check == "pointing" else {}))


@pytest.mark.parametrize("check", ASKED)
def test_a_function_of_the_output_is_not_measured(check):
    net, e = explained(target=lambda z: z[:, 0])
    with pytest.raises(OptionError, match="only explanations of classes"):
        seewhy.measure(net, e, check)


@pytest.mark.parametrize("check", ["infidelity", "stability"])
@pytest.mark.filterwarnings("error")
def test_one_draw_has_no_error(check):
    net, e = explained()
    assert seewhy.measure(net, e, check, samples=1).stderr is None


# --- compare


@pytest.mark.row(88)
def test_agreement_is_spearmans_with_its_interval():
    net, x = classifier(), noise(6, 3, 8, 9)
    names = ["gradient", "input_x_gradient", "hirescam"]
    found = seewhy.compare(net, x, names, target=[0, 2])
    assert found.methods == tuple(names)
    assert found.agreement.shape == (3, 3, 3)
    assert np.allclose(np.diagonal(found.agreement), 1)
    assert np.allclose(found.agreement, found.agreement.transpose(1, 0, 2))
    for a in range(3):
        for b in range(a):
            each = np.array([
                [stats.spearmanr(u.abs().flatten(), v.abs().flatten()).statistic for u, v in zip(p, q, strict=True)]
                for p, q in zip(found.maps[a].maps, found.maps[b].maps, strict=True)
            ]).mean(1)  # fmt: skip
            known = each.mean(), *stats.t.interval(0.95, 5, each.mean(), stats.sem(each))
            assert np.allclose(found.agreement[a, b], known)
            assert known[0] < 0.95


def test_agreement_of_few_samples_has_no_interval():
    found = seewhy.compare(classifier(), noise(4, 3, 8, 9), ["gradient", "edges"])
    assert np.isfinite(found.agreement[..., 0]).all()
    assert np.isnan(found.agreement[..., 1:]).all()


def test_a_constant_map_agrees_with_nothing_not_even_itself():
    net = classifier()
    with torch.no_grad():
        net[6].weight[1] = 0
    found = seewhy.compare(net, noise(5, 3, 8, 9), ["gradient", "gradcam", "edges"], target=1)
    assert np.isnan(found.agreement[:2]).all()
    assert found.agreement[2, 2, 0] == pytest.approx(1)
    assert "undefined" in str(found)


@pytest.mark.parametrize("methods", ["gradient", ["gradient"], []])
def test_one_method_is_not_compared(methods):
    with pytest.raises(OptionError, match="at least two"):
        seewhy.compare(classifier(), noise(1, 3, 8, 9), methods)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(OptionError, match="several sizes"):
        seewhy.compare(classifier(), noise(1, 3, 8, 9), ["gradient", "gradcam"], upsample="none")
    with pytest.raises(OptionError, match=r"torch.stack"):
        seewhy.compare(classifier(), list(noise(2, 3, 8, 9)), ["gradient", "gradcam"])


def test_a_comparison_prints_as_a_table_and_shows_as_a_sheet(tmp_path):
    from seewhy.pictures.sheet import figure

    net, x = classifier(), noise(5, 3, 8, 9)
    found = seewhy.compare(net, x, ["gradient", "hirescam"])
    mean, low, high = found.agreement[0, 1]
    lines = str(found).splitlines()
    assert lines[0].split() == ["agreement", "gradient", "hirescam"]
    assert f"{mean:.3g} [{low:.3g}, {high:.3g}]" in lines[2]
    found = seewhy.compare(net, x[:1], ["gradient", "hirescam"])
    assert [axis.get_title() for axis in figure(found.maps).axes][:3] == ["Input", "Gradient", "HiResCAM"]
    found.save(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes()[:4] == found._repr_png_()[:4] == b"\x89PNG"
    assert found.show().size[0] > 2 * found.show().size[1]


def test_comparing_leaves_no_trace():
    net = testing.network()
    before = testing.state(net)
    seewhy.compare(net, testing.inputs(), ["gradient", "gradcam"])
    assert testing.same(before, testing.state(net))
