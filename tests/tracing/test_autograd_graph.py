"""Gradients of a single sample through batch norm, which torch computes wrongly on a CPU without the correction."""

import pytest
import torch
from torch import nn

import seewhy


class Tokens(nn.Module):
    """A normalized feature map whose positions are used as tokens; each token has its own weights."""

    def __init__(self, norm, channels=4, scores=3):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, channels, 3, 2), norm
        self.head = nn.Parameter(torch.randn(scores, 49, channels))

    def forward(self, x):
        tokens = self.norm(self.first(x)).flatten(2).transpose(1, 2)
        tokens = nn.functional.layer_norm(tokens, tokens.shape[2:])
        return (tokens[:, None] * self.head).sum((2, 3))


def numerical_gradient(net, x, k, step=1e-5):
    """The gradient of score k at x, by central differences."""
    gradient = torch.zeros_like(x)
    with torch.no_grad():
        for i in range(x.numel()):
            shift = torch.zeros_like(x).flatten()
            shift[i] = step
            shift = shift.view_as(x)
            gradient.view(-1)[i] = (net(x + shift)[0, k] - net(x - shift)[0, k]) / (2 * step)
    return gradient


@pytest.fixture(params=["batch", "instance"])
def net(request):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4) if request.param == "batch" else nn.InstanceNorm2d(4, affine=True)
    if request.param == "batch":
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    return Tokens(norm).double().eval()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradient_of_norm_followed_by_tokens(net, count, memory_format):
    x = torch.randn(count, 3, 15, 15, dtype=torch.float64).contiguous(memory_format=memory_format)
    gradients = seewhy.explain(net, x, "gradient", target=1).values[:, 0]
    for n in range(count):
        expected = numerical_gradient(net, x[n : n + 1].contiguous(), 1)[0]
        assert (gradients[n] - expected).abs().max() <= 1e-7 * expected.abs().max()


def test_gradcam_of_single_sample_equals_batch(net):
    x = torch.randn(2, 3, 15, 15, dtype=torch.float64)
    options = {"target": 1, "feature_layer": "first"}
    batch = seewhy.explain(net, x, "gradcam", **options).values
    single = torch.cat([seewhy.explain(net, sample[None], "gradcam", **options).values for sample in x])
    assert (batch - single).abs().max() <= 1e-12 * batch.abs().max()
    assert batch.abs().max() > 0
