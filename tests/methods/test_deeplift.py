"""DeepLIFT: the rescale rule by hand, completeness, refusals, and other methods whose rules read values of ops."""

import threading
import warnings

import pytest
import torch
from tests.networks import random_input, small_classifier, with_random_weights
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy.testing import check_method, state, states_equal

FUNCTIONS = {
    "F.relu": F.relu,
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "F.relu(inplace)": lambda z: F.relu(z, True),
    "x.relu_()": lambda z: z.relu_(),
    "relu, by keyword": lambda z: torch.relu(input=z),
    "clamp(min=0)": lambda z: z.clamp(min=0),
    "F.relu6": lambda z: F.relu6(4 * z),
    "nn.ReLU6(inplace)": nn.ReLU6(inplace=True),
    "F.leaky_relu": lambda z: F.leaky_relu(z, 0.2),
    "F.prelu": lambda z: F.prelu(z, z.new_tensor([0.3])),
    "torch.sigmoid": torch.sigmoid,
    "x.tanh_()": lambda z: z.tanh_(),
    "F.elu(inplace)": lambda z: F.elu(z, inplace=True),
    "F.selu": F.selu,
    "F.gelu": F.gelu,
    "nn.SiLU(inplace)": nn.SiLU(inplace=True),
    "F.softplus": F.softplus,
    "F.hardswish": F.hardswish,
    "x ** 2": lambda z: z**2,
    "overwritten": lambda z: F.leaky_relu(z, 0.2).add_(1),
}
X, BASELINE = random_input(3, 5)[:2], random_input(3, 5)[2:]


class ReusedActivation(nn.Module):
    """Three linear layers; the given function is applied after the first and after the second."""

    def __init__(self, function):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.second(self.function(self.first(x)))))


def rescaled_by_hand(net, x, reference, c):
    """The rescale rule as explicit matrix products."""
    with torch.no_grad():
        z, z0 = net.first(x), net.first(reference)
        a, a0 = net.function(z.clone()), net.function(z0.clone())
        y, y0 = net.second(a), net.second(a0)
        multiplier = net.last.weight[c] * (net.function(y.clone()) - net.function(y0.clone())) / (y - y0)
        multiplier = multiplier @ net.second.weight * (a - a0) / (z - z0)
        return (x - reference) * (multiplier @ net.first.weight)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rescale_rule_for_elementwise_functions(name):
    net = with_random_weights(ReusedActivation(FUNCTIONS[name]).double())
    e = seewhy.explain(net, X, "deeplift", target=[2, 0], baseline=BASELINE)
    for k, c in enumerate((2, 0)):
        assert (e.values[:, k, 0] - rescaled_by_hand(net, X, BASELINE, c)).abs().max() < 1e-12
    assert e.convergence_delta.abs().max() < 1e-12
    without_batch_axis = seewhy.explain(net, X, "deeplift", target=[2, 0], baseline=BASELINE[0])
    assert torch.equal(e.values, without_batch_axis.values)
    chain_rule = seewhy.explain(net, X, "input_x_gradient", target=[2, 0]).values
    assert (e.values - chain_rule).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("x", "reference", "expected"),
    [((1, 4), (3, 0), (0, 1)), ((1, 2), (3, 0), (-1, 0)), ((3, 1), (1, 3), (0, 0)), ((2, 5), (2, 5), (0, 0))],
)
def test_max_pooling_assigns_difference_to_position_of_larger_maximum(x, reference, expected):
    x, reference = (torch.tensor([[values]], dtype=torch.float64) for values in (x, reference))
    e = seewhy.explain(lambda x: F.max_pool1d(x, 2)[:, 0], x, "deeplift", baseline=reference)
    assert e.values.flatten().tolist() == list(expected)


