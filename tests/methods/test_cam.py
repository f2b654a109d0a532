"""CAM: equal to the linear layer's weights on every pooled head, and refused with the reason on every other head."""

import pytest
import torch
from tests.networks import random_input, with_random_weights
from torch import nn
from torch.nn import functional as F

import seewhy


class HeadedNetwork(nn.Module):
    """Two convolutions and a rectifier, followed by a head: a function of the features and of the network."""

    def __init__(self, head, rank=2):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.first, self.second, self.rectifier = conv(3, 5, 3, padding=1), conv(5, 6, 3, padding=1), nn.ReLU()
        self.linear, self.hidden, self.flat = nn.Linear(6, 4), nn.Linear(6, 6), nn.Linear(6 * 54, 4)
        self.corners = nn.Linear(24, 4)
        self.point, self.dropout, self.norm = nn.Conv2d(6, 4, 1), nn.Dropout(0.5), nn.LayerNorm(6)
        self.side, self.head = nn.Linear(3, 4), head

    def forward(self, x):
        return self.head(self.rectifier(self.second(self.first(x).relu())), self)


def network(head, rank=2):
    return with_random_weights(HeadedNetwork(head, rank).double())


def explain_cam(net, x, method="cam", **options):
    return seewhy.explain(net, x, method, **{"feature_layer": "rectifier", "upsample": "none", **options})


def features_of(net, x):
    with torch.no_grad():
        return net.rectifier(net.second(net.first(x).relu()))


POOLED_HEADS = {  # and which layer has the weights
    "mean": (lambda f, net: net.linear(f.mean((2, 3))), "linear"),
    "mean, axis by axis": (lambda f, net: net.linear(f.mean(3).mean(2)), "linear"),
    "flatten, then mean": (lambda f, net: net.linear(f.flatten(2).mean(2)), "linear"),
    "sum times a constant": (lambda f, net: net.linear(f.sum((2, 3)) / 54), "linear"),
    "matrix product plus bias": (lambda f, net: f.mean((2, 3)) @ net.linear.weight.T + net.linear.bias, "linear"),
    "adaptive pooling, flatten": (lambda f, net: net.linear(F.adaptive_avg_pool2d(f, 1).flatten(1)), "linear"),
    "pooling of everything": (lambda f, net: net.linear(F.avg_pool2d(f, (6, 9)).flatten(1)), "linear"),
    "dropout": (lambda f, net: net.linear(net.dropout(f.mean((2, 3)))), "linear"),
    "squeeze": (lambda f, net: net.linear(f.mean((2, 3), keepdim=True).squeeze(3).squeeze(2)), "linear"),
    "channels last": (lambda f, net: net.linear(f.permute(0, 2, 3, 1).mean((1, 2))), "linear"),
    "1 × 1 convolution after pooling": (lambda f, net: net.point(F.adaptive_avg_pool2d(f, 1)).flatten(1), "point"),
}
X = random_input(2, 3, 6, 9)


@pytest.mark.parametrize("name", POOLED_HEADS)
def test_cam_equals_weights_times_features(name):
    """Exactly the formula of the paper, for two samples and several targets, with positive and negative values."""
    head, layer = POOLED_HEADS[name]
    net = network(head)
    weights = getattr(net, layer).weight.detach().flatten(1)
    values = explain_cam(net, X, target=[0, 3, 1]).values
    expected = torch.einsum("kc,ncij->nkij", weights[[0, 3, 1]], features_of(net, X))
    assert torch.allclose(values[:, :, 0], expected, rtol=1e-12, atol=1e-12)
    assert values.min() < -0.01 < 0.01 < values.max()
    with torch.no_grad():
        residual = values.flatten(2).mean(2) + getattr(net, layer).bias[[0, 3, 1]] - net(X)[:, [0, 3, 1]]
    assert residual.abs().max() < 1e-12, "the mean of the map plus the bias is the logit"


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_cam_is_gradcam_times_positions_before_the_rectifier(rank):
    net, x = network(lambda f, net: net.linear(f.flatten(2).mean(2)), rank), random_input(2, 3, *(6, 9, 4)[:rank])
    cam, gradcam = (explain_cam(net, x, method, target=[2, 0]).values for method in ("cam", "gradcam"))
    assert cam.shape == (2, 2, 1, *x.shape[2:])
    assert torch.allclose(cam.relu() / x[0, 0].numel(), gradcam, rtol=1e-12, atol=1e-12)
    assert cam.min() < 0


