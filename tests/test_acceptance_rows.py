"""Acceptance rows whose first tests could not fail: each is shown here against an independent computation."""

from collections import OrderedDict

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy.visualization import figure, path_figure
from tests.networks import random_input, small_classifier

X = random_input(2, 3, 6, 9)


class Quadratic(nn.Module):
    """Score k = sum of a_k x² / 2, whose integrated gradients are a_k (x² - b²) / 2 for every number of midpoints."""

    def __init__(self):
        super().__init__()
        self.register_buffer("a", random_input(4, 3, 6, 9))

    def forward(self, x):
        return (self.a * x[:, None] ** 2 / 2).flatten(2).sum(2)


BASELINES = {
    "number": 0.7,
    "tensor": random_input(3, 6, 9) + 1,
    "per channel": torch.tensor([0.5, -1.0, 2.0]).view(3, 1, 1),
}


@pytest.mark.row(25, 30, 31, 32)
@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("steps", [1, 7])
def test_integrated_gradients_with_nonzero_baseline(baseline, steps):
    net = Quadratic()
    e = seewhy.explain(net, X, "integrated_gradients", target=2, baseline=baseline, steps=steps)
    start = torch.as_tensor(baseline, dtype=torch.float64).expand(3, 6, 9)
    expected = net.a[2] * (X**2 - start**2) / 2
    torch.testing.assert_close(e.values[:, 0], expected)
    torch.testing.assert_close(e.maps[:, 0].double(), expected.abs().sum(1), rtol=1e-5, atol=1e-6)
    flat = e.maps[:, 0].flatten(1)
    scaled = (flat - flat.amin(1, keepdim=True)) / (flat.amax(1) - flat.amin(1))[:, None]
    torch.testing.assert_close(e.scaled[:, 0].flatten(1), scaled)
    difference = net(X)[:, 2] - net(start[None])[:, 2]
    torch.testing.assert_close(e.values.flatten(1).sum(1) - e.convergence_delta[:, 0].double(), difference)


@pytest.mark.row(30)
def test_integrated_gradients_endpoints_rule_with_nonzero_baseline():
    """Source A: the sum of 25 gradients, both ends at full weight, times the difference image, rescaled."""
    net, start = small_classifier(), random_input(3, 6, 9) + 1
    e = seewhy.explain(net, X, "integrated_gradients", target=1, baseline=start, steps=25, rule="endpoints")
    total = torch.zeros_like(X)
    for n in range(25):
        point = (start + n / 24 * (X - start)).requires_grad_()
        total += torch.autograd.grad(net(point)[:, 1].sum(), point)[0]
    picture = (total * (X - start)).abs().sum(1).flatten(1)
    picture = (picture - picture.amin(1, keepdim=True)) / (picture.amax(1) - picture.amin(1))[:, None]
    torch.testing.assert_close(e.scaled[:, 0].flatten(1).double(), picture, rtol=1e-4, atol=1e-6)


@pytest.mark.row(32)
def test_integrated_gradients_convergence_delta_shows_too_few_steps():
    net, start = small_classifier(), random_input(3, 6, 9) + 1
    difference = (net(X) - net(start[None].expand(2, -1, -1, -1)))[:, [1]]
    difference, deltas = difference.detach(), []
    for steps in (1, 64):
        e = seewhy.explain(net, X, "integrated_gradients", target=1, baseline=start, steps=steps)
        delta = e.values.flatten(2).sum(2) - difference
        torch.testing.assert_close(e.convergence_delta.double(), delta, rtol=1e-6, atol=1e-9)
        deltas.append(float(delta.abs().max()))
    assert deltas[1] < deltas[0] / 4


@pytest.mark.row(49)
@pytest.mark.parametrize("count", [0, 6, 7, 8, 9])
def test_randomize_count_is_the_number_of_further_layers(count):
    net = nn.Sequential(nn.Flatten(), *(nn.Linear(4, 4) for _ in range(14)))
    randomized = seewhy.randomize(net, 3, count=count, x=torch.rand(1, 4))
    names = {name.partition(".")[0] for name in randomized.randomized}
    assert names == {str(index) for index in range(2, 3 + count)}
    before, after = net.state_dict(), randomized.module.state_dict()
    assert {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])} == names