POOLINGS = [
    (1, nn.MaxPool1d(2)), (1, nn.AdaptiveMaxPool1d(3)), (2, nn.MaxPool2d(3, 1, 1)), (3, nn.MaxPool3d(2)),
    (2, nn.MaxPool2d(3, 2, 1, ceil_mode=True)), (2, nn.AdaptiveMaxPool2d((3, 2))), (3, nn.AdaptiveMaxPool3d(2)),
]  # fmt: skip


@pytest.mark.parametrize(("rank", "pool"), POOLINGS)
def test_values_sum_to_difference_of_scores_with_max_pooling(rank, pool):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    layers = [conv(3, 4, 3, padding=1), nn.ReLU(), pool, conv(4, 4, 1), nn.Tanh(), pool, nn.Flatten(), nn.LazyLinear(3)]
    net, x = nn.Sequential(*layers).double(), random_input(3, 3, *(8, 6, 7)[:rank])
    net(x)
    e = seewhy.explain(with_random_weights(net), x[:2], "deeplift", target=[2, 0], baseline=x[2:])
    assert e.convergence_delta.abs().max() < 1e-12
    with torch.no_grad():
        difference = (net(x[:2]) - net(x[2:]))[:, [2, 0]]
    assert torch.allclose(e.values.flatten(2).sum(2), difference, atol=1e-12)


class Joins(nn.Module):
    """Residual addition, concatenation, batch norm, average pooling, interpolation, and constants on both sides."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.first(2 - x / 3)), True)
        x = x + F.silu(self.second(x))
        half = F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear")
        joined = torch.cat([x, half.mul(0.5).sigmoid()], 1)
        return self.head(F.pad(joined, (1, 0)).mean((2, 3)))


def test_values_sum_to_difference_of_scores_with_joins():
    net, x = with_random_weights(Joins().double()), random_input(3, 3, 6, 8)
    net.norm.running_mean += 0.5
    net.norm.running_var *= 2
    e = seewhy.explain(net, x, "deep_lift", target=[0, 1, 2], baseline=0.3)
    assert e.convergence_delta.abs().max() < 1e-12
    with torch.no_grad():
        difference = net(x) - net(torch.full_like(x, 0.3))
    assert torch.allclose(e.values.flatten(2).sum(2), difference, atol=1e-12)
    assert "baseline: 0.3 everywhere" in e.notes


def test_linear_network_has_input_times_gradient():
    net, x = nn.Linear(4, 3).double(), random_input(2, 4)
    expected = seewhy.explain(net, x, "input_x_gradient", target=1).values
    assert torch.allclose(seewhy.explain(net, x, "deeplift", target=1).values, expected)


def test_equal_input_and_baseline_values_use_the_ordinary_gradient():
    """A unit that does not change has the slope of its function; it contributes to units that do change."""
    f = lambda x: 2 * torch.sigmoid(x[:, 0] - x[:, 1])  # noqa: E731
    x = torch.tensor([[1.5, 1.5]], dtype=torch.float64)
    assert seewhy.explain(f, x, "deeplift").values.flatten().tolist() == pytest.approx([1.5 / 2, -1.5 / 2])


def test_target_function_is_part_of_the_network():
    net, x = small_classifier(), random_input(2, 3, 6, 8)
    e = seewhy.explain(net, x, "deeplift", target=lambda z: (z[:, 1] - z[:, 0]).sigmoid())
    with torch.no_grad():
        margin = net(x) - net(torch.zeros_like(x))
        scores = [(z[:, 1] - z[:, 0]).sigmoid() for z in (net(x), net(torch.zeros_like(x)))]
    assert torch.allclose(e.values.flatten(1).sum(1), scores[0] - scores[1])
    assert (e.values.flatten(1).sum(1) - margin[:, 1] + margin[:, 0]).abs().max() > 1e-3


class Norm(nn.Module):
    """The given function between a convolution and a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function, self.head = nn.Conv2d(3, 4, 3), function, nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.function(self.conv(x)).mean((2, 3)))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return 2 * z

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def relu_on_part(z):
    z = z.clone()
    z[:, :2].relu_()
    return z


