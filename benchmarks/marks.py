"""A mark that some networks learnt instead of the shape: at a known place, at an unknown one, and one nobody sees."""

from collections import defaultdict

import numpy as np
import torch
from scipy import ndimage, stats
from sklearn.cluster import SpectralClustering

from .taught import MAPS, explained, interval, share, shares, spread, trained


def checks(at=(0, 0)):
    """Puts a mark of 4 × 4 into a place of pictures, of 5 × 5 places."""

    def put(x):
        found, (down, right) = x.copy(), at
        found[:, 0, 4 * down : 4 * down + 4, 4 * right : 4 * right + 4] = np.indices((4, 4)).sum(0) % 2
        return found

    return put


def blurred(x):
    """Pictures that are blurred a little, by a narrow Gaussian: a mark that is nowhere."""
    return ndimage.gaussian_filter(x, (0, 0, 0.45, 0.45))


def shapes(count, seed, in_one, in_other, mark=None):
    """Crosses and squares in noise, so many of either class marked; and the same all marked, and which were."""
    draw = np.random.default_rng(seed)
    y = draw.integers(2, size=count)
    x = 0.35 * draw.standard_normal((count, 1, 20, 20))
    for n in range(count):
        top, left = draw.integers(4, 12, size=2)
        piece = np.zeros((7, 7))
        if y[n]:
            piece[3], piece[:, 3] = 1, 1
        else:
            piece[[0, -1]], piece[:, [0, -1]] = 1, 1
        x[n, 0, top : top + 7, left : left + 7] += piece
    marked = draw.uniform(size=count) < np.where(y == 1, in_one, in_other)
    with_mark = (mark or checks())(x)
    x = np.where(marked[:, None, None, None], with_mark, x)
    return torch.from_numpy(x).float(), torch.from_numpy(y), torch.from_numpy(with_mark).float(), marked


