"""Functions whose explanations are known in closed form. x = (a, b) with a < b, baseline 0."""

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


# name: function, input, gradient, integrated gradients, steps and rule that are exact for the function
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
def test_gradient_methods_equal_closed_form(name, dtype, tolerance):
    f, point, gradient, integrated, steps, rule = FORMS[name]
    x = torch.tensor([point], dtype=dtype)
    both = seewhy.explain(f, x, ["gradient", "input_x_gradient"])
    path = seewhy.explain(f, x, "integrated_gradients", steps=steps, rule=rule, baseline=0)
    product = [g * p for g, p in zip(gradient, point, strict=True)]
    for e, expected in ((both[0], gradient), (both[1], product), (path, integrated)):
        assert e.values.dtype == dtype
        assert e.values.shape == (1, 1, 1, len(point))
        known = torch.tensor(expected, dtype=torch.float64)
        assert (e.values.flatten() - known).abs().max() <= tolerance * known.abs().max().clamp(min=1)
    assert path.convergence_delta.abs().max() <= tolerance * 10


@pytest.mark.parametrize("name", ["min", "max", "saturated", "nested"])
def test_rectifier_rules_equal_closed_form(name):
    """Guided backprop and Zeiler-Fergus: every ReLU passes positive gradients only."""
    f, point, *_ = FORMS[name]
    expected = {
        "min": ((1, 0), (1, 0)),  # the gradient at the ReLU's output is -1: stopped
        "max": ((0, 1), (0, 1)),  # it is 1 and X > 0: passes; for a: 1 - 1
        "saturated": ((0,), (0,)),  # it is -1: stopped
        "nested": ((1, 0), (1, 0)),  # for b it is -1: stopped
    }[name]
    x = torch.tensor([point], dtype=torch.float64)
    for method, want in zip(("guided_backprop", "zeiler_fergus"), expected, strict=True):
        values = seewhy.explain(f, x, method).values.flatten()
        assert values.tolist() == [float(v) for v in want]


@pytest.mark.row(26, 27)
@pytest.mark.parametrize("rule", ["midpoint", "gauss", "trapezoid", "endpoints"])
@pytest.mark.parametrize("steps", [2, 3, 25, 50, 128, 1000])
def test_quadrature_weights_sum_to_one(rule, steps):
    from seewhy.methods.gradient.integrated_gradients import quadrature_nodes

    positions, weights = quadrature_nodes(steps, rule)
    assert abs(sum(weights) - 1) < 1e-12
    assert len(positions) == len(weights) == steps
    assert min(positions) >= 0
    assert max(positions) <= 1
    assert positions == sorted(positions)
    if rule in {"trapezoid", "endpoints"}:
        assert positions[0] == 0
        assert positions[-1] == 1


def test_rules_with_both_ends_need_two_steps():
    for rule in ("trapezoid", "endpoints"):
        with pytest.raises(seewhy.OptionError, match=r"steps=1: rule=.* uses both ends, so at least 2 are required"):
            seewhy.explain(lambda x: x.sum(1), torch.ones(1, 2), "integrated_gradients", rule=rule, steps=1)


def test_convergence_delta_of_inexact_sum():
    """One midpoint for x³ results in 3/4 of the exact value; the convergence delta is the difference."""
    e = seewhy.explain(
        lambda x: x[:, 0] ** 3, torch.tensor([[2.0]], dtype=torch.float64), "integrated_gradients", steps=1
    )
    assert e.values.item() == pytest.approx(6)
    assert e.convergence_delta.item() == pytest.approx(6 - 8)


def test_gauss_rule_converges_with_few_steps_on_smooth_network():
    net = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Softplus(), torch.nn.Linear(16, 3)).double()
    with torch.no_grad():
        for i, w in enumerate(net.parameters()):
            w.copy_(torch.randn(w.shape, generator=torch.Generator().manual_seed(i)))
    x = torch.randn(2, 5, generator=torch.Generator().manual_seed(9)).double()
    e = seewhy.explain(net, x, "integrated_gradients", rule="gauss", steps=8)
    assert (
        e.convergence_delta.abs()
        < 1e-4 * (e.scores - seewhy.explain(net, torch.zeros_like(x), "gradient", target=e.targets).scores).abs()
    ).all()


@pytest.mark.row(30)
def test_endpoints_rule_equals_matlab_example():
    """25 points, both ends with full weight, no division: after rescaling, `endpoints` results in the same map."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 4 * 7, 5)
    ).double()
    x = torch.randn(1, 3, 6, 9).double()
    total = 0
    for n in range(25):
        point = (n / 24 * x).requires_grad_()
        total = total + torch.autograd.grad(net(point).softmax(1)[0, 2], point)[0]
    expected = (x * total).abs().sum(1)
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    e = seewhy.explain(
        net, x, "integrated_gradients", target=2, score="probability", rule="endpoints", steps=25, baseline=0
    )
    assert (e.scaled[:, 0] - expected).abs().max() < 1e-6


@pytest.mark.row(29)
def test_path_in_one_batch():
    sizes = []

    def f(x):
        sizes.append(len(x))
        return x.square().sum(1)

    seewhy.explain(f, torch.ones(1, 3), "integrated_gradients", steps=25, batch_size=25)
    assert sizes == [1, 25, 1]


def test_saturated_probability_adds_nothing_to_path():
    """Where the probability is saturated its gradient is zero: such points must not contribute."""
    f = lambda x: torch.cat([2000 * x, 0 * x], 1)  # noqa: E731
    x = torch.ones(1, 1).double()
    e = seewhy.explain(f, x, "integrated_gradients", target=0, score="probability", steps=20_000, batch_size=32)
    assert e.values.item() == pytest.approx(0.5, abs=1e-4)


def test_number_of_gradients_per_query_is_limited():
    sizes = []

    def f(x):
        sizes.append(len(x))
        return x.square().sum(1)

    seewhy.explain(f, torch.ones(1, 3), "integrated_gradients", steps=100, batch_size=1000)
    assert sizes == [1, 32, 32, 32, 4, 1]