REFUSED = {
    "a product of two values that both depend on the input .mul.": lambda z: z * z.sigmoid(),
    "both depend on the input .bmm.": lambda z: (z.flatten(2) @ z.flatten(2).transpose(1, 2) @ z.flatten(2)).view_as(z),
    "a division by a value that depends on the input": lambda z: z / (1 + z.abs()),
    "softmax": lambda z: z.softmax(1),
    "LayerNorm": lambda z: F.layer_norm(z, z.shape[2:]),
    "GroupNorm": nn.GroupNorm(2, 4),
    "statistics of the input itself": nn.InstanceNorm2d(4),
    "attention": lambda z: F.scaled_dot_product_attention(z, z, z),
    "a maximum over an axis .amax.": lambda z: z.amax((2, 3), keepdim=True),
    "a selection by a condition": lambda z: torch.where(z > 0, z, 0.0),
    "an in-place operation on a part of a tensor": relu_on_part,
    "Doubled": Doubled.apply,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("message", REFUSED)
def test_undefined_op_is_refused_by_its_usual_name(message):
    net, x = with_random_weights(Norm(REFUSED[message]).double()), random_input(2, 3, 6, 8)
    before = state(net)
    for _ in range(2):
        with pytest.raises(seewhy.ModelError, match=f"contains .*{message}.*Methods that work: gradient"):
            seewhy.explain(net, x, "deeplift", target=1)
    after = state(net)
    assert all(states_equal(before[key], after[key]) for key in before)


def scripted_inside(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.Linear(5, 4), torch.jit.script(nn.Sequential(function))).double()


@pytest.mark.filterwarnings("ignore")
def test_scripted_code_is_refused():
    net = scripted_inside(nn.Sigmoid())
    for _ in range(3):
        with pytest.raises(seewhy.ModelError, match="not recorded"):
            seewhy.explain(net, X, "deeplift", target=1)


def test_softmax_at_the_end_is_avoided_by_reduction_layer():
    net, x = nn.Sequential(small_classifier(), nn.Softmax(1)), random_input(2, 3, 6, 8)
    logits = seewhy.explain(net, x, "deeplift", target=1)
    e = seewhy.explain(net, x, "deeplift", target=1, reduction_layer="0")
    assert torch.equal(e.values, seewhy.explain(net[0], x, "deeplift", target=1).values)
    assert torch.allclose(logits.values, e.values)


@pytest.mark.parametrize("score", ["probability", "log_probability", "margin"])
def test_score_with_log_sum_exp_is_refused(score):
    with pytest.raises(seewhy.OptionError, match=r"log-sum-exp over classes.*score='logit', a difference of classes"):
        seewhy.explain(small_classifier(), random_input(2, 3, 6, 8), "deeplift", target=1, score=score)


def test_network_that_branches_on_the_input_is_refused():
    f = lambda x: x.sum(1).relu() if x.sum() > 0 else x.sum(1)  # noqa: E731
    with pytest.raises(seewhy.ModelError, match="other operations for the baseline than for the input"):
        seewhy.explain(f, torch.ones(1, 2), "deeplift", baseline=-1)
    assert seewhy.explain(f, torch.ones(1, 2), "deeplift", baseline=0.5).values.sum() == 1


def test_factor_that_is_not_differentiated_adds_note():
    f = lambda x: (x * x.detach()).sum(1)  # noqa: E731
    e = seewhy.explain(f, torch.tensor([[1.0, 2.0]]), "deeplift", baseline=-0.5)
    assert any("do not sum to score - baseline score" in note for note in e.notes)
    assert e.convergence_delta.abs().item() > 1


def test_forward_passes_respect_batch_size():
    sizes, net = [], small_classifier()
    model = seewhy.wrap(net, forward=lambda net, x: sizes.append(len(x)) or net(x))
    x = random_input(5, 3, 6, 8)
    seewhy.explain(model, x, "centre", target=0)  # the one-time passes
    sizes.clear()
    values = seewhy.explain(model, x, "deeplift", batch_size=2).values
    assert sizes == [2, 2, 2, 2, 2, 2, 1, 1, 1]
    assert torch.allclose(values, seewhy.explain(net, x, "deeplift").values, rtol=1e-12, atol=1e-12)


def test_threads_do_not_disturb_each_other():
    net = with_random_weights(ReusedActivation(nn.ReLU(inplace=True)).double())
    inputs = [random_input(4, 5)[n : n + 1] for n in range(4)]
    expected = [seewhy.explain(net, x, "deeplift", target=1).values for x in inputs]
    found = [[None] * 20 for _ in inputs]

    def run(n):
        for i in range(20):
            found[n][i] = seewhy.explain(net, inputs[n], "deeplift", target=1).values

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(values, expected[n]) for n in range(4) for values in found[n])