CITATIONS = {
    "gradient": "Simonyan et al. 2014",
    "guided_backprop": "Springenberg et al. 2015",
    "zeiler_fergus": "Zeiler and Fergus 2014",
    "integrated_gradients": "Sundararajan et al. 2017",
}


@pytest.mark.row(37)
@pytest.mark.parametrize(("method", "citation"), CITATIONS.items())
def test_methods_of_the_first_source_cite_its_references(method, citation):
    assert seewhy.METHODS[method].paper.startswith(citation)
    assert citation in seewhy.explain(small_classifier(), X, method, target=1).description


@pytest.mark.row(37)
def test_weight_randomization_checks_cite_their_reference():
    assert seewhy.CHECKS["T1"].paper.startswith("Adebayo et al. 2018")
    assert seewhy.CHECKS["T2"].paper.startswith("Adebayo et al. 2018")


class Recording(nn.Module):
    """A classifier that records which class each backward pass starts from; deep copies record in the same list."""

    explained: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.net = small_classifier()

    def forward(self, x):
        logits = self.net(x)
        if logits.requires_grad:
            best = logits.detach().argmax(1)
            logits.register_hook(
                lambda g: self.explained.append((id(self.net), best.tolist(), g.abs().argmax(1).tolist()))
            )
        return logits


@pytest.mark.row(44)
def test_check_explains_the_class_of_the_trained_network_in_every_network():
    net, x = Recording(), random_input(5, 3, 6, 9)
    best = net(x).argmax(1).tolist()
    Recording.explained.clear()
    seewhy.check(net, x, ["gradient"], target=None)
    other = [entry for entry in Recording.explained if entry[0] != id(net.net)]
    assert {len(entry[2]) for entry in other} <= {1, 2, 3, 4, 5}
    whole = [explained for _, _, explained in other if len(explained) == 5]
    parts = [explained for _, _, explained in other if len(explained) < 5]
    assert all(explained == best for explained in whole)
    assert all(explained in (best[:4], best[4:]) for explained in parts)
    assert whole or parts
    predicted = [entry[1] for entry in other]
    assert any(p not in (best, best[:4], best[4:]) for p in predicted), "some randomized network prefers another class"


@pytest.mark.row(44)
def test_explain_takes_the_best_class_of_each_sample():
    x = random_input(8, 3, 6, 9)
    best = small_classifier()(x).argmax(1)
    assert len(set(best.tolist())) > 1
    assert torch.equal(seewhy.explain(small_classifier(), x, "gradient").targets[:, 0], best)


def titles(page):
    return [axis.get_title() for axis in page.axes if axis.get_title()]


@pytest.fixture(scope="module")
def cat(lite0, shipped):
    x = lite0.prepare(shipped["chelsea"])
    methods = ["gradient", "guided_backprop", "zeiler_fergus", "integrated_gradients"]
    return x, seewhy.explain(lite0, x, methods), seewhy.predict(lite0, x)


@pytest.mark.row(7, 18, 22, 23, 31)
@pytest.mark.parametrize(
    ("index", "name"), list(enumerate(["Gradient", "Guided backprop", "Zeiler-Fergus", "Integrated gradients"]))
)
def test_default_titles_name_the_method_and_the_class(cat, index, name):
    _, explanations, prediction = cat
    page = figure(explanations[index])
    ((label, _, probability), *_) = next(iter(prediction))
    assert label == "Egyptian cat"
    assert page.get_suptitle() == f"Egyptian cat ({probability:.2f})"
    assert titles(page) == ["Input", name]


@pytest.mark.row(33, 60)
def test_default_titles_of_four_techniques_on_one_sheet(cat):
    _, explanations, _ = cat
    page = figure(explanations)
    assert titles(page) == ["Input", "Gradient", "Guided backprop", "Zeiler-Fergus", "Integrated gradients"]
    assert page.get_suptitle().startswith("Egyptian cat (0.")


