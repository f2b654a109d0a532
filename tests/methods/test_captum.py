"""Side by side with Captum, where Captum is right; and where it is not, that we differ."""

import pytest
import torch
from captum import attr

import seewhy

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def resnet():
    """A network of separate nn.ReLU modules, which Captum's hooks reach."""
    torch.manual_seed(3)
    return timm.create_model("resnet10t", num_classes=7).double().eval()


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()


def relu_modules_apart(net):
    """Captum needs every ReLU to be a module of its own, and not in place."""
    for module in net.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    return net


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        ("gradient", lambda net, x, c: attr.Saliency(net).attribute(x, target=c, abs=False)),
        ("input_x_gradient", lambda net, x, c: attr.InputXGradient(net).attribute(x, target=c)),
        ("guided_backprop", lambda net, x, c: attr.GuidedBackprop(relu_modules_apart(net)).attribute(x, target=c)),
        ("zeiler_fergus", lambda net, x, c: attr.Deconvolution(relu_modules_apart(net)).attribute(x, target=c)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_equal_to_captum(resnet, x, name, peer):
    ours = seewhy.explain(resnet, x, name, target=[4, 1]).values
    for k, c in enumerate((4, 1)):
        theirs = peer(resnet, x.clone(), c).detach()
        assert theirs.abs().max() > 0
        assert (ours[:, k] - theirs).abs().max() <= 1e-10 * theirs.abs().max()


@pytest.mark.parametrize(("rule", "theirs"), [("gauss", "gausslegendre"), ("midpoint", "riemann_middle")])
def test_integrated_gradients_equal_captum(resnet, x, rule, theirs):
    ours = seewhy.explain(resnet, x, "integrated_gradients", target=4, rule=rule, steps=12, baseline=0.25)
    other, delta = attr.IntegratedGradients(resnet).attribute(
        x, baselines=0.25, target=4, n_steps=12, method=theirs, return_convergence_delta=True
    )
    # Captum keeps its weights in float32
    assert (ours.values[:, 0] - other).abs().max() <= 1e-7 * other.abs().max()
    assert (ours.completeness[:, 0] - delta).abs().max() < 1e-5 * delta.abs().max()


def test_captums_trapezoid_loses_a_share_and_ours_does_not():
    f = lambda x: 2 * x.sum(1)  # noqa: E731
    x = torch.ones(1, 2).double()
    theirs = attr.IntegratedGradients(f).attribute(x, n_steps=50, method="riemann_trapezoid")
    ours = seewhy.explain(f, x, "integrated_gradients", steps=50, rule="trapezoid").values
    assert ours.sum().item() == pytest.approx(4, abs=1e-12)
    assert theirs.sum().item() == pytest.approx(4 * 49 / 50), "if this fails, Captum was mended: tell the docs"


@pytest.mark.row(21, 47)
@pytest.mark.filterwarnings("ignore")
def test_lite0_where_captum_gives_the_plain_gradient_in_silence(lite0, shipped):
    x = lite0.prepare(shipped["chelsea"])
    gradient, guided, zeiler = seewhy.explain(
        lite0, x, ["gradient", "guided_backprop", "zeiler_fergus"], target="Egyptian cat"
    )
    theirs = attr.GuidedBackprop(lite0.module).attribute(x, target=285)
    far = (guided.values - gradient.values).norm() / gradient.values.norm()
    assert (theirs - gradient.values[:, 0]).norm() / theirs.norm() < 1e-3, "if this fails, Captum was mended"
    assert far > 0.3
    assert (zeiler.values - guided.values).norm() / guided.values.norm() > 0.3


class Two(torch.nn.Module):
    """Two layers with an activation that is no module."""

    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.activation = torch.nn.Linear(6, 9), torch.nn.Linear(9, 2), activation

    def forward(self, x):
        return self.second(self.activation(self.first(x)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activation", [torch.relu, torch.nn.functional.gelu])
def test_captums_guided_backprop_is_silent_where_its_hooks_do_not_reach(activation):
    net, x = Two(activation), torch.randn(1, 6, generator=torch.Generator().manual_seed(2))
    theirs = attr.GuidedBackprop(net).attribute(x, target=1)
    plain = seewhy.explain(net, x, "gradient", target=1).values[:, 0, 0]
    assert torch.allclose(theirs, plain), "if this fails, Captum was mended"
    if activation is torch.relu:
        assert not torch.allclose(seewhy.explain(net, x, "guided_backprop", target=1).values[:, 0, 0], plain)


@pytest.mark.filterwarnings("ignore")
def test_captum_explains_a_nan():
    net, x = Two(torch.relu), torch.full((1, 6), torch.nan)
    assert attr.Saliency(net).attribute(x, target=1).isfinite().all(), "if this fails, Captum was mended"
    with pytest.raises(seewhy.InputError):
        seewhy.explain(net, x, "gradient")


def test_the_gradient_of_one_picture_where_tokens_follow_a_batch_norm():
    """torch's own gradient of a batch of one is another network's; a batch of two has it right."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = timm.create_model("levit_128s").eval().double()
        x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    pair = x.repeat(2, 1, 1, 1).requires_grad_()
    (right,) = torch.autograd.grad(net(pair)[0, 3], pair)
    ours = seewhy.explain(net, x, "gradient", target=3).values[0, 0]
    theirs = attr.Saliency(net).attribute(x.requires_grad_(), target=3, abs=False)[0]
    assert (ours - right[0]).abs().max() <= 1e-12 * right.abs().max()
    together = torch.stack([theirs.flatten(), right[0].flatten()])
    if torch.__version__.startswith("2.15"):
        assert abs(float(torch.corrcoef(together)[0, 1])) < 0.1
