"""The fields of the table of methods are true: they are compared with what the methods compute."""

from dataclasses import replace

import pytest
import torch
from tests.networks import network_for, random_input, with_random_weights
from torch import nn

import seewhy
from seewhy.engine.families import FAMILIES
from seewhy.methods import METHODS, Capability, method_identity

X = random_input(3, 3, 6, 9)


class SignedFeatures(nn.Module):
    """A network whose feature layer has values of both signs, and whose head is mean pooling and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(3, 5, 3, padding=1),
            nn.Conv2d(5, 6, 3),
            nn.Linear(6, 4, bias=False),
        )

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).mean((2, 3)))


@pytest.mark.parametrize("name", METHODS)
def test_signed_methods_have_negative_values_and_others_have_none(name):
    method = METHODS[name]
    family, options = FAMILIES[method.family], dict(method.quick_options)
    options |= {"feature_layer": "second"} if family.uses_layer else {}
    options |= {"surrogate": "linear"} if "surrogate" in method.options else {}
    net = network_for(name) if family.uses_attention else with_random_weights(SignedFeatures().double())
    values = seewhy.explain(net, X, name, target=[0, 1, 2, 3], **options).values
    assert bool((values < 0).any()) == method.signed


@pytest.mark.parametrize("name", METHODS)
def test_stochastic_methods_depend_on_the_seed_and_others_do_not(name):
    first, second = (
        seewhy.explain(network_for(name), X, name, target=1, seed=seed, **METHODS[name].quick_options).values
        for seed in (1, 2)
    )
    assert torch.equal(first, second) != METHODS[name].stochastic


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if m.family != "input"])
def test_maps_of_two_classes_are_equal_only_with_class_agnostic_methods(name):
    """The controls do not depend on the network, but are not marked, so that `check` detects it."""
    values = seewhy.explain(network_for(name), X, name, target=[0, 2], **METHODS[name].quick_options).values
    assert torch.equal(values[:, 0], values[:, 1]) == METHODS[name].class_agnostic


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if m.complete])
def test_complete_methods_sum_to_score_minus_baseline_score(name):
    """The values sum to it up to the reported `convergence_delta`, for a baseline of zeros."""
    net, method = network_for(name), METHODS[name]
    baseline = {"baseline": 0, "mask_value": 0, "references": torch.zeros(1, 3, 6, 9)}
    options = {key: value for key, value in baseline.items() if key in method.options}
    e = seewhy.explain(net, X, name, target=[0, 2], **method.quick_options, **options)
    parts = e.extras["importances"] if "importances" in e.extras else e.values.flatten(2)
    with torch.no_grad():
        difference = net(X)[:, [0, 2]] - net(0 * X[:1])[:, [0, 2]]
    assert torch.allclose(parts.sum(2), difference + e.convergence_delta, rtol=1e-9, atol=1e-12)
    if "segments" in method.options:
        assert e.convergence_delta.abs().max() < 1e-12 * difference.abs().max()


WITHOUT_GRADIENTS = [
    name for name, m in METHODS.items() if FAMILIES[m.family].uses_layer and Capability.GRADIENTS not in m.requires
]


class WithoutGradients(nn.Module):
    """A network that computes its scores outside autograd."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, x):
        return self.net(x).detach()


@pytest.mark.parametrize("name", WITHOUT_GRADIENTS)
def test_layer_methods_that_require_no_gradients_need_none(name):
    net, layer = network_for(name), "1"
    model = seewhy.wrap(WithoutGradients(net))
    model = replace(model, capabilities=Capability.SCORES | Capability.LAYERS)
    expected = seewhy.explain(net, X, name, target=[0, 2], feature_layer=layer).values
    found = seewhy.explain(model, X, name, target=[0, 2], feature_layer="net." + layer).values
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(seewhy.ModelError, match=r"Methods that work: .*recipro_cam"):
        seewhy.explain(model, X, "gradcam", feature_layer="net." + layer)


def test_quick_options_are_options_of_the_method_and_no_part_of_its_identity():
    for name, method in METHODS.items():
        assert method.quick_options.keys() <= method.options.keys(), name
    slow = replace(METHODS["lime"], quick_options={})
    assert method_identity(slow) == "lime"
    assert hash(slow) == hash(METHODS["lime"])