# --- a user's own rules


def passed_on(gradient):
    """The gradient that the rules pass to the input."""
    return gradient


def own_method(family, *rules):
    return seewhy.Method(passed_on, family, "Own", "me 2026", rules=rules)


def guided_by_input(input, grad_output):
    return grad_output.clamp(min=0) * (input > 0)


def guided_by_output(output, grad_input):
    return grad_input.clamp(min=0) * (output > 0)


@pytest.mark.parametrize("fn", [guided_by_input, guided_by_output])
def test_own_rule_reads_input_and_output(fn):
    own = own_method("recorded_gradient", seewhy.BackwardRule(("rectifier",), fn))
    net, x = small_classifier(), random_input(2, 3, 6, 8)
    e = seewhy.explain(net, x, own, target=[1, 2])
    assert torch.allclose(e.values, seewhy.explain(net, x, "guided_backprop", target=[1, 2]).values, atol=1e-14)
    assert e.evaluations == (4, 4)
    check_method(own)


def test_first_rule_for_the_kind_of_op_is_applied():
    zero = seewhy.BackwardRule(("rectifier",), lambda grad_output: 0 * grad_output)
    double = seewhy.BackwardRule(("elementwise",), lambda grad_input: 2 * grad_input)
    pool = seewhy.BackwardRule(("max_pool",), lambda grad_output: 3 * grad_output)
    f = lambda x: x[:, 0, 0].relu() + x[:, 0, 1].sigmoid() + F.max_pool1d(x[:, :, 2:], 2)[:, 0, 0]  # noqa: E731
    x = torch.tensor([[[1.0, 0.0, 5.0, 7.0]]], dtype=torch.float64)
    for rules, expected in (((zero, double, pool), [0, 0.5, 0, 3]), ((double, zero), [2, 0.5, 0, 1])):
        values = seewhy.explain(f, x, own_method("recorded_gradient", *rules)).values
        assert values.flatten().tolist() == expected


@pytest.mark.filterwarnings("ignore")
def test_own_rule_that_reads_values_is_refused_where_they_are_not_recorded():
    own = own_method("input_gradient", seewhy.BackwardRule(("rectifier",), guided_by_input))
    with pytest.raises(seewhy.OptionError, match="use the family 'recorded_gradient'"):
        seewhy.explain(small_classifier(), random_input(2, 3, 6, 8), own)
    own = own_method("recorded_gradient", seewhy.BackwardRule(("rectifier",), guided_by_input))
    with pytest.raises(seewhy.ModelError, match="was not recorded"):
        seewhy.explain(scripted_inside(nn.ReLU()), X, own)


def test_invalid_backward_rule_is_refused():
    with pytest.raises(seewhy.OptionError, match="ops='relu' is not one of 'rectifier'"):
        seewhy.BackwardRule(("relu",), lambda grad_output: grad_output)
    with pytest.raises(seewhy.OptionError, match="'slope' is not one of 'grad_output'"):
        seewhy.BackwardRule(("rectifier",), lambda slope: slope)
