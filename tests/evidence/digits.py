"""Digits on a wide empty ground, a deep small network that learns them in seconds, and maps with a known answer."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from seewhy.methods.method import Method
from seewhy.types import Attribution, Can

CLASSES = 10


def digits(size=20, inner=12):
    """Pictures [1797, 1, size, size], 85 % of them zero at 20, and what they show."""
    found = load_digits()
    x = torch.from_numpy(found.images).float()[:, None] / 16
    x = F.interpolate(x, size=(inner, inner), mode="bilinear", align_corners=False)
    x = torch.where(x > 0.3, x, torch.zeros(()))
    return F.pad(x, [(size - inner) // 2] * 4), torch.from_numpy(found.target)


def deep(depth=10, width=12, seed=0, classes=CLASSES):
    """Convolutions with rectifiers, two poolings, one linear layer."""
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


def taught(net, x, y, epochs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    how = torch.optim.Adam(net.parameters(), lr=3e-3)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            how.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            how.step()
    how.zero_grad(set_to_none=True)
    return net.eval()


def from_input(kernel):
    """A method that sees the input and how many scores there are."""
    return Method(kernel, "input", kernel.__name__, "none", Can.SCORES)


def blob(at, wide):
    """A Gaussian at a place, whatever the input."""

    def kernel(x, score):
        """Somewhere."""
        rows, columns = (torch.arange(n, dtype=x.dtype) / n for n in x.shape[2:])
        here = torch.exp(-((rows[:, None] - at[0]) ** 2 + (columns[None] - at[1]) ** 2) / (2 * wide**2))
        return Attribution(here.expand(len(x), score.shape[1], 1, *x.shape[2:]).contiguous())

    kernel.__name__ = f"blob_{at[0]:g}_{at[1]:g}_{wide:g}"
    return from_input(kernel)


def slopes(step):
    """Differences of neighbours, whatever the network."""

    def kernel(x, score):
        """Edges of another kind."""
        found = (x - x.roll(step, -1)).abs() + (x - x.roll(step, -2)).abs()
        return Attribution(found.sum(1, keepdim=True)[:, None].expand(-1, score.shape[1], -1, -1, -1).contiguous())

    kernel.__name__ = f"slopes_{step}"
    return from_input(kernel)


def noise(kernel_name, smooth):
    """Noise, more or less smooth, another for each class, and for each seed."""

    def kernel(x, score, normal):
        """Noise."""
        each = torch.stack([normal(k, k + 1)[0, :1] for k in range(score.shape[1])])
        each = each.expand(len(x), -1, -1, -1, -1)
        flat = F.avg_pool2d(each.flatten(0, 1), smooth, 1, smooth // 2) if smooth > 1 else each.flatten(0, 1)
        return Attribution(flat.view(len(x), score.shape[1], 1, *flat.shape[2:]).contiguous())

    kernel.__name__ = kernel_name
    return from_input(kernel)
