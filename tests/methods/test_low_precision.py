"""Networks in half precision, or with autocast inside: kernels compute in single precision."""

import copy

import pytest
import timm
import torch
from torch import nn

import seewhy
from seewhy.methods import METHODS

DTYPES = [torch.float16, torch.bfloat16]
TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 3e-2}  # relative; the rounding of the network itself


class AutocastInside(nn.Module):
    """A convolution under autocast, and a head in single precision."""

    def __init__(self, dtype=None):
        super().__init__()
        self.dtype, self.conv, self.head = dtype, nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            features = self.conv(x).relu()
        return self.head(features.mean((2, 3)).to(self.head.weight))


def relative_error(found, expected):
    assert found.values.dtype == torch.float32
    return float((found.values - expected.values).norm() / expected.values.norm())


@pytest.fixture(scope="module")
def convolution():
    torch.manual_seed(0)
    return AutocastInside().eval(), torch.rand(2, 3, 8, 9)


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=5).eval()
    return net, torch.rand(2, 3, 32, 32)


LAYER_METHODS = [name for name, method in METHODS.items() if method.family.startswith("layer")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", [*LAYER_METHODS, "fullgrad"])
def test_map_of_low_precision_network(convolution, method, dtype):
    net, x = convolution
    expected = seewhy.explain(net, x, method, target=1)
    low = copy.deepcopy(net).to(dtype)
    assert relative_error(seewhy.explain(low, x.to(dtype), method, target=1), expected) < 2 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", [*LAYER_METHODS, "fullgrad"])
def test_map_of_network_with_autocast_inside(convolution, method, dtype):
    net, x = convolution
    inside = AutocastInside(dtype).eval()
    inside.load_state_dict(net.state_dict())
    expected = seewhy.explain(net, x, method, target=1)
    assert relative_error(seewhy.explain(inside, x, method, target=1), expected) < TOLERANCE[dtype]
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["rollout", "attention_gradient", "legrad", "eigencam", "gradcam++", "vargrad"])
def test_map_of_low_precision_transformer(transformer, method, dtype):
    net, x = transformer
    expected = seewhy.explain(net, x, method, target=1)
    low = copy.deepcopy(net).to(dtype)
    assert relative_error(seewhy.explain(low, x.to(dtype), method, target=1), expected) < 2 * TOLERANCE[dtype]


def test_large_activations_do_not_overflow():
    """The sum of the activations exceeds the largest number in half precision."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)).eval()
    with torch.no_grad():
        net[0].weight.fill_(900)
    x = torch.rand(1, 1, 16, 16) + 1
    for method in ("gradcam++", "xgradcam", "eigencam"):
        expected = seewhy.explain(net, x, method, target=1)
        found = seewhy.explain(copy.deepcopy(net).half(), x.half(), method, target=1)
        if float(expected.values.abs().max()) > 0:
            assert relative_error(found, expected) < 1e-2


@pytest.mark.parametrize("method", ["ablationcam", "recipro_cam"])
def test_low_precision_network_runs_from_the_layer_on(convolution, method):
    """Rounding is no evidence that a path bypasses the layer."""
    net, x = convolution
    low = seewhy.explain(copy.deepcopy(net).bfloat16(), x.bfloat16(), method, target=1)
    assert low.notes == seewhy.explain(net, x, method, target=1).notes
