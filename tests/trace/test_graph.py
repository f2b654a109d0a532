"""Gradients of a single sample where torch's own batch norm gives wrong ones."""

import pytest
import torch
from torch import nn

import seewhy


class Tokens(nn.Module):
    """A normalised map read as tokens, each with weights of its own."""

    def __init__(self, norm, channels=4, scores=3):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, channels, 3, 2), norm
        self.head = nn.Parameter(torch.randn(scores, 49, channels))

    def forward(self, x):
        tokens = self.norm(self.first(x)).flatten(2).transpose(1, 2)
        tokens = nn.functional.layer_norm(tokens, tokens.shape[2:])
        return (tokens[:, None] * self.head).sum((2, 3))


def differences(net, x, k, step=1e-5):
    """The gradient of score k at x, by central differences."""
    found = torch.zeros_like(x)
    with torch.no_grad():
        for i in range(x.numel()):
            push = torch.zeros_like(x).flatten()
            push[i] = step
            push = push.view_as(x)
            found.view(-1)[i] = (net(x + push)[0, k] - net(x - push)[0, k]) / (2 * step)
    return found


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
@pytest.mark.parametrize("laid", [torch.contiguous_format, torch.channels_last])
def test_gradients_behind_a_norm_and_tokens(net, count, laid):
    x = torch.randn(count, 3, 15, 15, dtype=torch.float64).contiguous(memory_format=laid)
    given = seewhy.explain(net, x, "gradient", target=1).values[:, 0]
    for n in range(count):
        true = differences(net, x[n : n + 1].contiguous(), 1)[0]
        assert (given[n] - true).abs().max() <= 1e-7 * true.abs().max()


def test_gradcam_reads_them_too(net):
    x = torch.randn(2, 3, 15, 15, dtype=torch.float64)
    both = seewhy.explain(net, x, "gradcam", target=1, feature_layer="first").values
    alone = torch.cat([seewhy.explain(net, one[None], "gradcam", target=1, feature_layer="first").values for one in x])
    assert (both - alone).abs().max() <= 1e-12 * both.abs().max()
    assert both.abs().max() > 0
