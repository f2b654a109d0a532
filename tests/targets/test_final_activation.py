"""Networks that end in a softmax or sigmoid: the logit is what enters it, the probability what leaves it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import seewhy
from seewhy import targets

X = torch.randn(2, 3, 6, 9, generator=torch.Generator().manual_seed(5)).double()


def body(classes=5):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)
    net = nn.Sequential(*layers).double()
    net[4].bias.data.mul_(5)
    return net


class Ending(nn.Module):
    """The classifier, followed by a function."""

    def __init__(self, end, net=None):
        super().__init__()
        self.body, self.end = body() if net is None else net, end

    def forward(self, x):
        return self.end(self.body(x))


def gradient(score, x=X):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(x).sum(), x)[0]


def copied_in_place(z):
    return z.mul(1).sigmoid_()


ENDINGS = {
    "layer": (nn.Softmax(1), "softmax"),
    "layer over positions": (lambda z: nn.Softmax2d()(z[:, :, None, None]), "softmax"),
    "function": (lambda z: F.softmax(input=z, dim=1), "softmax"),
    "moved": (lambda z: z[:, :, None, None].softmax(1).flatten(1).to(torch.float64), "softmax"),
    "in parts": (lambda z: torch.cat([one.softmax(1) for one in z.split(1)]), "softmax"),
    "log": (nn.LogSoftmax(1), "log_softmax"),
    "sigmoid layer": (nn.Sigmoid(), "sigmoid"),
    "sigmoid in place": (copied_in_place, "sigmoid"),
    "some sigmoids": (lambda z: torch.sigmoid(torch.cat([z, z], 1))[:, :5], "sigmoid"),
}


@pytest.mark.parametrize("score", ["logit", "margin", "probability", "log_probability"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_scores_before_and_after_the_final_activation(ending, score):
    end, kind = ENDINGS[ending]
    net = Ending(end)
    e = seewhy.explain(net, X, "gradient", target=[3, 0, 1], score=score)
    single = kind == "sigmoid"
    for k, c in enumerate((3, 0, 1)):
        others = [i for i in range(5) if i != c]
        probability = (lambda z, c=c: z.sigmoid()[:, c]) if single else (lambda z, c=c: z.softmax(1)[:, c])
        formula = {
            "logit": lambda z, c=c: z[:, c],
            "margin": lambda z, c=c, o=others: z[:, c] - (0 if single else z[:, o].logsumexp(1)),
            "probability": probability,
            "log_probability": lambda z, p=probability: p(z).log(),
        }[score]
        torch.testing.assert_close(e.scores[:, k], formula(net.body(X)).detach())
        torch.testing.assert_close(e.values[:, k], gradient(lambda x, f=formula: f(net.body(x))))
        torch.testing.assert_close(e.probabilities[:, k], probability(net.body(X)).detach())
    assert torch.equal(e.output, net(X).detach())
    note = f"the {kind} at the end of the network is left out: the score is the logit before it"
    assert e.notes == ((note,) if score == "logit" else ())


@pytest.mark.parametrize("end", [
    lambda z: 2 * z.sigmoid(), lambda z: z.softmax(0), lambda z: z.softmax(1)[:, :3],
    lambda z: torch.sigmoid(z).pow(2), lambda z: z.softmax(1).exp(), nn.Identity(),
    lambda z: torch.cat([z[:, :2].softmax(1), z[:, 2:].softmax(1)], 1)])  # fmt: skip
def test_outputs_that_are_no_final_activation_are_unchanged(end):
    net = Ending(end)
    e = seewhy.explain(net, X, "gradient", target=1, probe=False)  # one of them mixes the samples
    torch.testing.assert_close(e.scores[:, 0], net(X)[:, 1].detach())
    torch.testing.assert_close(e.values[:, 0], gradient(lambda x: net(x)[:, 1]))
    assert not any("left out" in note for note in e.notes)


def test_logits_that_are_masked_with_infinity_are_not_explained():
    """An infinite logit has no gradient; the probability has one."""
    net = Ending(lambda z: z.masked_fill(torch.arange(5) == 2, -torch.inf).softmax(1))
    e = seewhy.explain(net, X, "gradient", target=[1, 2])
    assert torch.isfinite(e.values).all()
    assert torch.equal(e.scores, net(X)[:, [1, 2]].detach())


def test_unknown_probabilities_get_no_softmax():
    """A softmax that is not observed, as in a black box, is noted and not followed by a second one."""
    net = Ending(lambda z: z.exp() / z.exp().sum(1, keepdim=True))
    e = seewhy.explain(net, X, "gradient", target=1, probe=False)  # one of them mixes the samples
    torch.testing.assert_close(e.scores[:, 0], net(X)[:, 1].detach())
    assert any("probabilities already" in note for note in e.notes)
    with pytest.raises(seewhy.OptionError, match="adds a softmax"):
        seewhy.explain(net, X, "gradient", target=1, score="margin")


def test_functions_of_the_output_receive_the_output():
    """A function of one's own sees what the network returns; the ready-made ones of classes see the logits."""
    net = Ending(nn.Softmax(1))
    own = seewhy.explain(net, X, "gradient", target=lambda p: p[:, 1].square())
    torch.testing.assert_close(own.values[:, 0], gradient(lambda x: net(x)[:, 1].square()))
    assert not own.notes
    ready = seewhy.explain(net, X, "gradient", target=targets.contrast(0, [1, 2]))
    plain = seewhy.explain(net.body, X, "gradient", target=targets.contrast(0, [1, 2]))
    assert torch.equal(ready.values, plain.values)
    assert "left out" in ready.notes[0]
    embedding = torch.ones(5).double()
    similar = seewhy.explain(net, X, "gradient", target=targets.similarity(embedding))
    torch.testing.assert_close(similar.scores[:, 0], F.cosine_similarity(net(X), embedding[None]).detach())


