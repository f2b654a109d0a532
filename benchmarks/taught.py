"""Small networks trained on the spot, and the fraction of each method's map inside a mask."""

import numpy as np
import torch
from scipy import stats
from torch import nn

import seewhy
from seewhy.engine.families import FAMILIES

METHODS = ["gradient", "input_x_gradient", "integrated_gradients", "smoothgrad", "guided_backprop", "gradcam",
           "hirescam", "layercam", "fullgrad", "occlusion", "kernel_shap", "edges", "centre", "random"]  # fmt: skip


def mean_and_half_width(values):
    """Mean of independent values, and half the width of its 95 % confidence interval (Student's t)."""
    values = np.asarray(values, float)
    return values.mean(), stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def format_mean(values, digits=2):
    """Mean of independent values with its 95 % confidence interval, as text."""
    mean, half_width = mean_and_half_width(values)
    return f"{mean:.{digits}f} ± {half_width:.{digits}f}"


def format_proportion(count, total):
    """A proportion with its 95 % confidence interval (Clopper and Pearson 1934), as text."""
    low, high = stats.binomtest(count, total).proportion_ci(0.95)
    return f"{count} of {total} ({low:.0%} to {high:.0%})"


def train_cnn(x, y, classes, seed, epochs, width=16, *, mean=False, rate=2e-3):
    """Train a small CNN.

    Args:
        x: pictures [M, C, H, W].
        y: one class per picture, [M], or one binary label per class, [M, classes].
        classes: number of outputs.
        seed: seed of the weights and of the order of the batches.
        epochs: number of epochs.
        width: channels of the first convolution.
        mean: pool the last features by their mean over the picture instead of their maximum in each quarter. Such a
            network learns slowly, so the learning rate is larger and decreases linearly to zero.
        rate: initial learning rate of Adam.
    """
    torch.manual_seed(seed)
    pool, pooled_width = (nn.AdaptiveAvgPool2d(1), 2) if mean else (nn.AdaptiveMaxPool2d(2), 8)
    net = nn.Sequential(
        nn.Conv2d(x.shape[1], width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        pool, nn.Flatten(), nn.Linear(pooled_width * width, classes),
    )  # fmt: skip
    loss = nn.functional.binary_cross_entropy_with_logits if y.ndim > 1 else nn.functional.cross_entropy
    optimizer = torch.optim.Adam(net.parameters(), rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0 if mean else 1, epochs)
    for _ in range(epochs):
        for samples in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss(net(x[samples]), y[samples]).backward()
            optimizer.step()
        schedule.step()
    return net.eval()


def explain_all(net, x, target=None, window=4, features=49):
    """Method -> its explanation, for all methods."""
    explanations = {}
    for method in METHODS:
        options = {"segments": "grid", "features": features, "samples": 256} if method == "kernel_shap" else {}
        options |= {"mask_size": window, "stride": window // 2} if method == "occlusion" else {}
        options |= {"samples": 20} if method == "smoothgrad" else {}
        options |= (
            {"feature_layer": "7", "upsample": "linear"} if FAMILIES[seewhy.METHODS[method].family].uses_layer else {}
        )
        explanations[method] = seewhy.explain(net, x, method, target=target, **options)
    return explanations


def fraction_inside(e, mask):
    """Fraction of the absolute map of the first class inside the mask [N, H, W]: one value per sample."""
    magnitude = e.maps[:, 0].abs()
    total = magnitude.flatten(1).sum(1)
    return ((magnitude * mask).flatten(1).sum(1) / total.masked_fill(total == 0, torch.nan)).numpy()


def fractions_inside(net, x, mask, target=None):
    """Method -> fraction of the absolute map inside the mask [N, H, W], one value per sample."""
    return {method: fraction_inside(e, mask) for method, e in explain_all(net, x, target).items()}
