"""The contract suite: the table keeps it, and it bites those that do not."""

import threading

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import seewhy
from seewhy import maps, testing
from seewhy.methods import Method
from seewhy.methods.families import FAMILIES
from seewhy.testing import check_method, inputs, network, same, state, transformer

SMALL = {name: {"samples": 4} for name in ("smoothgrad", "vargrad", "expected_gradients")}
SMALL["integrated_gradients"] = {"steps": 3}
SMALL |= {name: {"samples": 40, "segments": "grid", "features": 9} for name in ("lime", "kernel_shap")}
SMALL |= {"rise": {"samples": 20, "cells": 3}, "feature_ablation": {"segments": "grid", "features": 9}}


@pytest.mark.parametrize("name", seewhy.METHODS)
def test_the_table_keeps_the_contract(name):
    check_method(name, **SMALL.get(name, {}))


def test_a_tolerance_keeps_it_too(monkeypatch):
    """But for K targets, which share their points: they go on until all are good enough."""
    monkeypatch.setattr(testing, "CHECKS", [c for c in testing.CHECKS if c.__name__ != "_check_targets"])
    check_method("integrated_gradients", steps=3, tolerance=0.05, max_steps=40)


def kernels():
    """Methods with one fault each, and the words that must name it."""

    def draws(gradient):
        """Uses the global generator."""
        return gradient + 1e-6 * torch.randn_like(gradient)

    def mixes(gradient):
        """Depends on the batch."""
        return gradient - gradient.mean(0)

    def shrinks(gradient):
        """Loses a row."""
        return gradient[..., 1:, :]

    def nothing(gradient):
        """Nothing at all."""
        return gradient * 0

    def doubles(gradient):
        """In another precision."""
        return gradient.double()

    def first(gradient):
        """Forgets the other targets."""
        return gradient[:, :1].expand_as(gradient)

    def changes(x, gradient):
        """Writes on what it was given."""
        x.zero_()
        return gradient

    return {
        draws: "trace on the network or around it: random|two equal calls",
        mixes: "depends on",
        shrinks: r"maps are \[3, 2, 5, 9\]",
        nothing: "zero everywhere",
        doubles: "gave torch.float64 values",
        first: "K targets differ|picks",
    }


@pytest.mark.parametrize("kernel", kernels(), ids=lambda k: k.__name__)
def test_the_suite_bites(kernel):
    words = next(w for k, w in kernels().items() if k.__name__ == kernel.__name__)
    with pytest.raises(AssertionError, match=words):
        check_method(Method(kernel, "input_gradient", "Planted", "nobody 2000"))


FAULTS = {
    "modes": lambda net: net.eval(),
    "requires_grad": lambda net: net[3].weight.requires_grad_(False),
    "gradients": lambda net: setattr(net[3].weight, "grad", torch.ones_like(net[3].weight)),
    "hooks": lambda net: net[3].register_forward_hook(lambda *_: None),
    "tensors": lambda net: net[1].running_mean.add_(1e-9),
    "attributes": lambda net: setattr(net[3], "seen", True),
    "random": lambda net: torch.randn(1),
}


@pytest.mark.parametrize("key", FAULTS)
def test_every_part_of_the_state_is_seen(key):
    net = network()
    before = state(net)
    FAULTS[key](net)
    assert not same(before[key], state(net)[key])


class Bomb(torch.autograd.Function):
    """Goes off on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ZeroDivisionError


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "smoothgrad"])
def test_no_trace_after_an_error_on_the_way_back(name):
    net = network()
    net.append(nn.Identity())
    net[-1].forward = Bomb.apply
    before = state(net)
    with pytest.raises(ZeroDivisionError):
        seewhy.explain(net, inputs(), name, target=1)
    assert same(before, state(net))


def test_tied_weights_and_shared_parts():
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)
    net = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(6, 6))
    net[3].weight = layer.weight
    x = torch.randn(2, 6)
    before = state(net)
    e = seewhy.explain(net, x, ["gradient", "guided_backprop"], target=0)
    assert same(before, state(net))
    assert e[0].values.abs().max() > 0


@pytest.mark.parametrize("training", [True, False])
def test_eight_threads_give_the_serial_maps_to_the_bit(training):
    net, other = network().train(training), transformer().train(training)
    nets = {name: other if FAMILIES[m.feeds].attention else net for name, m in seewhy.METHODS.items()}
    jobs = [(name, n) for name in seewhy.METHODS for n in range(3)]
    expected = {
        (name, n): seewhy.explain(nets[name], inputs()[n : n + 1], name, target=1, **SMALL.get(name, {})).values
        for name, n in jobs
    }
    before, wrong = [state(net), state(other)], []

    def work(turn):
        for name, n in jobs[turn:] + jobs[:turn]:
            values = seewhy.explain(nets[name], inputs()[n : n + 1], name, target=1, **SMALL.get(name, {})).values
            if not torch.equal(values, expected[name, n]):
                wrong.append((name, n))

    threads = [threading.Thread(target=work, args=(3 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert same(before, [state(net), state(other)])


def test_a_tapped_layer_answers_only_its_own_call():
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    xs = [torch.randn(1, 4, generator=torch.Generator().manual_seed(i)).double() for i in range(8)]
    expected = [seewhy.explain(net, x, "gradient", target=0, reduction_layer="1").values for x in xs]
    wrong = []

    def work(i):
        for _ in range(30):
            if not torch.equal(
                seewhy.explain(net, xs[i], "gradient", target=0, reduction_layer="1").values, expected[i]
            ):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(sorted(seewhy.METHODS)),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    channels=st.integers(1, 4),
    samples=st.integers(1, 3),
    classes=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    chunk=st.integers(1, 4),
)
def test_any_shape(name, shape, channels, samples, classes, dtype, chunk):
    assume(max(shape) > 1 or not FAMILIES[seewhy.METHODS[name].feeds].layer)
    assume(not FAMILIES[seewhy.METHODS[name].feeds].attention)
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][len(shape) - 1]
    net = nn.Sequential(conv(channels, 3, 3, padding=1), nn.ReLU(), conv(3, classes, 1)).to(dtype)
    x = torch.randn(samples, channels, *shape, dtype=dtype)
    e = seewhy.explain(net, x, name, batch_size=chunk, **SMALL.get(name, {}))
    assert e.values.shape == (samples, 1, 1 if seewhy.METHODS[name].reduce is maps.channel_sum else channels, *shape)
    assert e.maps.shape == e.scaled.shape == (samples, 1, *shape)
    assert e.values.dtype == dtype
    assert e.scaled.min() >= 0
    assert e.scaled.max() <= 1


def test_the_suite_is_public():
    assert seewhy.testing is testing
