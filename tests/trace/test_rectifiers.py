"""The rule reaches every make of ReLU, and nothing that is none."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import seewhy

MAKES = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU(inplace)": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "x.relu()": lambda x: x.relu(),
    "relu_": lambda x: (x + 0).relu_(),
    "torch.relu_": lambda x: torch.relu_(x + 0),
    "made inline": lambda x: nn.ReLU()(x),
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "nn.ReLU6": nn.ReLU6(),
    "F.relu6": F.relu6,
    "hardtanh(0, 6)": lambda x: F.hardtanh(x, 0.0, 6.0),
    "clamp(0, 6)": lambda x: x.clamp(0, 6),
}


class Net(nn.Module):
    """Two layers whose rectifier is of any make, used twice."""

    def __init__(self, rectify):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.rectify = rectify

    def forward(self, x):
        return self.last(self.rectify(self.second(self.rectify(self.first(x)))))


X = torch.randn(2, 5, generator=torch.Generator().manual_seed(1)).double()
RULES = {
    "guided_backprop": lambda pre, back: back * (pre > 0) * (pre < 6) * (back > 0),
    "zeiler_fergus": lambda pre, back: back * (back > 0),
}


def by_hand(net, x, c, rule):
    with torch.no_grad():
        pre1 = net.first(x)
        pre2 = net.second(pre1.clamp(0, 6))
        back = rule(pre2, net.last.weight[c].expand(len(x), -1))
        back = rule(pre1, back @ net.second.weight)
        return back @ net.first.weight


@pytest.mark.row(19, 21, 23, 47)
@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("name", RULES)
def test_every_make(make, name):
    net = Net(MAKES[make]).double()
    assert net.first(X).max() < 6, "so that a ReLU6 is a ReLU here"
    for _ in range(3):
        values = seewhy.explain(net, X, name, target=1).values[:, 0, 0]
        assert (values - by_hand(net, X, 1, RULES[name])).abs().max() < 1e-12
        assert (values - seewhy.explain(net, X, "gradient", target=1).values[:, 0, 0]).abs().max() > 1e-3


def test_the_rule_ends_with_the_call():
    """Gradient after guided backprop on the same forward is the gradient."""
    net = Net(F.relu).double()
    alone = seewhy.explain(net, X, "gradient", target=1).values
    after = seewhy.explain(net, X, ["guided_backprop", "gradient"], target=1)[1].values
    assert torch.equal(alone, after)


@pytest.mark.parametrize("activation", [F.gelu, F.silu, nn.Mish(), F.softplus])
def test_smooth_networks_are_refused(activation):
    with pytest.raises(seewhy.ModelError, match=r"no ReLU-like step .* instead.*Methods that work: gradient"):
        seewhy.explain(Net(activation).double(), X, "guided_backprop")


def test_a_mixture_is_counted():
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4), nn.GELU(), nn.GELU())
    note = "the rule acts on 1 rectifiers; 2 Gelu backpropagate plainly."
    assert note in seewhy.explain(net, X, "guided_backprop").notes


def test_a_network_without_rectifiers_says_so():
    notes = seewhy.explain(nn.Linear(5, 3), X, "zeiler_fergus").notes
    assert "the network has no rectifier, so this map is the plain gradient." in notes


def test_what_is_no_rectifier_is_left_alone():
    """clamp_min(eps) in a normalisation, and a hardtanh from -1."""
    net = Net(lambda x: F.hardtanh(F.normalize(x, dim=1), -1.0, 1.0)).double()
    gradient, guided = seewhy.explain(net, X, ["gradient", "guided_backprop"], target=0)
    assert torch.equal(gradient.values, guided.values)
    assert any("no rectifier" in note for note in guided.notes)


def test_a_leaky_slope_stays():
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
    def backward(ctx, arriving):
        return arriving * (ctx.saved_tensors[0] > 0)


def test_a_custom_function_is_not_passed_over():
    net = Net(Custom.apply).double()
    seewhy.explain(net, X, "gradient")
    with pytest.raises(seewhy.ModelError, match="the recorded graph holds CustomBackward"):
        seewhy.explain(net, X, "guided_backprop")


def test_the_users_own_score_is_no_part_of_the_network():
    """A ReLU in the target function is not rectified backwards."""
    net = Net(F.relu).double()
    plain = seewhy.explain(net, X, "guided_backprop", target=lambda out: out[:, 1]).values
    own = seewhy.explain(net, X, "guided_backprop", target=lambda out: -F.relu(-out[:, 1] + 100) + 100).values
    assert (plain - own).abs().max() < 1e-12


class Scriptable(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.second(self.first(x).relu()).clamp(min=0.0))


def hidden(kind):
    """The same network where its steps are hard to see."""
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
def test_hidden_steps_are_found_each_of_three_times(kind, name):
    net, expected = hidden(kind), seewhy.explain(Scriptable().double(), X, name, target=1).values
    plain = seewhy.explain(Scriptable().double(), X, "gradient", target=1).values
    for _ in range(3):
        values = seewhy.explain(net, X, name, target=1, batch_size=1).values
        assert (values - expected).abs().max() < 1e-12
        assert (values - plain).abs().max() > 1e-3
        assert torch.allclose(seewhy.explain(net, X, "gradient", target=1).values, plain)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "node"),
    [
        ("compiled inside", "CompiledFunctionBackward"),
        ("scripted inside", "DifferentiableGraphBackward"),
        ("checkpointed, reentrant", "CheckpointFunctionBackward"),
    ],
)
def test_what_cannot_be_seen_is_refused_by_name(kind, node):
    net = hidden(kind)
    expected = seewhy.explain(Scriptable().double(), X, "guided_backprop", target=1).values
    refused = 0
    for _ in range(3):
        try:
            values = seewhy.explain(net, X, "guided_backprop", target=1, batch_size=1).values
        except seewhy.ModelError as error:
            assert node in str(error)
            refused += 1
        else:  # a scripted part shows its steps on its first call
            assert (values - expected).abs().max() < 1e-12
    assert refused >= 2


def test_a_scripted_network_is_not_touched():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.jit.script(Scriptable().double())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    seewhy.explain(net, X, "guided_backprop")
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert torch._C._get_graph_executor_optimize()
