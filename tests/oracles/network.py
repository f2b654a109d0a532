"""A small convolutional network written out by hand, and the same network in torch.

x -> conv 3×3 (3 to 5) -> ReLU -> conv 3×3 (5 to 4) -> ReLU6 -> mean over space -> linear (4 to 4)
"""

import numpy as np
import torch
from torch.nn import functional as F


def plain(pre, arriving, top):
    """d min(max(X, 0), top): passes where 0 < X < top."""
    return arriving if 0 < pre < top else 0.0


class Network:
    """Forward and backward with loops over every number."""

    classes = 4

    def __init__(self, seed=0):
        draw = np.random.default_rng(seed)
        self.w1, self.b1 = draw.normal(size=(5, 3, 3, 3)) * 0.6, draw.normal(size=5)
        self.w2, self.b2 = draw.normal(size=(4, 5, 3, 3)) * 0.6, draw.normal(size=4)
        self.w3, self.b3 = draw.normal(size=(4, 4)), draw.normal(size=4)

    def forward(self, x):
        """One sample [3, H, W] -> the sums before each rectifier, and the scores [4]."""
        pre1 = _conv(x, self.w1, self.b1)
        pre2 = _conv(np.clip(pre1, 0, np.inf), self.w2, self.b2)
        pooled = np.clip(pre2, 0, 6).mean(axis=(1, 2))
        return pre1, pre2, self.w3 @ pooled + self.b3

    def backward(self, x, target, rule=plain):
        """d score / d x for one sample, with `rule(X, dL/dZ, top)` at each rectifier."""
        pre1, pre2, _ = self.forward(x)
        area = x.shape[1] * x.shape[2]
        back2 = np.zeros_like(pre2)
        for c, i, j in np.ndindex(*pre2.shape):
            back2[c, i, j] = rule(pre2[c, i, j], self.w3[target, c] / area, 6.0)
        mid = _conv_back(back2, self.w2)
        back1 = np.zeros_like(pre1)
        for c, i, j in np.ndindex(*pre1.shape):
            back1[c, i, j] = rule(pre1[c, i, j], mid[c, i, j], np.inf)
        return _conv_back(back1, self.w1)


def _conv(x, w, b):
    out = np.zeros((len(w), *x.shape[1:]))
    for o, i, j in np.ndindex(*out.shape):
        out[o, i, j] = b[o]
        for c, di, dj in np.ndindex(*w.shape[1:]):
            y, z = i + di - 1, j + dj - 1
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                out[o, i, j] += w[o, c, di, dj] * x[c, y, z]
    return out


def _conv_back(back, w):
    out = np.zeros((w.shape[1], *back.shape[1:]))
    for o, i, j in np.ndindex(*back.shape):
        if back[o, i, j] == 0:
            continue
        for c, di, dj in np.ndindex(*w.shape[1:]):
            y, z = i + di - 1, j + dj - 1
            if 0 <= y < out.shape[1] and 0 <= z < out.shape[2]:
                out[c, y, z] += w[o, c, di, dj] * back[o, i, j]
    return out


class Twin(torch.nn.Module):
    """The same network; its rectifiers are a function and an in-place module."""

    def __init__(self, network, dtype=torch.float64):
        super().__init__()
        for name in ("w1", "b1", "w2", "b2", "w3", "b3"):
            setattr(self, name, torch.nn.Parameter(torch.tensor(getattr(network, name), dtype=dtype)))
        self.relu6 = torch.nn.ReLU6(inplace=True)

    def forward(self, x):
        x = F.relu(F.conv2d(x, self.w1, self.b1, padding=1))
        x = self.relu6(F.conv2d(x, self.w2, self.b2, padding=1))
        return F.linear(x.mean((2, 3)), self.w3, self.b3)
