"""The contract tests: all methods pass them, and faulty methods fail them."""

import threading

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import seewhy
from seewhy import maps, testing
from seewhy.engine.families import FAMILIES
from seewhy.methods import Method
from seewhy.testing import check_method, contract_network, inputs, network, state, states_equal


@pytest.mark.parametrize("name", seewhy.METHODS)
def test_methods_pass_contract(name):
    check_method(name)


@pytest.mark.parametrize(("given", "used"), [({}, {2}), ({"samples": 3}, {3})])
def test_check_method_uses_quick_options(given, used):
    """Options of the call override them."""
    samples_of_calls = set()

    def counted(gradient, *, samples: int = 1000):
        """Counted: the gradient."""
        samples_of_calls.add(samples)
        return gradient

    check_method(Method(counted, "input_gradient", "Counted", "nobody 2000", quick_options={"samples": 2}), **given)
    assert samples_of_calls == used


def test_integrated_gradients_with_tolerance_passes_contract(monkeypatch):
    """Except for K targets, which share their points: steps are added until all targets are within the tolerance."""
    monkeypatch.setattr(
        testing, "CONTRACT_CHECKS", [c for c in testing.CONTRACT_CHECKS if c.__name__ != "_check_targets"]
    )
    check_method("integrated_gradients", steps=3, tolerance=0.05, max_steps=40)


def faulty_kernels():
    """Kernels with one fault each, and the expected message."""

    def uses_global_random(gradient):
        """Uses the global random generator."""
        return gradient + 1e-6 * torch.randn_like(gradient)

    def mixes_samples(gradient):
        """Depends on the batch."""
        return gradient - gradient.mean(0)

    def drops_row(gradient):
        """Drops a row of the map."""
        return gradient[..., 1:, :]

    def returns_zeros(gradient):
        """Returns zeros."""
        return gradient * 0

    def changes_dtype(gradient):
        """Returns another precision."""
        return gradient.double()

    def ignores_targets(gradient):
        """Returns the first target's gradient for all targets."""
        return gradient[:, :1].expand_as(gradient)

    def changes_input(x, gradient):
        """Modifies its input in place."""
        x.zero_()
        return gradient

    return {
        uses_global_random: "changed the state of the network or of torch: random|two identical calls",
        mixes_samples: "depends on",
        drops_row: r"maps are \[3, 2, 5, 9\]",
        returns_zeros: "zero everywhere",
        changes_dtype: "network has torch.float64 values",
        ignores_targets: "K targets differ|class it selects",
    }


@pytest.mark.parametrize("kernel", faulty_kernels(), ids=lambda k: k.__name__)
def test_check_method_detects_fault(kernel):
    message = next(m for k, m in faulty_kernels().items() if k.__name__ == kernel.__name__)
    with pytest.raises(AssertionError, match=message):
        check_method(Method(kernel, "input_gradient", "Faulty", "nobody 2000"))


STATE_CHANGES = {
    "modes": lambda net: net.eval(),
    "requires_grad": lambda net: net[3].weight.requires_grad_(False),
    "gradients": lambda net: setattr(net[3].weight, "grad", torch.ones_like(net[3].weight)),
    "hooks": lambda net: net[3].register_forward_hook(lambda *_: None),
    "tensors": lambda net: net[1].running_mean.add_(1e-9),
    "attributes": lambda net: setattr(net[3], "seen", True),
    "random": lambda net: torch.randn(1),
}


@pytest.mark.parametrize("key", STATE_CHANGES)
def test_state_detects_change(key):
    net = network()
    before = state(net)
    STATE_CHANGES[key](net)
    assert not states_equal(before[key], state(net)[key])


class RaiseInBackward(torch.autograd.Function):
    """Identity that raises an error in the backward pass."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ZeroDivisionError


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "smoothgrad"])
def test_no_side_effects_after_error_in_backward_pass(name):
    net = network()
    net.append(nn.Identity())
    net[-1].forward = RaiseInBackward.apply
    before = state(net)
    with pytest.raises(ZeroDivisionError):
        seewhy.explain(net, inputs(), name, target=1)
    assert states_equal(before, state(net))


def test_explain_with_shared_layers_and_weights():
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)
    net = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(6, 6))
    net[3].weight = layer.weight
    x = torch.randn(2, 6)
    before = state(net)
    e = seewhy.explain(net, x, ["gradient", "guided_backprop"], target=0)
    assert states_equal(before, state(net))
    assert e[0].values.abs().max() > 0


@pytest.mark.parametrize("training", [True, False])
def test_explain_in_eight_threads_equals_serial(training):
    makers = {name: contract_network(m) for name, m in seewhy.METHODS.items()}
    shared = {str(make): make().train(training) for make in makers.values()}  # methods that can, share a network
    nets = {name: shared[str(make)] for name, make in makers.items()}
    jobs = [(name, n) for name in seewhy.METHODS for n in range(3)]
    expected = {
        (name, n): seewhy.explain(
            nets[name], inputs()[n : n + 1], name, target=1, **seewhy.METHODS[name].quick_options
        ).values
        for name, n in jobs
    }
    before, errors = [state(net) for net in shared.values()], []

    def work(first):
        for name, n in jobs[first:] + jobs[:first]:
            values = seewhy.explain(
                nets[name], inputs()[n : n + 1], name, target=1, **seewhy.METHODS[name].quick_options
            ).values
            if not torch.equal(values, expected[name, n]):
                errors.append((name, n))

    threads = [threading.Thread(target=work, args=(3 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert states_equal(before, [state(net) for net in shared.values()])


def test_reduction_layer_in_eight_threads():
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    xs = [torch.randn(1, 4, generator=torch.Generator().manual_seed(i)).double() for i in range(8)]
    expected = [seewhy.explain(net, x, "gradient", target=0, reduction_layer="1").values for x in xs]
    errors = []

    def work(i):
        for _ in range(30):
            if not torch.equal(
                seewhy.explain(net, xs[i], "gradient", target=0, reduction_layer="1").values, expected[i]
            ):
                errors.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


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
def test_explain_with_random_shapes(name, shape, channels, samples, classes, dtype, chunk):
    family = FAMILIES[seewhy.METHODS[name].family]
    assume(max(shape) > 1 or not family.uses_layer)
    assume(not (family.uses_attention or family.needs_pooled_head))
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][len(shape) - 1]
    net = nn.Sequential(conv(channels, 3, 3, padding=1), nn.ReLU(), conv(3, classes, 1)).to(dtype)
    x = torch.randn(samples, channels, *shape, dtype=dtype)
    e = seewhy.explain(net, x, name, batch_size=chunk, **seewhy.METHODS[name].quick_options)
    assert e.values.shape == (samples, 1, 1 if seewhy.METHODS[name].reduce is maps.channel_sum else channels, *shape)
    assert e.maps.shape == e.scaled.shape == (samples, 1, *shape)
    assert e.values.dtype == dtype
    assert e.scaled.min() >= 0
    assert e.scaled.max() <= 1


def test_testing_is_public():
    assert seewhy.testing is testing
