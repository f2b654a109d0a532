"""Networks as people have them: parallel, compiled, in half precision, quantised, not filled yet."""

import warnings

import pytest
import torch
from tests.networks import classifier, noise
from torch import nn

import seewhy
from seewhy.testing import same, state

METHODS = ["gradient", "guided_backprop", "integrated_gradients", "gradcam", "fullgrad", "occlusion"]
FEW = {"integrated_gradients": {"steps": 4}, "occlusion": {"mask_size": 4, "stride": 4}}


def asked(net, x, method, **more):
    return seewhy.explain(net, x, method, target=[0, 2], **FEW.get(method, {}), **more)


@pytest.mark.parametrize("make", [nn.DataParallel, lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
                                  lambda net: nn.DataParallel(torch.compile(net, backend="eager"))])  # fmt: skip
def test_parallel_networks_are_the_one_inside(make):
    net, x = classifier(), noise(2, 3, 8, 9)
    wrapped = make(net)
    assert seewhy.wrap(wrapped).module is net
    for method in METHODS:
        assert torch.equal(asked(wrapped, x, method).values, asked(net, x, method).values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision(method, dtype):
    net, x = classifier().to(dtype), noise(2, 3, 8, 9).float()
    before = state(net)
    found = asked(net, x, method)
    assert found.values.dtype == found.maps.dtype == torch.float32
    assert same(before, state(net))
    expected = asked(net.double(), x.to(dtype).double(), method)
    size = float(expected.values.abs().max())
    error = float((found.values - expected.values).abs().max())
    assert error < (0.1 if dtype == torch.bfloat16 else 0.02) * size
    assert torch.isfinite(found.maps).all()


@pytest.mark.parametrize("method", METHODS)
def test_autocast(method):
    net, x = classifier().float(), noise(2, 3, 8, 9).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = asked(net, x, method)
        assert torch.is_autocast_enabled("cpu")
    expected = asked(net, x, method)
    assert found.values.dtype == found.maps.dtype == torch.float32
    size = float(expected.values.abs().max())
    error = float((found.values - expected.values).abs().max())
    assert 0 < error < 0.1 * size


@pytest.fixture
def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(classifier().float(), {nn.Linear}, dtype=torch.qint8)


def test_quantised_networks_only_answer(quantised):
    x = noise(2, 3, 8, 9).float()
    for method in ("occlusion", "rise", "kernel_shap"):
        options = {} if method == "occlusion" else {"samples": 40}
        options |= {"segments": "grid", "features": 4} if method == "kernel_shap" else {}
        found = seewhy.explain(quantised, x, method, target=1, **options)
        assert float(found.maps.abs().max()) > 0
    plain = asked(classifier().float(), x, "occlusion").values
    near = asked(quantised, x, "occlusion").values
    assert float((plain - near).abs().max()) < 0.1 * float(plain.abs().max())
    for method in ("gradient", "gradcam", "integrated_gradients", "guided_backprop"):
        with pytest.raises(seewhy.ModelError, match=r"through autograd.*|occlusion"):
            seewhy.explain(quantised, x, method)


def test_weights_without_values_are_refused_before_a_forward():
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


class Two(nn.Module):
    """Two inputs, one by keyword; two outputs."""

    def __init__(self):
        super().__init__()
        self.picture, self.numbers = classifier(), nn.Linear(5, 4).double()

    def forward(self, picture, *, numbers):
        a, b = self.picture(picture), self.numbers(numbers)
        return {"sum": a + b, "numbers": b}


@pytest.mark.parametrize("method", ["gradient", "gradcam", "occlusion"])
def test_keyword_inputs_and_several_outputs_through_wrap(method):
    torch.manual_seed(0)
    net, x, numbers = Two(), noise(2, 3, 8, 9), noise(1, 5)
    model = seewhy.wrap(net, forward=lambda n, x: n(x, numbers=numbers.expand(len(x), -1))["sum"])
    found, inside = asked(model, x, method), asked(net.picture, x, method)
    torch.testing.assert_close(found.values, inside.values)  # the other input adds a constant
    table = seewhy.wrap(net, forward=lambda n, z: n(x[:1].expand(len(z), -1, -1, -1), numbers=z)["numbers"])
    e = seewhy.explain(table, numbers, "gradient", target=1)
    torch.testing.assert_close(e.values.flatten(), net.numbers.weight[1].detach())
    with pytest.raises(seewhy.ModelError, match="forward"):
        seewhy.explain(seewhy.wrap(net, forward=lambda n, x: n(x, numbers=numbers.expand(len(x), -1))), x, method)
