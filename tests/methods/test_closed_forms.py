"""Networks whose explanations are known in closed form. x = (a, b) with a < b, baseline 0."""

import pytest
import torch

import seewhy

A, B = 0.75, 2.5
W = torch.tensor([1.5, -2.0])
relu = torch.relu


def smaller(x):
    return x[:, 0] - relu(x[:, 0] - x[:, 1])


def larger(x):
    return x[:, 0] + relu(x[:, 1] - x[:, 0])


# name: network, input, gradient, integrated gradients, steps and rule that are exact for it
FORMS = {
    "linear": (lambda x: x @ W.to(x), (A, B), (1.5, -2.0), (1.5 * A, -2 * B), 1, "midpoint"),
    "product": (lambda x: x[:, 0] * x[:, 1], (A, B), (B, A), (A * B / 2, A * B / 2), 1, "midpoint"),
    "product of three": (lambda x: x.prod(1), (A, B, 2.0), (B * 2, A * 2, A * B), (A * B * 2 / 3,) * 3, 2, "gauss"),
    "a b²": (lambda x: x[:, 0] * x[:, 1] ** 2, (A, B), (B**2, 2 * A * B), (A * B**2 / 3, 2 * A * B**2 / 3), 2, "gauss"),
    "min": (smaller, (A, B), (1, 0), (A, 0), 3, "midpoint"),
    "max": (larger, (A, B), (0, 1), (0, B), 3, "midpoint"),
    "saturated": (lambda x: (1 - relu(1 - x)).sum(1), (2.0,), (0,), (1,), 50, "midpoint"),
    "nested": (lambda x: relu(relu(x[:, 0]) - 1 - relu(x[:, 1])), (3.0, 1.0), (1, -1), (1.5, -0.5), 50, "midpoint"),
    "trapezoid": (lambda x: x[:, 0] * x[:, 1], (A, B), (B, A), (A * B / 2, A * B / 2), 2, "trapezoid"),
    "endpoints": (lambda x: x[:, 0] * x[:, 1], (A, B), (B, A), (A * B / 2, A * B / 2), 25, "endpoints"),
}


@pytest.mark.row(30, 32)
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_closed_form(name, dtype, tolerance):
    f, point, gradient, integrated, steps, rule = FORMS[name]
    x = torch.tensor([point], dtype=dtype)
    both = seewhy.explain(f, x, ["gradient", "input_x_gradient"])
    whole = seewhy.explain(f, x, "integrated_gradients", steps=steps, rule=rule, baseline=0)
    product = [g * p for g, p in zip(gradient, point, strict=True)]
    for found, expected in ((both[0], gradient), (both[1], product), (whole, integrated)):
        assert found.values.dtype == dtype
        assert found.values.shape == (1, 1, 1, len(point))
        known = torch.tensor(expected, dtype=torch.float64)
        assert (found.values.flatten() - known).abs().max() <= tolerance * known.abs().max().clamp(min=1)
    assert whole.completeness.abs().max() <= tolerance * 10


@pytest.mark.parametrize("name", ["min", "max", "saturated", "nested"])
def test_rectifier_rules_of_small_networks(name):
    """Guided backprop and Zeiler-Fergus, by hand: every ReLU passes only what is positive."""
    f, point, *_ = FORMS[name]
    expected = {
        "min": ((1, 0), (1, 0)),  # what arrives at the ReLU is -1: stopped
        "max": ((0, 1), (0, 1)),  # 1 arrives, X > 0: passes; to a: 1 - 1
        "saturated": ((0,), (0,)),  # -1 arrives: stopped
        "nested": ((1, 0), (1, 0)),  # to b arrives -1: stopped
    }[name]
    x = torch.tensor([point], dtype=torch.float64)
    for method, want in zip(("guided_backprop", "zeiler_fergus"), expected, strict=True):
        values = seewhy.explain(f, x, method).values.flatten()
        assert values.tolist() == [float(v) for v in want]


