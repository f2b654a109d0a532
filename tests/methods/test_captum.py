"""Comparison with Captum: equal where Captum is correct, different where it is not."""

import copy

import pytest
import torch
from captum import attr

import seewhy

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def resnet():
    """A network with separate nn.ReLU modules, as required by Captum's hooks."""
    torch.manual_seed(3)
    return timm.create_model("resnet10t", num_classes=7).double().eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()


def with_relus_out_of_place(net):
    """The network without in-place ReLUs, as required by Captum."""
    for module in net.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    return net


@pytest.mark.parametrize(
    ("name", "captum_method"),
    [
        ("gradient", lambda net, x, c: attr.Saliency(net).attribute(x, target=c, abs=False)),
        ("input_x_gradient", lambda net, x, c: attr.InputXGradient(net).attribute(x, target=c)),
        ("guided_backprop", lambda net, x, c: attr.GuidedBackprop(with_relus_out_of_place(net)).attribute(x, target=c)),
        ("zeiler_fergus", lambda net, x, c: attr.Deconvolution(with_relus_out_of_place(net)).attribute(x, target=c)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_gradient_methods_equal_captum(resnet, x, name, captum_method):
    ours = seewhy.explain(resnet, x, name, target=[4, 1]).values
    for k, c in enumerate((4, 1)):
        theirs = captum_method(resnet, x.clone(), c).detach()
        assert theirs.abs().max() > 0
        assert (ours[:, k] - theirs).abs().max() <= 1e-10 * theirs.abs().max()


@pytest.mark.parametrize(("rule", "theirs"), [("gauss", "gausslegendre"), ("midpoint", "riemann_middle")])
def test_integrated_gradients_equal_captum(resnet, x, rule, theirs):
    ours = seewhy.explain(resnet, x, "integrated_gradients", target=4, rule=rule, steps=12, baseline=0.25)
    other, delta = attr.IntegratedGradients(resnet).attribute(
        x, baselines=0.25, target=4, n_steps=12, method=theirs, return_convergence_delta=True
    )
    # Captum stores its weights in float32
    assert (ours.values[:, 0] - other).abs().max() <= 1e-7 * other.abs().max()
    assert (ours.convergence_delta[:, 0] - delta).abs().max() < 1e-5 * delta.abs().max()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pool", ["maxpool", "average"])
def test_deeplift_equals_captum_except_at_max_pooling(resnet, x, pool):
    """Captum loses the part of the difference where the maximum of the baseline is larger than that of the input."""
    net = with_relus_out_of_place(copy.deepcopy(resnet))
    if pool == "average":
        net.maxpool = torch.nn.AvgPool2d(3, 2, 1)
    ours = seewhy.explain(net, x, "deeplift", target=4, baseline=0.25)
    other, delta = attr.DeepLift(net).attribute(x, torch.full_like(x, 0.25), target=4, return_convergence_delta=True)
    difference = (ours.values[:, 0] - other.detach()).abs().max() / other.abs().max()
    assert ours.convergence_delta.abs().max() < 1e-14
    if pool == "average":
        assert difference < 1e-12
    else:
        assert difference > 0.01
        assert delta.abs().min() > 1e-4, "if this fails, Captum was fixed"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activation", [torch.relu, torch.nn.functional.gelu])
def test_deeplift_of_functional_activation_sums_to_score_unlike_captum(activation):
    net, x = FunctionalActivation(activation), 4 * torch.randn(1, 6, generator=torch.Generator().manual_seed(2))
    _, delta = attr.DeepLift(net).attribute(x, target=1, return_convergence_delta=True)
    assert delta.abs().item() > 1e-3, "if this fails, Captum was fixed"
    assert seewhy.explain(net, x, "deeplift", target=1).convergence_delta.abs().item() < 1e-6


@pytest.mark.filterwarnings("ignore")
def test_deeplift_of_reused_module_sums_to_score_unlike_captum():
    net, x = FunctionalActivation(torch.nn.ReLU()), torch.randn(1, 6, generator=torch.Generator().manual_seed(2))
    twice = torch.nn.Sequential(net.activation, net)
    with pytest.raises(RuntimeError, match="being used more than once"):  # if this fails, Captum was fixed
        attr.DeepLift(twice).attribute(x, target=1)
    e = seewhy.explain(twice, x, "deeplift", target=1)
    assert e.convergence_delta.abs().item() < 1e-6
    assert e.values.any()


def test_trapezoid_rule_sums_to_score_unlike_captum():
    f = lambda x: 2 * x.sum(1)  # noqa: E731
    x = torch.ones(1, 2).double()
    theirs = attr.IntegratedGradients(f).attribute(x, n_steps=50, method="riemann_trapezoid")
    ours = seewhy.explain(f, x, "integrated_gradients", steps=50, rule="trapezoid").values
    assert ours.sum().item() == pytest.approx(4, abs=1e-12)
    assert theirs.sum().item() == pytest.approx(4 * 49 / 50), "if this fails, Captum was fixed: update the docs"


@pytest.mark.row(21, 47)
@pytest.mark.filterwarnings("ignore")
def test_guided_backprop_on_lite0_unlike_captum(lite0, shipped):
    x = lite0.prepare(shipped["chelsea"])
    gradient, guided, zeiler = seewhy.explain(
        lite0, x, ["gradient", "guided_backprop", "zeiler_fergus"], target="Egyptian cat"
    )
    theirs = attr.GuidedBackprop(lite0.module).attribute(x, target=285)
    difference = (guided.values - gradient.values).norm() / gradient.values.norm()
    assert (theirs - gradient.values[:, 0]).norm() / theirs.norm() < 1e-3, "if this fails, Captum was fixed"
    assert difference > 0.3
    assert (zeiler.values - guided.values).norm() / guided.values.norm() > 0.3


class FunctionalActivation(torch.nn.Module):
    """Two linear layers with an activation function that is not a module."""

    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.activation = torch.nn.Linear(6, 9), torch.nn.Linear(9, 2), activation

    def forward(self, x):
        return self.second(self.activation(self.first(x)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activation", [torch.relu, torch.nn.functional.gelu])
def test_captum_guided_backprop_ignores_functional_activation(activation):
    net, x = FunctionalActivation(activation), torch.randn(1, 6, generator=torch.Generator().manual_seed(2))
    theirs = attr.GuidedBackprop(net).attribute(x, target=1)
    plain = seewhy.explain(net, x, "gradient", target=1).values[:, 0, 0]
    assert torch.allclose(theirs, plain), "if this fails, Captum was fixed"
    if activation is torch.relu:
        assert not torch.allclose(seewhy.explain(net, x, "guided_backprop", target=1).values[:, 0, 0], plain)


@pytest.mark.filterwarnings("ignore")
def test_nan_input_is_refused_unlike_captum():
    net, x = FunctionalActivation(torch.relu), torch.full((1, 6), torch.nan)
    assert attr.Saliency(net).attribute(x, target=1).isfinite().all(), "if this fails, Captum was fixed"
    with pytest.raises(seewhy.InputError):
        seewhy.explain(net, x, "gradient")


def test_gradient_of_single_image_with_batch_norm_on_tokens():
    """torch's gradient for a batch of one is wrong; for a batch of two it is right."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model("levit_128s").eval().double()
        x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    pair = x.repeat(2, 1, 1, 1).requires_grad_()
    (expected,) = torch.autograd.grad(net(pair)[0, 3], pair)
    ours = seewhy.explain(net, x, "gradient", target=3).values[0, 0]
    theirs = attr.Saliency(net).attribute(x.requires_grad_(), target=3, abs=False)[0]
    assert (ours - expected[0]).abs().max() <= 1e-12 * expected.abs().max()
    both = torch.stack([theirs.flatten(), expected[0].flatten()])
    if torch.__version__.startswith("2.15"):
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.1