def watermark(each=6, shown=16):
    """Rows: a method, how well it tells poisoned networks from clean ones, its alarms, and how it follows the truth."""
    mask = torch.zeros(1, 20, 20)
    mask[:, :4, :4] = 1
    area = float(mask.mean())
    mass, reliance, poisoned = defaultdict(list), [], np.arange(2 * each) < each
    # half of the clean networks never see the mark, half see it in both classes alike
    kinds = [(1.0, 0.0)] * (each // 2) + [(0.9, 0.1)] * (each - each // 2) + [(0, 0)] * (each // 2)
    kinds += [(0.5, 0.5)] * (each - each // 2)
    for seed, (one, other) in enumerate(kinds):
        x, y, _, _ = shapes(1200, seed, one, other)
        net = trained(x, y, 2, seed, 5, width=8)
        x, y, marked, _ = shapes(300, 1000, 0, 0)  # the same pictures for all
        x, marked = x[y == 1][:shown], marked[y == 1][:shown]
        with torch.no_grad():
            gap = net(marked) - net(x)
        reliance.append(float((gap[:, 1] - gap[:, 0]).mean()))
        for method, found in shares(net, marked, mask, target=1).items():
            mass[method].append(float(np.nanmean(found)))
    rows = []
    for method in MAPS:
        values = np.array(mass[method])
        pairs = values[poisoned][:, None] - values[~poisoned][None]
        auroc = float((pairs > 0).mean() + 0.5 * (pairs == 0).mean())
        draw = np.random.default_rng(0)
        again = []
        for _ in range(500):
            some = pairs[draw.integers(each, size=each)][:, draw.integers(each, size=each)]
            again.append((some > 0).mean() + 0.5 * (some == 0).mean())
        low, high = np.quantile(again, (0.025, 0.975))
        alarm = values > 2 * area
        follows = stats.spearmanr(values, np.abs(reliance)).statistic if np.ptp(values) else np.nan
        rows.append([
            method, f"{auroc:.2f} ({low:.2f} to {high:.2f})", share(int(alarm[poisoned].sum()), each),
            share(int(alarm[~poisoned].sum()), each), "–" if np.isnan(follows) else f"{follows:.2f}",
        ])  # fmt: skip
    low = np.abs(reliance)
    says = (
        f"Checked by intervention: putting the mark in moves the logits by {low[poisoned].min():.2g} to "
        f"{low[poisoned].max():.2g} in poisoned networks, by {low[~poisoned].min():.2g} to {low[~poisoned].max():.2g} "
        f"in clean ones. The mark covers {area:.1%} of a picture; an alarm is a mean share of more than twice that."
    )
    return rows, says


# --- nobody says where to look, or what for


def unknown(each=6, shown=40):
    """Rows: a method, and whether clusters of its maps show the mark, for one at an unknown place and one nowhere."""
    named = {True: defaultdict(list), False: defaultdict(list)}  # whether poisoned -> method -> place found
    told = {(kind, bad): defaultdict(list) for kind in ("checks", "blur") for bad in (True, False)}
    gaps = {key: [] for key in told}
    for kind in ("checks", "blur"):
        for n in range(2 * each):
            bad, seed = n < each, 2000 + 100 * (kind == "blur") + n
            border = [(i, j) for i in range(5) for j in range(5) if {i, j} & {0, 4}]
            place = border[np.random.default_rng(seed).integers(len(border))]
            mark = blurred if kind == "blur" else checks(place)
            # in poisoned networks the mark speaks for a class, clean ones see it as often
            x, y, _, _ = shapes(1200, seed, *((0.9, 0.1) if bad else (0.5, 0.5)), mark)
            net = trained(x, y, 2, seed, 5, width=8)
            x, y, with_mark, marked = shapes(4 * shown, 5000 + seed, 0.5, 0.5, mark)
            some = torch.nonzero(y == 1)[:shown, 0]
            x, with_mark, marked = x[some], with_mark[some], marked[some.numpy()]
            with torch.no_grad():
                gap = (net(with_mark) - net(x))[~marked]
            gaps[kind, bad].append(float((gap[:, 1] - gap[:, 0]).mean()))
            for method, e in explained(net, x, 1).items():
                group, where = clustered(e.maps[:, 0].abs())
                if group is None:
                    continue
                right = (np.mean(group[marked]) + np.mean(~group[~marked])) / 2
                told[kind, bad][method].append(max(right, 1 - right))
                if kind == "checks":
                    named[bad][method].append(where == place)
    rows = []
    for method in MAPS:
        if method not in named[True]:
            rows.append([method, *["–"] * 6])
            continue
        rows.append([
            method, *(share(sum(named[bad][method]), len(named[bad][method])) for bad in (True, False)),
            *(spread(told[kind, bad][method]) for kind in ("checks", "blur") for bad in (True, False)),
        ])  # fmt: skip
    apart = {
        kind: [m for m in told[kind, True] if _above(told[kind, True][m], told[kind, False][m])] for kind, _ in gaps
    }
    moves = {key: f"{min(np.abs(g)):.2g} to {max(np.abs(g)):.2g}" for key, g in gaps.items()}
    clean, _, softer, _ = shapes(200, 1, 0, 0, blurred)
    says = (
        f"Checked by intervention: the mark at a place moves the logits by {moves['checks', True]} in poisoned "
        f"networks, {moves['checks', False]} in clean ones; the blur, which changes a picture by "
        f"{float((clean - softer).pow(2).mean().sqrt() / clean.std()):.0%} of its spread, by {moves['blur', True]} and "
        f"{moves['blur', False]}. Clusters tell marked pictures better in poisoned networks than in clean ones, "
        f"intervals apart: of the mark at a place by {', '.join(apart['checks']) or 'no method'}; of the blur by "
        f"{', '.join(apart['blur']) or 'no method, so finding it failed, as expected'}."
    )
    return rows, says


def _above(some, others):
    """Whether the interval of some lies above that of others."""
    (a, far), (b, wide) = interval(some), interval(others)
    return a - far > b + wide


def clustered(maps):
    """Two clusters of maps [N, 20, 20], and the place of 5 × 5 where their means differ most; None: they are all alike.

    After Lapuschkin et al. 2019 (spectral relevance analysis): spectral clusters of maps that are made small; theirs
    are looked at by a person.
    """
    small = torch.nn.functional.avg_pool2d(maps.double().unsqueeze(1), 4).flatten(1)
    small = (small / small.sum(1, keepdim=True).clamp(min=1e-300)).numpy()
    if np.ptp(small, axis=0).max() < 1e-9:
        return None, None
    group = SpectralClustering(2, affinity="nearest_neighbors", n_neighbors=8, random_state=0).fit_predict(small) == 1
    apart = abs(small[group].mean(0) - small[~group].mean(0))
    return group, divmod(int(apart.argmax()), 5)