def test_cam_with_target_per_sample_and_contrast_target():
    net = network(POOLED_HEADS["mean"][0])
    both = explain_cam(net, X, target=[0, 3]).values[:, :, 0]
    per_sample = explain_cam(net, X, target=torch.tensor([3, 0])).values[:, 0, 0]
    assert torch.allclose(per_sample, torch.stack([both[0, 1], both[1, 0]]), rtol=1e-12)
    contrast = explain_cam(net, X, target=lambda z: z[:, 0] - z[:, 3]).values[:, 0, 0]
    assert torch.allclose(contrast, both[:, 0] - both[:, 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("in_place", [False, True])
def test_cam_does_not_depend_on_methods_of_the_same_call(in_place):
    """With the gradient at the input, the operations before the layer are recorded too; also those overwritten."""
    net = network(POOLED_HEADS["mean"][0])
    net.rectifier.inplace = in_place
    alone = explain_cam(net, X, target=1).values
    together = seewhy.explain(net, X, ["gradient", "cam"], target=1, feature_layer="rectifier", upsample="none")
    assert torch.equal(together[1].values, alone)


def attention(f, net):
    tokens = f.flatten(2).transpose(1, 2)
    return net.linear(F.scaled_dot_product_attention(tokens, tokens, tokens).mean(1))


REFUSED_HEADS = {
    "two linear layers": (lambda f, net: net.linear(net.hidden(f.mean((2, 3)))), r"2 linear layers follow it"),
    "a rectifier between linear layers": (
        lambda f, net: net.linear(net.hidden(f.mean((2, 3))).relu()),
        "computed from it with relu",
    ),
    "an additional rectifier": (lambda f, net: net.linear((f - 1).relu().mean((2, 3))), "from it with relu"),
    "max pooling": (lambda f, net: net.linear(F.adaptive_max_pool2d(f, 1).flatten(1)), "adaptive_max_pool2d"),
    "maximum": (lambda f, net: net.linear(f.amax((2, 3))), "from it with amax"),
    "flatten without pooling": (lambda f, net: net.flat(f.flatten(1)), "linear is applied to it without a mean"),
    "four pooled positions": (
        lambda f, net: net.corners(F.adaptive_avg_pool2d(f, 2).flatten(1)),
        "the positions have different weights",
    ),
    "mean over some positions": (lambda f, net: net.linear(f[:, :, 1:].mean((2, 3))), "positions have different"),
    "convolution before pooling": (
        lambda f, net: net.point(f).mean((2, 3)),
        "convolution is applied to it without a mean over the positions before",
    ),
    "normalization": (lambda f, net: net.linear(net.norm(f.mean((2, 3)))), "from it with layer_norm"),
    "attention": (attention, "from it with (softmax|attention)"),
    "two branches": (
        lambda f, net: net.linear(f.mean((2, 3))) + net.linear(f.mean((2, 3)) * 2),
        "2 linear layers follow it",
    ),
    "branches of one linear layer": (lambda f, net: net.linear(f.mean((2, 3)) + f.sum((2, 3))), "joined by add"),
    "gate": (lambda f, net: net.linear(f.mean((2, 3)) * f.sum((2, 3))), "joined by mul"),
    "no linear layer": (lambda f, net: f.mean((2, 3)), "no linear layer follows it"),
}


@pytest.mark.parametrize("name", REFUSED_HEADS)
def test_cam_refuses_other_heads_with_the_reason(name):
    head, reason = REFUSED_HEADS[name]
    with pytest.raises(seewhy.ModelError, match=rf"'rectifier' by the mean over its positions.*{reason}") as caught:
        explain_cam(network(head), X, target=1)
    assert "feature_layer, if there is one, or use gradcam, " in str(caught.value)
    assert explain_cam(network(head), X, "gradcam", target=1).values.isfinite().all()


@pytest.mark.parametrize("methods", ["cam", ["gradient", "cam"]])
def test_cam_refuses_a_path_that_bypasses_the_layer(methods):
    """Also if only the part of the network after the layer is recorded."""

    class Bypass(HeadedNetwork):
        def forward(self, x):
            return super().forward(x) + self.side(x.mean((2, 3)))

    net = with_random_weights(Bypass(POOLED_HEADS["mean"][0]).double())
    with pytest.raises(seewhy.ModelError, match="other paths from the input to the score bypass it"):
        explain_cam(net, X, methods, target=1)


@pytest.mark.parametrize("score", ["probability", "log_probability", "margin"])
def test_cam_refuses_scores_that_are_not_linear_in_the_logits(score):
    with pytest.raises(seewhy.ModelError, match=rf"score='{score}' is not linear in the logits: use score='logit'"):
        explain_cam(network(POOLED_HEADS["mean"][0]), X, target=1, score=score)


def test_cam_refuses_an_earlier_layer():
    with pytest.raises(seewhy.ModelError, match=r"layer 'first' .* computed from it with relu"):
        explain_cam(network(POOLED_HEADS["mean"][0]), X, target=1, feature_layer="first")


@pytest.mark.parametrize("alias", ["CAM", "class_activation_map", "Class Activation Mapping"])
def test_cam_aliases(alias):
    assert explain_cam(network(POOLED_HEADS["mean"][0]), X, alias, target=1).method == "cam"


def test_cam_on_lite0_equals_weights_times_features(lite0, shipped):
    """At the default layer, the last activation before the pooling."""
    x = lite0.prepare(shipped["chelsea"])
    e = seewhy.explain(lite0, x, "cam", target=[285, 281], upsample="none")
    recorded = []
    handle = lite0.module.get_submodule(e.feature_layer).register_forward_hook(lambda _m, _x, out: recorded.append(out))
    with torch.no_grad():
        logits = lite0.module(x)
    handle.remove()
    linear = next(m for m in reversed(list(lite0.module.modules())) if isinstance(m, nn.Linear))
    expected = torch.einsum("kc,ncij->nkij", linear.weight[[285, 281]], recorded[0])
    assert (e.values[:, :, 0] - expected).abs().max() < 1e-5 * expected.abs().max()
    assert e.values.flatten(2).mean(2)[0].tolist() == pytest.approx(
        (logits[0, [285, 281]] - linear.bias[[285, 281]]).tolist(), abs=1e-4
    )
