"""A small convolutional network in NumPy with explicit loops, and the same network in torch.

x -> conv 3×3 (3 to 5) -> ReLU -> conv 3×3 (5 to 4) -> ReLU6 -> mean over space -> linear (4 to 4)
"""

import numpy as np
import torch
from torch.nn import functional as F


def plain_rule(pre, grad_output, top):
    """Backward rule of min(max(X, 0), top): the gradient passes where 0 < X < top."""
    return grad_output if 0 < pre < top else 0.0


class NumpyNetwork:
    """Forward and backward pass with loops over all values."""

    classes = 4

    def __init__(self, seed=0):
        generator = np.random.default_rng(seed)
        self.w1, self.b1 = generator.normal(size=(5, 3, 3, 3)) * 0.6, generator.normal(size=5)
        self.w2, self.b2 = generator.normal(size=(4, 5, 3, 3)) * 0.6, generator.normal(size=4)
        self.w3, self.b3 = generator.normal(size=(4, 4)), generator.normal(size=4)

    def forward(self, x):
        """Pre-activations of both rectifiers and the scores [4], for one sample [3, H, W]."""
        pre1 = conv_forward(x, self.w1, self.b1)
        pre2 = conv_forward(np.clip(pre1, 0, np.inf), self.w2, self.b2)
        pooled = np.clip(pre2, 0, 6).mean(axis=(1, 2))
        return pre1, pre2, self.w3 @ pooled + self.b3

    def backward(self, x, target, rule=plain_rule):
        """d score / d x for one sample, with the backward rule `rule(X, dL/dZ, top)` at each rectifier."""
        pre1, pre2, _ = self.forward(x)
        return self._backward(
            x.shape,
            target,
            lambda position, grad_output: rule(pre1[position], grad_output, np.inf),
            lambda position, grad_output: rule(pre2[position], grad_output, 6.0),
        )

    def multipliers(self, x, reference, target):
        """Multipliers of DeepLIFT's rescale rule: at a rectifier, the difference of outputs over that of inputs."""
        layers = zip(self.forward(x)[:2], self.forward(reference)[:2], (np.inf, 6.0), strict=True)

        def rule(pre, other, top):
            ratio = (np.clip(pre, 0, top) - np.clip(other, 0, top)) / (pre - other)
            return lambda position, grad_output: grad_output * ratio[position]

        return self._backward(x.shape, target, *(rule(*layer) for layer in layers))

    def _backward(self, shape, target, rule1, rule2):
        """Backward pass with the rules `rule(position, dL/dZ)` at the first and at the second rectifier."""
        grad2 = np.zeros((len(self.w2), *shape[1:]))
        for position in np.ndindex(*grad2.shape):
            grad2[position] = rule2(position, self.w3[target, position[0]] / (shape[1] * shape[2]))
        grad_hidden = conv_backward(grad2, self.w2)
        grad1 = np.zeros_like(grad_hidden)
        for position in np.ndindex(*grad1.shape):
            grad1[position] = rule1(position, grad_hidden[position])
        return conv_backward(grad1, self.w1)


def conv_forward(x, w, b):
    """3 × 3 convolution with zero padding, [C, H, W] -> [O, H, W]."""
    out = np.zeros((len(w), *x.shape[1:]))
    for o, i, j in np.ndindex(*out.shape):
        out[o, i, j] = b[o]
        for c, di, dj in np.ndindex(*w.shape[1:]):
            y, z = i + di - 1, j + dj - 1
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                out[o, i, j] += w[o, c, di, dj] * x[c, y, z]
    return out


def conv_backward(grad_output, w):
    """Gradient of the convolution with respect to its input, [O, H, W] -> [C, H, W]."""
    out = np.zeros((w.shape[1], *grad_output.shape[1:]))
    for o, i, j in np.ndindex(*grad_output.shape):
        if grad_output[o, i, j] == 0:
            continue
        for c, di, dj in np.ndindex(*w.shape[1:]):
            y, z = i + di - 1, j + dj - 1
            if 0 <= y < out.shape[1] and 0 <= z < out.shape[2]:
                out[c, y, z] += w[o, c, di, dj] * grad_output[o, i, j]
    return out


class TorchNetwork(torch.nn.Module):
    """The same network in torch; its rectifiers are a function and an in-place module."""

    def __init__(self, network, dtype=torch.float64):
        super().__init__()
        for name in ("w1", "b1", "w2", "b2", "w3", "b3"):
            setattr(self, name, torch.nn.Parameter(torch.tensor(getattr(network, name), dtype=dtype)))
        self.relu6 = torch.nn.ReLU6(inplace=True)

    def forward(self, x):
        x = F.relu(F.conv2d(x, self.w1, self.b1, padding=1))
        x = self.relu6(F.conv2d(x, self.w2, self.b2, padding=1))
        return F.linear(x.mean((2, 3)), self.w3, self.b3)
