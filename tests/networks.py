"""Small networks and inputs that are shared by tests."""

import torch
from torch import nn

import seewhy
from seewhy.engine.families import FAMILIES
from tests.oracles.attention import NumpyViT, TorchViT


def with_random_weights(net, seed=0):
    """The network in evaluation mode, with all parameters drawn from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.4)
    return net.eval()


def random_input(*shape):
    """Standard normal values in double precision, with a fixed seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def observed(net, x):
    """The network after its one-time passes for inputs of this size: layout and probe."""
    seewhy.explain(net, x[:1], "centre", target=0)
    return net


def small_classifier(rank=2, classes=4, pooled_size=2):
    """Two convolutions, mean pooling and a linear layer, for inputs with 3 channels and `rank` spatial axes."""
    conv, pool = [(nn.Conv1d, nn.AdaptiveAvgPool1d), (nn.Conv2d, nn.AdaptiveAvgPool2d),
                  (nn.Conv3d, nn.AdaptiveAvgPool3d)][rank - 1]  # fmt: skip
    net = nn.Sequential(
        conv(3, 5, 3, padding=1), nn.ReLU(), conv(5, 6, 3, stride=2, padding=1), nn.ReLU(), pool(pooled_size),
        nn.Flatten(), nn.Linear(6 * pooled_size**rank, classes),
    )  # fmt: skip
    return with_random_weights(net.double())


def network_for(name):
    """A network with four classes on which a method of the table runs, for inputs [N, 3, 6, 9]."""
    family = FAMILIES[seewhy.METHODS[name].family]
    if family.uses_attention:
        return TorchViT(NumpyViT())
    return small_classifier(pooled_size=1 if family.needs_pooled_head else 2)
