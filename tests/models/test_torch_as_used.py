"""torch networks as used in practice: parallel, compiled, half precision, quantized, uninitialized, several inputs."""

import warnings

import pytest
import torch
from tests.networks import random_input, small_classifier
from torch import nn

import seewhy
from seewhy.testing import state, states_equal

METHODS = ["gradient", "guided_backprop", "integrated_gradients", "gradcam", "fullgrad", "occlusion"]
OPTIONS = {"integrated_gradients": {"steps": 4}, "occlusion": {"mask_size": 4, "stride": 4}}


def explain_two_targets(net, x, method, **more):
    return seewhy.explain(net, x, method, target=[0, 2], **OPTIONS.get(method, {}), **more)


@pytest.mark.parametrize("make", [nn.DataParallel, lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
                                  lambda net: nn.DataParallel(torch.compile(net, backend="eager"))])  # fmt: skip
def test_wrap_parallel_and_compiled_network(make):
    net, x = small_classifier(), random_input(2, 3, 8, 9)
    wrapped = make(net)
    assert seewhy.wrap(wrapped).module is net
    for method in METHODS:
        assert torch.equal(explain_two_targets(wrapped, x, method).values, explain_two_targets(net, x, method).values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_explain_in_half_precision(method, dtype):
    net, x = small_classifier().to(dtype), random_input(2, 3, 8, 9).float()
    before = state(net)
    found = explain_two_targets(net, x, method)
    assert found.values.dtype == found.maps.dtype == torch.float32
    assert states_equal(before, state(net))
    expected = explain_two_targets(net.double(), x.to(dtype).double(), method)
    size = float(expected.values.abs().max())
    error = float((found.values - expected.values).abs().max())
    assert error < (0.1 if dtype == torch.bfloat16 else 0.02) * size
    assert torch.isfinite(found.maps).all()


@pytest.mark.parametrize("method", METHODS)
def test_explain_under_autocast(method):
    net, x = small_classifier().float(), random_input(2, 3, 8, 9).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = explain_two_targets(net, x, method)
        assert torch.is_autocast_enabled("cpu")
    expected = explain_two_targets(net, x, method)
    assert found.values.dtype == found.maps.dtype == torch.float32
    size = float(expected.values.abs().max())
    error = float((found.values - expected.values).abs().max())
    assert 0 < error < 0.1 * size


@pytest.fixture
def quantized():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(small_classifier().float(), {nn.Linear}, dtype=torch.qint8)


def test_explain_quantized_network_supports_scores_only(quantized):
    x = random_input(2, 3, 8, 9).float()
    for method, record in seewhy.METHODS.items():
        if record.family != "masked_scores":
            continue
        found = seewhy.explain(quantized, x, method, target=1, **record.quick_options)
        assert float(found.maps.abs().max()) > 0
    plain = explain_two_targets(small_classifier().float(), x, "occlusion").values
    near = explain_two_targets(quantized, x, "occlusion").values
    assert float((plain - near).abs().max()) < 0.1 * float(plain.abs().max())
    for method in ("gradient", "gradcam", "integrated_gradients", "guided_backprop"):
        with pytest.raises(seewhy.ModelError, match=r"through autograd.*|occlusion"):
            seewhy.explain(quantized, x, method)


def test_explain_rejects_uninitialized_weights():
    lazy = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(seewhy.ModelError, match=r"'3\.weight'.*lazy layer.*call it once"):
        seewhy.explain(lazy, torch.zeros(1, 3, 8, 8))
    assert isinstance(lazy[3], nn.LazyLinear)
    with torch.device("meta"):
        meta = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    for net in (meta, nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), meta[3])):
        for method in ("gradient", "occlusion"):
            with pytest.raises(seewhy.ModelError, match="meta device"):
                seewhy.explain(net, torch.zeros(1, 3, 8, 8), method)


class TwoInputsTwoOutputs(nn.Module):
    """Two inputs, one of them by keyword, and two outputs."""

    def __init__(self):
        super().__init__()
        self.picture, self.numbers = small_classifier(), nn.Linear(5, 4).double()

    def forward(self, picture, *, numbers):
        a, b = self.picture(picture), self.numbers(numbers)
        return {"sum": a + b, "numbers": b}


