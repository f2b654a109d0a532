"""Small networks that are taught on the spot, and what part of each method's map lies where."""

import numpy as np
import torch
from scipy import stats
from torch import nn

import seewhy

MAPS = ["gradient", "input_x_gradient", "integrated_gradients", "smoothgrad", "guided_backprop", "gradcam", "hirescam",
        "layercam", "fullgrad", "occlusion", "kernel_shap", "edges", "centre", "random"]  # fmt: skip
READERS = {"gradcam", "hirescam", "layercam", "gradcam++", "xgradcam", "eigencam", "ablationcam", "scorecam",
           "recipro_cam"}  # fmt: skip


def interval(values):
    """A mean, and half of its 95 % interval, over independent values."""
    values = np.asarray(values, float)
    return values.mean(), stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def spread(values, digits=2):
    """A mean with its 95 % interval, over independent values."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def share(count, of):
    """A share with its 95 % interval (Clopper and Pearson 1934)."""
    low, high = stats.binomtest(count, of).proportion_ci(0.95)
    return f"{count} of {of} ({low:.0%} to {high:.0%})"


def trained(x, y, classes, seed, epochs, width=16, *, mean=False, rate=2e-3):
    """A small CNN: of one class each, y [M], or of yes and no for every class, y [M, classes].

    Its last features go into the head as their largest values in each quarter, or as their mean over the picture; that
    learns slowly, so the rate is large at first and falls to zero.
    """
    torch.manual_seed(seed)
    pool, wide = (nn.AdaptiveAvgPool2d(1), 2) if mean else (nn.AdaptiveMaxPool2d(2), 8)
    net = nn.Sequential(
        nn.Conv2d(x.shape[1], width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        pool, nn.Flatten(), nn.Linear(wide * width, classes),
    )  # fmt: skip
    loss = nn.functional.binary_cross_entropy_with_logits if y.ndim > 1 else nn.functional.cross_entropy
    steps = torch.optim.Adam(net.parameters(), rate)
    fall = torch.optim.lr_scheduler.LinearLR(steps, 1, 0 if mean else 1, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            steps.zero_grad()
            loss(net(x[rows]), y[rows]).backward()
            steps.step()
        fall.step()
    return net.eval()


def explained(net, x, target=None, window=4, features=49):
    """Method -> its explanation."""
    found = {}
    for method in MAPS:
        options = {"segments": "grid", "features": features, "samples": 256} if method == "kernel_shap" else {}
        options |= {"mask_size": window, "stride": window // 2} if method == "occlusion" else {}
        options |= {"samples": 20} if method == "smoothgrad" else {}
        options |= {"feature_layer": "7", "upsample": "linear"} if method in READERS else {}
        found[method] = seewhy.explain(net, x, method, target=target, **options)
    return found


def part(e, mask):
    """[N]: what share of the absolute map of the first class lies on the mask [N, H, W]."""
    size = e.maps[:, 0].abs()
    total = size.flatten(1).sum(1)
    return ((size * mask).flatten(1).sum(1) / total.masked_fill(total == 0, torch.nan)).numpy()


def shares(net, x, mask, target=None):
    """Method -> [N]: what share of the absolute map lies on the mask [N, H, W]."""
    return {method: part(e, mask) for method, e in explained(net, x, target).items()}