@pytest.mark.row(60, 61)
def test_title_from_label_and_probability(cat):
    """Source B titles a picture "label (NN%)" and a sheet by its kind of randomization."""
    _, explanations, prediction = cat
    ((_, _, probability), *_) = next(iter(prediction))
    e = explanations[0]
    title = f"{e.labels[0][0]} ({float(e.probabilities[0, 0]):.0%})"
    assert title == f"Egyptian cat ({round(100 * probability)}%)"
    page = figure(e, title=title)
    assert page.get_suptitle() == title
    assert titles(page) == ["Input", "Gradient"]


@pytest.mark.row(28)
def test_default_title_of_the_path(cat, lite0):
    assert (
        path_figure(seewhy.path(lite0, cat[0]), lite0.preparation).get_suptitle() == "Images along the integration path"
    )


class Rectifiers(nn.Module):
    """A rectifier as a module, a function, in place, and one module used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
        self.relu = nn.ReLU()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        x = self.relu(self.a(x))
        x = F.relu(self.b(x))
        x = self.c(x).relu_()
        return self.head(self.relu(self.d(x)).mean((2, 3)))


def by_hand(net, x, k, rule):
    """Backpropagation written out: `rule`(input of the ReLU, gradient at its output) is the gradient at its input."""
    kept, value = [], x
    for layer in (net.a, net.b, net.c, net.d):
        before = layer(value)
        kept.append((value, layer, before))
        value = before.clamp(min=0)
    gradient = net.head.weight[k].view(1, 3, 1, 1).expand_as(value) / value[0, 0].numel()
    for _, layer, before in reversed(kept):
        gradient = rule(before, gradient)
        gradient = F.conv_transpose2d(gradient, layer.weight, padding=1)
    return gradient


RULES = {
    "gradient": lambda x, g: g * (x > 0),
    "guided_backprop": lambda x, g: g * (x > 0) * (g > 0),
    "zeiler_fergus": lambda x, g: g * (g > 0),
}


@pytest.mark.row(19, 20, 21, 23, 47)
@pytest.mark.parametrize(("method", "rule"), RULES.items())
def test_backward_rule_holds_for_every_kind_of_rectifier(method, rule):
    net = Rectifiers().double().eval()
    modules, state = [type(m) for m in net.modules()], {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        forward, expected = net(X), by_hand(net, X, 2, rule)
    e = seewhy.explain(net, X, method, target=2)
    torch.testing.assert_close(e.values[:, 0], expected)
    assert torch.equal(e.output, forward), "the forward pass is that of the network, max(x, 0)"
    assert [type(m) for m in net.modules()] == modules
    assert [name for name, _ in net.named_modules()] == ["", "a", "b", "c", "d", "relu", "head"]
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.row(47)
def test_three_backward_rules_give_three_maps():
    net = Rectifiers().double().eval()
    maps = [e.values for e in seewhy.explain(net, X, list(RULES), target=2)]
    assert not any(torch.allclose(a, b) for i, a in enumerate(maps) for b in maps[:i])


@pytest.mark.row(82)
def test_overlay_alpha_zero_is_the_picture_and_alpha_one_the_map():
    e = seewhy.explain(small_classifier(), X[:1], "gradient", target=1)
    custom = np.linspace([0.1, 0.0, 0.2], [1.0, 0.9, 0.0], 64)

    def panels(**options):
        return [np.asarray(axis.images[0].get_array(), float) for axis in figure(e, cmap=custom, **options).axes[:2]]

    picture, alone = panels()
    _, at_zero = panels(alpha=0.0)
    _, at_one = panels(alpha=1.0)
    picture = picture if picture.max() > 1 else picture * 255
    assert np.abs(at_zero - picture).max() <= 1
    assert np.array_equal(at_one, alone)
    assert np.abs(alone.reshape(-1, 3)[:, None] - custom * 255).max(2).min(1).max() <= 1, (
        "colors of the custom map only"
    )
    assert np.abs(at_one - picture).max() > 20


@pytest.mark.row(102, 103, 104, 106)
@pytest.mark.parametrize("size", [(2,), (7,), (64,), (6, 9), (5, 6, 9)], ids=str)
@pytest.mark.parametrize("wrapped", ["tensor", "tuple", "dictionary"])
def test_gradcam_on_sequence_picture_and_volume(size, wrapped):
    """Grad-CAM written out, for any length of a sequence, and for networks with tuple or dictionary outputs."""
    rank = len(size)
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    torch.manual_seed(0)
    first, head = convolution(3, 5, 3, padding=1).double(), nn.Linear(5, 4).double()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.relu, self.head = first, nn.ReLU(), head

        def forward(self, x):
            scores = self.head(self.relu(self.first(x)).square().flatten(2).mean(2))
            return {"tensor": scores, "tuple": (scores, x), "dictionary": {"logits": scores, "aux": x}}[wrapped]

    x = random_input(2, 3, *size)
    target = {"tensor": 2, "tuple": lambda o: o[0][:, 2], "dictionary": lambda o: o["logits"][:, 2]}[wrapped]
    e = seewhy.explain(Net(), x, "gradcam", target=target, feature_layer="relu")
    features = first(x).relu().detach().requires_grad_()
    score = head(features.square().flatten(2).mean(2))[:, 2].sum()
    (gradient,) = torch.autograd.grad(score, features)
    weights = gradient.flatten(2).mean(2).view(2, 5, *[1] * rank)
    torch.testing.assert_close(e.maps[:, 0].double(), (weights * features).sum(1).relu().detach(), rtol=1e-5, atol=1e-7)
    assert e.maps.shape == (2, 1, *size)


@pytest.mark.row(116)
def test_device_cuda_without_a_gpu_is_an_error():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for device in ("cuda", "gpu"):
        with pytest.raises(seewhy.OptionError, match=f"device='{device}'.*'cpu'"):
            seewhy.explain(small_classifier(), X, "gradient", device=device)


@pytest.mark.row(116)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("device", ["cuda", "gpu"])
def test_device_cuda_computes_on_the_gpu(device):
    seen = []

    def score(x):
        seen.append(x.device.type)
        return x.flatten(1)[:, :4]

    assert seewhy.explain(score, X, "gradient", target=1, device=device).values.device.type == "cpu"
    assert set(seen) == {"cuda"}


class Stop(Exception):
    pass


@pytest.mark.row(117)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_device_is_where_a_function_is_evaluated(device):
    """The meta device stands for another device than the CPU, so that a device that is ignored is found."""
    seen = []

    def score(x):
        seen.append(x.device.type)
        raise Stop

    with pytest.raises(seewhy.ModelError, match="Stop"):
        seewhy.explain(score, X, "occlusion", target=1, device=device)
    assert set(seen) == {device}


@pytest.mark.row(108, 123)
def test_gradcam_with_reduction_layer_prob_and_jet_overlay():
    """The probability after the softmax layer is explained, not the logit; the overlay is half picture, half jet."""
    net = nn.Sequential(
        OrderedDict([*((f"l{i}", layer) for i, layer in enumerate(small_classifier())), ("prob", nn.Softmax(1))])
    )
    e = seewhy.explain(net, X[:1], "gradcam", target=1, score="probability", feature_layer="l3", reduction_layer="prob")
    assert (e.feature_layer, e.reduction_layer) == ("l3", "prob")
    features = net[:4](X[:1]).detach().requires_grad_()
    logits = net[4:-1](features)
    maps = []
    for score in (logits.softmax(1)[:, 1], logits[:, 1]):
        (gradient,) = torch.autograd.grad(score.sum(), features, retain_graph=True)
        maps.append((gradient.mean((2, 3), keepdim=True) * features).sum(1).relu().detach())
    torch.testing.assert_close(e.values[:, 0, 0].double(), maps[0], rtol=1e-5, atol=1e-9)
    assert not torch.allclose(maps[0] / maps[0].max(), maps[1] / maps[1].max(), atol=1e-3)
    page = figure(e, alpha=0.5, cmap="jet", percentile=100)
    picture, shown = (np.asarray(axis.images[0].get_array(), float) for axis in page.axes[:2])
    picture = picture if picture.max() > 1 else picture * 255
    expected = 0.5 * picture + 0.5 * mpl.colormaps["jet"](e.scaled[0, 0].double().numpy())[..., :3] * 255
    assert np.abs(shown - expected).mean() < 2