@pytest.mark.parametrize("method", ["gradient", "gradcam", "occlusion"])
def test_wrap_forward_with_keyword_inputs_and_several_outputs(method):
    torch.manual_seed(0)
    net, x, numbers = TwoInputsTwoOutputs(), random_input(2, 3, 8, 9), random_input(1, 5)
    model = seewhy.wrap(net, forward=lambda n, x: n(x, numbers=numbers.expand(len(x), -1))["sum"])
    found, inside = explain_two_targets(model, x, method), explain_two_targets(net.picture, x, method)
    torch.testing.assert_close(found.values, inside.values)  # the other input only adds a constant
    table = seewhy.wrap(net, forward=lambda n, z: n(x[:1].expand(len(z), -1, -1, -1), numbers=z)["numbers"])
    e = seewhy.explain(table, numbers, "gradient", target=1)
    torch.testing.assert_close(e.values.flatten(), net.numbers.weight[1].detach())
    with pytest.raises(seewhy.ModelError, match="forward"):
        seewhy.explain(seewhy.wrap(net, forward=lambda n, x: n(x, numbers=numbers.expand(len(x), -1))), x, method)


class ThreeInputs(nn.Module):
    """A picture, a vector, and an index into an embedding."""

    def __init__(self):
        super().__init__()
        self.picture, self.numbers = small_classifier(), nn.Linear(5, 4).double()
        self.table = nn.Embedding(7, 5).double()

    def forward(self, picture, numbers, index):
        return self.picture(picture) * torch.tanh(self.numbers(numbers + self.table(index)))


def three_inputs():
    torch.manual_seed(0)
    index = torch.tensor([1, 6, 3])
    return ThreeInputs(), {"picture": random_input(3, 3, 8, 9), "numbers": random_input(3, 5), "index": index}


def test_explain_several_inputs_returns_one_map_per_input():
    """The gradient at each input, sample by sample, equals the gradient that autograd computes for the whole batch."""
    net, inputs = three_inputs()
    before = state(net)
    found = seewhy.explain(net, inputs, "gradient", target=[2, 0])
    assert list(found) == ["picture", "numbers", "index"]
    assert found["index"] is None
    assert "input 'index' holds whole numbers, so it has no map" in found["picture"].notes
    leaves = [inputs["picture"].clone().requires_grad_(), inputs["numbers"].clone().requires_grad_()]
    output = net(*leaves, inputs["index"])
    for k, target in enumerate((2, 0)):
        expected = torch.autograd.grad(output[:, target].sum(), leaves, retain_graph=True)
        torch.testing.assert_close(found["picture"].values[:, k], expected[0])
        torch.testing.assert_close(found["numbers"].values[:, k, 0], expected[1])
    torch.testing.assert_close(found["picture"].scores, output[:, [2, 0]].detach())
    assert found["picture"].maps.shape == (3, 2, 8, 9)
    positional = seewhy.explain(net, tuple(inputs.values()), "gradient", target=[2, 0])
    assert len(positional) == 3
    assert torch.equal(positional[1].values, found["numbers"].values)
    assert states_equal(before, state(net))


def test_explain_several_inputs_with_several_methods_and_one_target_per_sample():
    net, inputs = three_inputs()
    target = torch.tensor([3, 0, 1])
    gradient, product = seewhy.explain(net, inputs, ["gradient", "input_x_gradient"], target=target)["picture"]
    assert gradient.targets[:, 0].tolist() == target.tolist()
    torch.testing.assert_close(product.values, gradient.values * inputs["picture"][:, None])
    of_numbers = seewhy.explain(net, inputs, "occlusion", target=target, mask_size=1, stride=1)["numbers"]
    for n in range(3):
        without = inputs["numbers"][n : n + 1].repeat(5, 1)
        without[range(5), range(5)] = 0
        with torch.no_grad():
            full = net(inputs["picture"][n : n + 1], inputs["numbers"][n : n + 1], inputs["index"][n : n + 1])
            less = net(inputs["picture"][n : n + 1].expand(5, -1, -1, -1), without, inputs["index"][n].expand(5))
        torch.testing.assert_close(of_numbers.values[n, 0, 0], (full - less)[:, target[n]])


def test_explain_several_inputs_of_function():
    net, inputs = three_inputs()
    model = seewhy.wrap(lambda *given: net(*given), forward=lambda f, given: f(*given))
    e, _, index = seewhy.explain(model, tuple(inputs.values()), "gradient", target=1)
    assert index is None
    assert torch.equal(e.values, seewhy.explain(net, inputs, "gradient", target=1)["picture"].values)
    with pytest.raises(seewhy.ModelError, match="forward=lambda"):
        seewhy.explain(lambda a, b: a + b, (torch.ones(1, 3), torch.ones(1, 3)), "gradient")


@pytest.mark.parametrize(("change", "message"), [
    ({"numbers": random_input(2, 5)}, "same number"),
    ({"numbers": "cat.png"}, "batch first"),
    ({"picture": torch.ones(3, dtype=torch.long), "numbers": torch.ones(3, dtype=torch.long)}, "whole numbers"),
])  # fmt: skip
def test_explain_rejects_inconsistent_inputs(change, message):
    net, inputs = three_inputs()
    with pytest.raises(seewhy.InputError, match=message):
        seewhy.explain(net, inputs | change, "gradient")