@pytest.mark.parametrize("method", ["gradcam", "integrated_gradients", "occlusion", "rise", "scorecam", "ablationcam",
                                    "fullgrad", "kernel_shap", "guided_backprop"])  # fmt: skip
@pytest.mark.parametrize("ending", ["layer", "sigmoid layer"])
def test_every_family_explains_the_logit(method, ending):
    options = {
        "rise": {"samples": 40, "cells": 3},
        "kernel_shap": {"features": 4, "segments": "grid"},
        "occlusion": {"mask_size": 3},
        "integrated_gradients": {"steps": 4},
    }.get(method, {})
    net = Ending(ENDINGS[ending][0])
    e, plain = (seewhy.explain(n, X, method, target=[1, 2], **options) for n in (net, net.body))
    torch.testing.assert_close(e.values, plain.values, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(e.scores, plain.scores)


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients", "rise"])
@pytest.mark.parametrize("ending", ["layer", "sigmoid layer"])
def test_probability_at_other_inputs(method, ending):
    """Masked and interpolated inputs are scored like the output itself."""
    net = Ending(ENDINGS[ending][0])
    options = {"occlusion": {"mask_size": 3}, "rise": {"samples": 40, "cells": 3}}.get(method, {"steps": 4})
    e = seewhy.explain(net, X, method, target=2, score="probability", **options)
    direct = seewhy.explain(net, X, method, target=lambda p: p[:, 2], **options)
    torch.testing.assert_close(e.values, direct.values, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(e.scores, direct.scores)


def test_activation_without_gradient_is_refused_like_any_other_output():
    net = Ending(torch.no_grad()(lambda z: z.softmax(1)))
    with pytest.raises(seewhy.ModelError, match="does not depend on the input through autograd"):
        seewhy.explain(net, X, "gradient", target=1)


def test_result_that_is_changed_in_place_is_no_final_activation():
    p = seewhy.predict(Ending(lambda z: z.sigmoid().mul_(0.999)), X, top=5)
    assert p.notes == ()
    torch.testing.assert_close(p.probabilities.sum(1), torch.ones(2).double())


def test_segmentation_that_ends_in_a_sigmoid():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1), nn.Sigmoid()).double()
    e = seewhy.explain(net, X, "gradient", target=1)
    torch.testing.assert_close(e.values[:, 0], gradient(lambda x: net[:3](x)[:, 1].sum((1, 2))))
    p = seewhy.explain(net, X, "gradient", target=1, score="probability")
    torch.testing.assert_close(p.scores[:, 0], net(X)[:, 1].sum((1, 2)).detach())
    torch.testing.assert_close(p.values[:, 0], gradient(lambda x: net(x)[:, 1].sum((1, 2))))


def test_single_sigmoid_has_all_scores():
    net = Ending(nn.Sigmoid(), body(1))
    for score in ("margin", "probability", "log_probability"):
        e = seewhy.explain(net, X, "gradient", score=score)
        expected = {"margin": net.body(X), "probability": net(X), "log_probability": net(X).log()}[score]
        torch.testing.assert_close(e.scores, expected.detach())
        torch.testing.assert_close(e.probabilities, net(X).detach())


def test_features_that_are_the_final_activation():
    """Where the activation itself is the feature layer, the scores must depend on it, so they are its results."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Sigmoid()).double()
    e = seewhy.explain(net, X, ["gradcam", "guided_gradcam"], target=1, feature_layer="1", upsample="none")[0]
    torch.testing.assert_close(e.values[:, 0, 0], net(X)[:, 1].detach())


@pytest.mark.parametrize("kind", ["deletion", "insertion"])
def test_metrics_use_the_probability_of_a_sigmoid(kind):
    net, x = Ending(nn.Sigmoid()), X[:1]
    e = seewhy.explain(net, x, "gradient", target=2)
    start = {"deletion": 0 * x, "insertion": x}[kind]
    value = seewhy.measure(net, e, kind, steps=1, fill=0).mean
    assert value == pytest.approx(net(start)[0, 2].item(), abs=1e-12)


def test_activations_inside_the_network_are_not_kept():
    """Inputs of activations are kept only as long as their results exist."""
    from seewhy.tracing.final_activation import observe_final_activations

    with observe_final_activations() as observer:
        z = torch.randn(3, 4, requires_grad=True)
        hidden = (2 * z).sigmoid()
        kept = len(observer.calls)
        total = hidden.sum()
        del hidden
        assert (kept, len(observer.calls)) == (1, 0)
    total.backward()
