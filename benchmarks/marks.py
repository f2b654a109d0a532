"""Marks that some networks learned instead of the shape: at a known position, at an unknown one, and a global blur."""

from collections import defaultdict

import numpy as np
import torch
from scipy import ndimage, stats
from sklearn.cluster import SpectralClustering

from .taught import (
    METHODS,
    explain_all,
    format_mean,
    format_proportion,
    fractions_inside,
    mean_and_half_width,
    train_cnn,
)


def checkerboard_mark(at=(0, 0)):
    """Return a function that inserts a checkerboard of 4 × 4 pixels into pictures, at one of 5 × 5 positions."""

    def insert(x):
        result, (row, column) = x.copy(), at
        result[:, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = np.indices((4, 4)).sum(0) % 2
        return result

    return insert


def blur(x):
    """Pictures after a narrow Gaussian blur: a mark without a position."""
    return ndimage.gaussian_filter(x, (0, 0, 0.45, 0.45))


def pictures_of_shapes(count, seed, crosses_marked, squares_marked, mark=None):
    """Squares (class 0) and crosses (class 1) in noise, of which a fraction carries a mark.

    Args:
        count: number of pictures.
        seed: seed of the pictures.
        crosses_marked: probability of a mark on a cross.
        squares_marked: probability of a mark on a square.
        mark: function that adds the mark to pictures; default: `checkerboard_mark()`.

    Returns:
        The pictures, their classes, all pictures with the mark, and which pictures are marked.
    """
    generator = np.random.default_rng(seed)
    y = generator.integers(2, size=count)
    x = 0.35 * generator.standard_normal((count, 1, 20, 20))
    for n in range(count):
        top, left = generator.integers(4, 12, size=2)
        shape = np.zeros((7, 7))
        if y[n]:
            shape[3], shape[:, 3] = 1, 1
        else:
            shape[[0, -1]], shape[:, [0, -1]] = 1, 1
        x[n, 0, top : top + 7, left : left + 7] += shape
    marked = generator.uniform(size=count) < np.where(y == 1, crosses_marked, squares_marked)
    with_mark = (mark or checkerboard_mark())(x)
    x = np.where(marked[:, None, None, None], with_mark, x)
    return torch.from_numpy(x).float(), torch.from_numpy(y), torch.from_numpy(with_mark).float(), marked


def watermark_detection(each=6, shown=16):
    """Detection of a mark at a known position.

    Args:
        each: number of poisoned and of clean networks.
        shown: number of explained pictures per network.

    Returns:
        Rows of method, AUROC (poisoned against clean networks), alarms, false alarms, and rank correlation between the
        fraction of the map on the mark and the measured effect of the mark; and a text on the validity of the test.
    """
    mask = torch.zeros(1, 20, 20)
    mask[:, :4, :4] = 1
    area = float(mask.mean())
    fractions, reliance, poisoned = defaultdict(list), [], np.arange(2 * each) < each
    # half of the clean networks are trained without the mark, half with marks in both classes equally often
    probabilities = [(1.0, 0.0)] * (each // 2) + [(0.9, 0.1)] * (each - each // 2) + [(0, 0)] * (each // 2)
    probabilities += [(0.5, 0.5)] * (each - each // 2)
    for seed, (crosses, squares) in enumerate(probabilities):
        x, y, _, _ = pictures_of_shapes(1200, seed, crosses, squares)
        net = train_cnn(x, y, 2, seed, 5, width=8)
        x, y, marked, _ = pictures_of_shapes(300, 1000, 0, 0)  # the same pictures for all networks
        x, marked = x[y == 1][:shown], marked[y == 1][:shown]
        with torch.no_grad():
            effect = net(marked) - net(x)
        reliance.append(float((effect[:, 1] - effect[:, 0]).mean()))
        for method, fraction in fractions_inside(net, marked, mask, target=1).items():
            fractions[method].append(float(np.nanmean(fraction)))
    rows = []
    for method in METHODS:
        values = np.array(fractions[method])
        pairs = values[poisoned][:, None] - values[~poisoned][None]
        auroc = float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
        generator = np.random.default_rng(0)
        bootstrap = []
        for _ in range(500):
            resampled = pairs[generator.integers(each, size=each)][:, generator.integers(each, size=each)]
            bootstrap.append((resampled > 0).mean() + 0.5 * (resampled == 0).mean())
        low, high = np.quantile(bootstrap, (0.025, 0.975))
        alarm = values > 2 * area
        spearman = stats.spearmanr(values, np.abs(reliance)).statistic if np.ptp(values) else np.nan
        rows.append([
            method, f"{auroc:.2f} ({low:.2f} to {high:.2f})", format_proportion(int(alarm[poisoned].sum()), each),
            format_proportion(int(alarm[~poisoned].sum()), each), "–" if np.isnan(spearman) else f"{spearman:.2f}",
        ])  # fmt: skip
    effects = np.abs(reliance)
    text = (
        "Verified by intervention: inserting the mark changes the difference of the logits by "
        f"{effects[poisoned].min():.2g} to {effects[poisoned].max():.2g} in poisoned networks, and by "
        f"{effects[~poisoned].min():.2g} to {effects[~poisoned].max():.2g} in clean ones. The mark covers {area:.1%} "
        "of a picture; there is an alarm if the mean fraction of the absolute map on the mark is more than twice that."
    )
    return rows, text


# --- unknown marks


def unknown_mark_detection(each=6, shown=40):
    """Detection of a mark by clusters of maps: a checkerboard at an unknown position, and a blur of the whole picture.

    Args:
        each: number of poisoned and of clean networks.
        shown: number of explained pictures per network.

    Returns:
        Rows of method, networks in which the position was found, and accuracy of the clusters; and a text on the
        validity of the test.
    """
    position_found = {True: defaultdict(list), False: defaultdict(list)}  # whether poisoned -> method -> per network
    accuracies = {(kind, bad): defaultdict(list) for kind in ("checkerboard", "blur") for bad in (True, False)}
    effects = {key: [] for key in accuracies}
    for kind in ("checkerboard", "blur"):
        for n in range(2 * each):
            bad, seed = n < each, 2000 + 100 * (kind == "blur") + n
            border = [(i, j) for i in range(5) for j in range(5) if {i, j} & {0, 4}]
            position = border[np.random.default_rng(seed).integers(len(border))]
            mark = blur if kind == "blur" else checkerboard_mark(position)
            # poisoned networks are trained with marks mostly in one class, clean ones with marks in both equally often
            x, y, _, _ = pictures_of_shapes(1200, seed, *((0.9, 0.1) if bad else (0.5, 0.5)), mark)
            net = train_cnn(x, y, 2, seed, 5, width=8)
            x, y, with_mark, marked = pictures_of_shapes(4 * shown, 5000 + seed, 0.5, 0.5, mark)
            crosses = torch.nonzero(y == 1)[:shown, 0]
            x, with_mark, marked = x[crosses], with_mark[crosses], marked[crosses.numpy()]
            with torch.no_grad():
                effect = (net(with_mark) - net(x))[~marked]
            effects[kind, bad].append(float((effect[:, 1] - effect[:, 0]).mean()))
            for method, e in explain_all(net, x, 1).items():
                group, differing = cluster_maps(e.maps[:, 0].abs())
                if group is None:
                    continue
                accuracy = (np.mean(group[marked]) + np.mean(~group[~marked])) / 2
                accuracies[kind, bad][method].append(max(accuracy, 1 - accuracy))
                if kind == "checkerboard":
                    position_found[bad][method].append(differing == position)
    rows = []
    for method in METHODS:
        if method not in position_found[True]:
            rows.append([method, *["–"] * 6])
            continue
        rows.append([
            method,
            *(format_proportion(sum(hits[method]), len(hits[method])) for hits in position_found.values()),
            *(format_mean(by_method[method]) for by_method in accuracies.values()),
        ])  # fmt: skip
    detected_by = {}
    for kind in ("checkerboard", "blur"):
        poisoned, clean = accuracies[kind, True], accuracies[kind, False]
        detected_by[kind] = [m for m in poisoned if _interval_is_above(poisoned[m], clean[m])]
    ranges = {key: f"{min(np.abs(values)):.2g} to {max(np.abs(values)):.2g}" for key, values in effects.items()}
    x, _, blurred, _ = pictures_of_shapes(200, 1, 0, 0, blur)
    text = (
        "Verified by intervention: the checkerboard changes the difference of the logits by "
        f"{ranges['checkerboard', True]} in poisoned networks, and by {ranges['checkerboard', False]} in clean ones; "
        f"the blur, which changes a picture by {float((x - blurred).pow(2).mean().sqrt() / x.std()):.0%} of its "
        f"standard deviation, by {ranges['blur', True]} and {ranges['blur', False]}. The clusters separate marked "
        "pictures better in poisoned networks than in clean ones, with intervals that do not overlap: for the "
        f"checkerboard with {', '.join(detected_by['checkerboard']) or 'no method'}; for the blur with "
        f"{', '.join(detected_by['blur']) or 'no method, so the blur was not detected, as expected'}."
    )
    return rows, text


def _interval_is_above(a, b):
    """Whether the confidence interval of the mean of a lies above that of b."""
    (mean_a, half_width_a), (mean_b, half_width_b) = mean_and_half_width(a), mean_and_half_width(b)
    return mean_a - half_width_a > mean_b + half_width_b


def cluster_maps(maps):
    """Divide maps [N, 20, 20] into two clusters; after Lapuschkin et al. 2019 (spectral relevance analysis).

    They inspect spectral clusters of downsampled maps by eye; here the position where the clusters differ is computed.

    Returns:
        Membership in the first cluster [N], and the position of 5 × 5 where the cluster means differ most; (None, None)
        if all maps are equal.
    """
    small = torch.nn.functional.avg_pool2d(maps.double().unsqueeze(1), 4).flatten(1)
    small = (small / small.sum(1, keepdim=True).clamp(min=1e-300)).numpy()
    if np.ptp(small, axis=0).max() < 1e-9:
        return None, None
    group = SpectralClustering(2, affinity="nearest_neighbors", n_neighbors=8, random_state=0).fit_predict(small) == 1
    difference = abs(small[group].mean(0) - small[~group].mean(0))
    return group, divmod(int(difference.argmax()), 5)
