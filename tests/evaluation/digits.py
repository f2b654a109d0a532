"""Digits on a zero background, a small deep network that is trained in seconds, and network-independent methods."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from seewhy.methods.method import Method
from seewhy.methods.queries import Attribution
from seewhy.types import Capability

CLASSES = 10


def load_digit_images(size=20, inner=12):
    """Images [1797, 1, size, size], of which 85 % of the pixels are zero at size 20, and their labels."""
    data = load_digits()
    x = torch.from_numpy(data.images).float()[:, None] / 16
    x = F.interpolate(x, size=(inner, inner), mode="bilinear", align_corners=False)
    x = torch.where(x > 0.3, x, torch.zeros(()))
    return F.pad(x, [(size - inner) // 2] * 4), torch.from_numpy(data.target)


def deep_network(depth=10, width=12, seed=0, classes=CLASSES):
    """Convolutions with batch norms and ReLUs, two max poolings, one linear layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers, before = [], 1
        for k in range(depth):
            after = width if k < depth // 2 else 2 * width
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
            if k in {1, depth // 2}:
                layers.append(nn.MaxPool2d(2))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, classes)).eval()


def train_classifier(net, x, y, epochs=3, seed=0):
    """Train a network in place with Adam and return it in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return net.eval()


def input_only_method(kernel):
    """A method whose kernel uses only the input and the number of scores."""
    return Method(kernel, "input", kernel.__name__, "none", requires=Capability.SCORES)


def blob_method(center, width):
    """A Gaussian blob at a fixed position, independent of input and network."""

    def kernel(x, score):
        """A Gaussian blob."""
        rows, columns = (torch.arange(n, dtype=x.dtype) / n for n in x.shape[2:])
        square = (rows[:, None] - center[0]) ** 2 + (columns[None] - center[1]) ** 2
        blob = torch.exp(-square / (2 * width**2))
        return Attribution(blob.expand(len(x), score.shape[1], 1, *x.shape[2:]).contiguous())

    kernel.__name__ = f"blob_{center[0]:g}_{center[1]:g}_{width:g}"
    return input_only_method(kernel)


def edge_method(step):
    """Absolute differences of pixels `step` apart, independent of the network."""

    def kernel(x, score):
        """Edges: absolute differences of pixels."""
        edges = (x - x.roll(step, -1)).abs() + (x - x.roll(step, -2)).abs()
        return Attribution(edges.sum(1, keepdim=True)[:, None].expand(-1, score.shape[1], -1, -1, -1).contiguous())

    kernel.__name__ = f"edge_filter_{step}"
    return input_only_method(kernel)


def noise_method(kernel_name, smooth):
    """Noise, averaged over windows of `smooth` pixels; different for each class and each seed."""

    def kernel(x, score, normal):
        """Noise."""
        each = torch.stack([normal(k, k + 1)[0, :1] for k in range(score.shape[1])])
        each = each.expand(len(x), -1, -1, -1, -1)
        flat = F.avg_pool2d(each.flatten(0, 1), smooth, 1, smooth // 2) if smooth > 1 else each.flatten(0, 1)
        return Attribution(flat.view(len(x), score.shape[1], 1, *flat.shape[2:]).contiguous())

    kernel.__name__ = kernel_name
    return input_only_method(kernel)
