"""Backward rules apply to every implementation of ReLU, and to no other operation."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import seewhy

RELU_IMPLEMENTATIONS = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "x.relu()": lambda x: x.relu(),
    "relu_": lambda x: (x + 0).relu_(),
    "torch.relu_": lambda x: torch.relu_(x + 0),
    "created in forward": lambda x: nn.ReLU()(x),
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "nn.ReLU6": nn.ReLU6(),
    "F.relu6": F.relu6,
    "hardtanh(0, 6)": lambda x: F.hardtanh(x, 0.0, 6.0),
    "clamp(0, 6)": lambda x: x.clamp(0, 6),
}


class Net(nn.Module):
    """Three linear layers; the given rectifier is applied after the first and after the second."""

    def __init__(self, rectify):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.rectify = rectify

    def forward(self, x):
        return self.last(self.rectify(self.second(self.rectify(self.first(x)))))


X = torch.randn(2, 5, generator=torch.Generator().manual_seed(1)).double()
RULES = {
    "guided_backprop": lambda z, gradient: gradient * (z > 0) * (z < 6) * (gradient > 0),
    "zeiler_fergus": lambda z, gradient: gradient * (gradient > 0),
}


def expected_map(net, x, c, rule):
    """The map of class c by explicit matrix products, with the rule applied at both rectifiers."""
    with torch.no_grad():
        z1 = net.first(x)
        z2 = net.second(z1.clamp(0, 6))
        gradient = rule(z2, net.last.weight[c].expand(len(x), -1))
        gradient = rule(z1, gradient @ net.second.weight)
        return gradient @ net.first.weight


@pytest.mark.row(19, 21, 23, 47)
@pytest.mark.parametrize("implementation", RELU_IMPLEMENTATIONS)
@pytest.mark.parametrize("name", RULES)
def test_backward_rule_for_every_relu_implementation(implementation, name):
    net = Net(RELU_IMPLEMENTATIONS[implementation]).double()
    assert net.first(X).max() < 6, "ReLU6 must be equal to ReLU for these inputs"
    for _ in range(3):
        values = seewhy.explain(net, X, name, target=1).values[:, 0, 0]
        assert (values - expected_map(net, X, 1, RULES[name])).abs().max() < 1e-12
        assert (values - seewhy.explain(net, X, "gradient", target=1).values[:, 0, 0]).abs().max() > 1e-3


def test_backward_rule_does_not_affect_later_methods():
    """The gradient computed after guided backprop, from the same forward pass, is the ordinary gradient."""
    net = Net(F.relu).double()
    expected = seewhy.explain(net, X, "gradient", target=1).values
    after_rule = seewhy.explain(net, X, ["guided_backprop", "gradient"], target=1)[1].values
    assert torch.equal(expected, after_rule)


@pytest.mark.parametrize("activation", [F.gelu, F.silu, nn.Mish(), F.softplus])
def test_guided_backprop_refuses_smooth_activations(activation):
    with pytest.raises(seewhy.ModelError, match=r"no ReLU-like activation .* instead.*Methods that work: gradient"):
        seewhy.explain(Net(activation).double(), X, "guided_backprop")


def test_guided_backprop_with_relu_and_gelu_adds_note():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.GELU(), nn.GELU())
    note = "the rule is applied to 1 rectifiers; 2 Gelu use their ordinary gradient."
    assert note in seewhy.explain(net, X, "guided_backprop").notes


def test_zeiler_fergus_without_rectifiers_adds_note():
    notes = seewhy.explain(nn.Linear(5, 3), X, "zeiler_fergus").notes
    assert "the network has no rectifier, so this map is the plain gradient." in notes


def test_clamp_with_nonzero_bound_is_no_rectifier():
    """clamp_min(eps) in a normalization, and a hardtanh with the lower bound -1."""
    net = Net(lambda x: F.hardtanh(F.normalize(x, dim=1), -1.0, 1.0)).double()
    gradient, guided = seewhy.explain(net, X, ["gradient", "guided_backprop"], target=0)
    assert torch.equal(gradient.values, guided.values)
    assert any("no rectifier" in note for note in guided.notes)


def test_leaky_relu_keeps_its_slope():
    net = nn.Sequential(nn.LeakyReLU(0.1), nn.Linear(3, 1, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 2.0, -3.0]]))
    x = torch.tensor([[-1.0, 1.0, 1.0]]).double()
    assert seewhy.explain(net, x, "guided_backprop").values.flatten().tolist() == pytest.approx([0.1, 2, 0])
    assert seewhy.explain(net, x, "zeiler_fergus").values.flatten().tolist() == [1, 2, 0]


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output * (ctx.saved_tensors[0] > 0)


def test_guided_backprop_refuses_custom_autograd_function():
    net = Net(Custom.apply).double()
    seewhy.explain(net, X, "gradient")
    with pytest.raises(seewhy.ModelError, match="the recorded graph contains CustomBackward"):
        seewhy.explain(net, X, "guided_backprop")


def test_backward_rule_ignores_relu_in_target_function():
    net = Net(F.relu).double()
    without = seewhy.explain(net, X, "guided_backprop", target=lambda out: out[:, 1]).values
    with_relu = seewhy.explain(net, X, "guided_backprop", target=lambda out: -F.relu(-out[:, 1] + 100) + 100).values
    assert (without - with_relu).abs().max() < 1e-12


class Scriptable(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).clamp(min=0.0))


def wrapped_network(kind):
    """The same network, scripted, traced, compiled or checkpointed, as a whole or as a part."""
    net = Scriptable().double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "scripted": lambda: torch.jit.script(net),
            "traced": lambda: torch.jit.trace(net, X),
            "compiled": lambda: torch.compile(net, backend="aot_eager"),
            "compiled inside": lambda: nn.Sequential(torch.compile(net, backend="aot_eager")),
            "scripted inside": lambda: nn.Sequential(torch.jit.script(net)),
            "checkpointed": lambda: lambda x: checkpoint(net, x, use_reentrant=False),
            "checkpointed, reentrant": lambda: lambda x: checkpoint(net, x, use_reentrant=True),
        }[kind]()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["scripted", "traced", "compiled", "checkpointed"])
@pytest.mark.parametrize("name", RULES)
def test_backward_rule_in_wrapped_network_on_repeated_calls(kind, name):
    net, expected = wrapped_network(kind), seewhy.explain(Scriptable().double(), X, name, target=1).values
    gradient = seewhy.explain(Scriptable().double(), X, "gradient", target=1).values
    for _ in range(3):
        values = seewhy.explain(net, X, name, target=1, batch_size=1).values
        assert (values - expected).abs().max() < 1e-12
        assert (values - gradient).abs().max() > 1e-3
        assert torch.allclose(seewhy.explain(net, X, "gradient", target=1).values, gradient)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "node"),
    [
        ("compiled inside", "CompiledFunctionBackward"),
        ("scripted inside", "DifferentiableGraphBackward"),
        ("checkpointed, reentrant", "CheckpointFunctionBackward"),
    ],
)
def test_guided_backprop_names_unobservable_node(kind, node):
    net = wrapped_network(kind)
    expected = seewhy.explain(Scriptable().double(), X, "guided_backprop", target=1).values
    refused = 0
    for _ in range(3):
        try:
            values = seewhy.explain(net, X, "guided_backprop", target=1, batch_size=1).values
        except seewhy.ModelError as error:
            assert node in str(error)
            refused += 1
        else:  # the operations of a scripted module are recorded on its first call
            assert (values - expected).abs().max() < 1e-12
    # compiled and scripted modules run operation by operation where torch functions are observed
    assert refused >= 2 or node != "CheckpointFunctionBackward"


def test_guided_backprop_does_not_modify_scripted_network():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.jit.script(Scriptable().double())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    seewhy.explain(net, X, "guided_backprop")
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch._C._get_graph_executor_optimize()