@pytest.mark.row(26, 27)
@pytest.mark.parametrize("rule", ["midpoint", "gauss", "trapezoid", "endpoints"])
@pytest.mark.parametrize("steps", [2, 3, 25, 50, 128, 1000])
def test_weights_sum_to_one(rule, steps):
    from seewhy.methods.gradients.integrated_gradients import nodes

    at, weights = nodes(steps, rule)
    assert abs(sum(weights) - 1) < 1e-12
    assert len(at) == len(weights) == steps
    assert min(at) >= 0
    assert max(at) <= 1
    assert at == sorted(at)
    if rule in {"trapezoid", "endpoints"}:
        assert at[0] == 0
        assert at[-1] == 1


def test_both_ends_need_two_steps():
    for rule in ("trapezoid", "endpoints"):
        with pytest.raises(seewhy.OptionError, match=r"steps=1: rule=.* uses both ends, so at least 2"):
            seewhy.explain(lambda x: x.sum(1), torch.ones(1, 2), "integrated_gradients", rule=rule, steps=1)


def test_completeness_tells_a_bad_sum():
    """One midpoint of x³ gives 1/4 · 3/1 of the truth: completeness must say so."""
    e = seewhy.explain(
        lambda x: x[:, 0] ** 3, torch.tensor([[2.0]], dtype=torch.float64), "integrated_gradients", steps=1
    )
    assert e.values.item() == pytest.approx(6)
    assert e.completeness.item() == pytest.approx(6 - 8)


def test_smooth_networks_need_few_gauss_points():
    net = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Softplus(), torch.nn.Linear(16, 3)).double()
    with torch.no_grad():
        for i, w in enumerate(net.parameters()):
            w.copy_(torch.randn(w.shape, generator=torch.Generator().manual_seed(i)))
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(9)).double()
    e = seewhy.explain(net, x, "integrated_gradients", rule="gauss", steps=8)
    assert (
        e.completeness.abs()
        < 1e-4 * (e.scores - seewhy.explain(net, torch.zeros_like(x), "gradient", target=e.targets).scores).abs()
    ).all()


@pytest.mark.row(30)
def test_source_a_picture_is_that_of_its_formula():
    """25 points, both ends at full weight, no division: after rescaling, `endpoints` gives the same picture."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 4 * 7, 5)
    ).double()
    x = torch.randn(1, 3, 6, 9).double()
    total = 0
    for n in range(25):
        point = (n / 24 * x).requires_grad_()
        total = total + torch.autograd.grad(net(point).softmax(1)[0, 2], point)[0]
    picture = (x * total).abs().sum(1)
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    e = seewhy.explain(
        net, x, "integrated_gradients", target=2, score="probability", rule="endpoints", steps=25, baseline=0
    )
    assert (e.scaled[:, 0] - picture).abs().max() < 1e-6


@pytest.mark.row(29)
def test_the_whole_path_can_be_one_batch():
    sizes = []

    def f(x):
        sizes.append(len(x))
        return x.square().sum(1)

    seewhy.explain(f, torch.ones(1, 3), "integrated_gradients", steps=25, batch_size=25)
    assert sizes == [1, 25, 1]


def test_along_a_path_a_saturated_factor_is_kept():
    """Where the probability is saturated it does not change: such points must add nothing."""
    f = lambda x: torch.cat([2000 * x, 0 * x], 1)  # noqa: E731
    x = torch.ones(1, 1).double()
    e = seewhy.explain(f, x, "integrated_gradients", target=0, score="probability", steps=20_000, batch_size=32)
    assert e.values.item() == pytest.approx(0.5, abs=1e-4)


def test_a_large_batch_does_not_hold_all_gradients_at_once():
    sizes = []

    def f(x):
        sizes.append(len(x))
        return x.square().sum(1)

    seewhy.explain(f, torch.ones(1, 3), "integrated_gradients", steps=100, batch_size=1000)
    assert sizes == [1, 32, 32, 32, 4, 1]
