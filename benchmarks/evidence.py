"""Do explanations find what is known to be there? Five kinds of known truth: `python -m benchmarks.evidence`.

Known answers, disconnected mosaics, pasted objects, a planted watermark, and suppressor variables.
"""

import sys
import time
import warnings
from collections import defaultdict

import numpy as np
import torch
from captum import attr
from scipy import stats
from tests.known import CELLS, FUNCTIONS, NETS, PICTURE, SIZE, Mosaic, ask, off, outside
from tests.networks import drawn
from torch import nn

import seewhy

from .measure import RESULTS, setting, table

MAPS = ["gradient", "input_x_gradient", "integrated_gradients", "smoothgrad", "guided_backprop", "gradcam", "hirescam",
        "layercam", "fullgrad", "occlusion", "kernel_shap", "edges", "centre", "random"]  # fmt: skip
READERS = {"gradcam", "hirescam", "layercam", "gradcam++", "xgradcam", "eigencam", "ablationcam", "scorecam",
           "recipro_cam"}  # fmt: skip


def spread(values, digits=2):
    """A mean with its 95 % interval, over independent values."""
    values = np.asarray(values, float)
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():.{digits}f} ± {half:.{digits}f}"


def share(count, of):
    """A share with its 95 % interval (Clopper and Pearson 1934)."""
    low, high = stats.binomtest(count, of).proportion_ci(0.95)
    return f"{count} of {of} ({low:.0%} to {high:.0%})"


# --- known answers


def peer(cell):
    """What Captum says, with settings under which it can be exact; None where it has no such method."""
    if cell.function in NETS:
        net = NETS[cell.function]
        alone = torch.arange(SIZE[0] * SIZE[1]).view(1, 1, *SIZE).expand_as(PICTURE).contiguous()
        calls = {
            "gradient": lambda: attr.Saliency(net).attribute(PICTURE, target=1, abs=False),
            "input_x_gradient": lambda: attr.InputXGradient(net).attribute(PICTURE, target=1),
            "guided_backprop": lambda: attr.GuidedBackprop(net).attribute(PICTURE, target=1),
            "gradcam": lambda: attr.LayerGradCam(net, net[1]).attribute(PICTURE, target=1, relu_attributions=True),
            "guided_gradcam": lambda: attr.GuidedGradCam(net, net[1]).attribute(
                PICTURE, target=1, interpolate_mode="bilinear"
            ),
            "occlusion": lambda: attr.Occlusion(net).attribute(PICTURE, (2, 1, 1), target=1)[:, :1],
            "feature_ablation": lambda: attr.FeatureAblation(net).attribute(
                PICTURE, target=1, feature_mask=alone
            )[:, :1],
            "kernel_shap": lambda: attr.ShapleyValueSampling(net).attribute(
                PICTURE, target=1, feature_mask=alone, n_samples=4
            )[:, :1],
        }  # fmt: skip
    else:
        known = FUNCTIONS[cell.function]
        x, f = torch.tensor([known.x], dtype=torch.float64), known.f
        rule = {"gauss": "gausslegendre", "midpoint": "riemann_middle"}[known.rule]
        calls = {
            "gradient": lambda: attr.Saliency(f).attribute(x, abs=False),
            "input_x_gradient": lambda: attr.InputXGradient(f).attribute(x),
            "integrated_gradients": lambda: attr.IntegratedGradients(f).attribute(
                x, n_steps=max(2, known.steps), method=rule
            ),
            "occlusion": lambda: attr.Occlusion(f).attribute(x, (1,)),
            "feature_ablation": lambda: attr.FeatureAblation(f).attribute(x),
            "kernel_shap": lambda: attr.ShapleyValues(f).attribute(x),
        }
    if cell.method not in calls or not cell.sure:
        return None
    try:
        return off(cell, calls[cell.method]().detach().double())
    except Exception as error:  # what it cannot do is a cell it misses
        print(f"captum, {cell.function}, {cell.method}: {error}", file=sys.stderr)
        return float("inf")


def known_answers():
    """Rows: a method, its cells, and how many are right to 1e-12 (drawn ones: within 4 standard errors)."""
    torch.manual_seed(0)
    ours, theirs = defaultdict(list), defaultdict(list)
    for cell in CELLS.values():
        e = ask(cell)
        ours[cell.method].append(off(cell, e.values, e.stderr) <= (1e-12 if cell.sure else 4))
        if (found := peer(cell)) is not None:
            theirs[cell.method].append(found)
    rows = []
    for method, right in ours.items():
        captum = theirs[method]
        worst = max((error for error in captum if error > 1e-12), default=0)
        rows.append([
            method, f"{sum(right)} of {len(right)}",
            *(f"{sum(v <= most for v in captum)} of {len(captum)}" if captum else "–" for most in (1e-12, 1e-6)),
            f"{worst:.1g}" if worst else "–",
        ])  # fmt: skip
    everything = [v for one in ours.values() for v in one]
    captum = [v for one in theirs.values() for v in one]
    rows.append([
        "all", f"{sum(everything)} of {len(everything)}",
        *(f"{sum(v <= most for v in captum)} of {len(captum)}" for most in (1e-12, 1e-6)), "",
    ])  # fmt: skip
    return rows


# --- disconnected mosaics


def mosaics(count=6):
    """Rows: a method, and what of its map lies outside the only cell that the class can see."""
    exact = ["gradient", "input_x_gradient", "guided_backprop", "zeiler_fergus", "integrated_gradients", "smoothgrad",
             "vargrad", "expected_gradients", "hirescam", "layercam", "guided_gradcam", "fullgrad"]  # fmt: skip
    pooled = ["gradcam", "gradcam++", "xgradcam", "eigencam", "ablationcam", "scorecam", "recipro_cam"]
    hiding = ["occlusion", "feature_ablation", "rise", "lime", "kernel_shap"]
    leak = defaultdict(list)
    for seed in range(count):
        x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for method in (*exact, *pooled, *hiding):
            net = drawn(Mosaic(kernel=1 if method == "fullgrad" else 3).double(), seed)
            options = {"feature_layer": "two", "upsample": "none"} if method in READERS else {}
            options |= {"feature_layer": "two"} if method == "guided_gradcam" else {}
            options |= {"samples": 8} if method in ("smoothgrad", "vargrad", "expected_gradients") else {}
            options |= {"mask_value": 0} if method in hiding else {}
            options |= {"segments": "grid", "features": 16} if method in hiding[1:] and method != "rise" else {}
            options |= {"surrogate": "linear"} if method == "lime" else {}
            each = [outside(seewhy.explain(net, x, method, target=2 * j + 1, **options).values, j) for j in range(4)]
            leak[method].append(np.nanmean(each))
    return [
        [m, "exactly 0" if max(v) == 0 else "0 to rounding" if max(v) < 1e-12 else spread(v)] for m, v in leak.items()
    ]


# --- small networks, trained on the spot


def trained(x, y, classes, seed, epochs, width=16):
    """A small CNN."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(x.shape[1], width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(8 * width, classes),
    )  # fmt: skip
    rate = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            rate.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            rate.step()
    return net.eval()


def shares(net, x, mask, target=None):
    """Method -> [N]: what share of the absolute map lies on the mask [N, H, W]."""
    found = {}
    for method in MAPS:
        options = {"segments": "grid", "features": 49, "samples": 256} if method == "kernel_shap" else {}
        options |= {"mask_size": 4, "stride": 2} if method == "occlusion" else {}
        options |= {"samples": 20} if method == "smoothgrad" else {}
        options |= {"feature_layer": "7"} if method in READERS else {}
        e = seewhy.explain(net, x, method, target=target, upsample="linear", **options) if method in READERS else (
            seewhy.explain(net, x, method, target=target, **options))  # fmt: skip
        size = e.maps[:, 0].abs()
        total = size.flatten(1).sum(1)
        found[method] = ((size * mask).flatten(1).sum(1) / total.masked_fill(total == 0, torch.nan)).numpy()
    return found


def scenes(count, seed):
    """Pictures of four textures with four glyphs pasted anywhere; scene, object, where it is, the bare scenes."""
    draw = np.random.default_rng(seed)
    side, big = np.arange(32), np.arange(11) - 5
    down, right = np.meshgrid(side, side, indexing="ij")
    i, j = np.meshgrid(big, big, indexing="ij")
    glyphs = [
        i**2 + j**2 <= 25,
        (abs(i) <= 1) | (abs(j) <= 1),
        (i**2 + j**2 <= 27) & (i**2 + j**2 >= 12),
        abs(i - j) <= 1,
    ]
    scene, thing = draw.integers(4, size=count), draw.integers(4, size=count)
    x, mask = np.zeros((count, 3, 32, 32)), np.zeros((count, 32, 32), bool)
    for n in range(count):
        t, o = draw.uniform(4, 6), draw.uniform(0, 6)
        waves = [down, right, down + right, None][scene[n]]
        grey = np.kron(draw.choice([-1, 1], (8, 8)), np.ones((4, 4))) if waves is None else np.sin(6.28 / t * waves + o)
        x[n] = 0.5 + 0.25 * grey + 0.05 * draw.standard_normal((3, 32, 32))
        top, left = draw.integers(0, 22, size=2)
        mask[n, top : top + 11, left : left + 11] = glyphs[thing[n]]
    bare = x.copy()
    colour = np.eye(3)[draw.integers(3, size=count)][:, :, None, None]  # red, green or blue; scenes are grey
    x = np.where(mask[:, None], colour, x)
    as_tensor = lambda v: torch.from_numpy(v).float()  # noqa: E731
    return as_tensor(x), torch.from_numpy(scene), torch.from_numpy(thing), torch.from_numpy(mask), as_tensor(bare)


def pasted(count=2500, shown=60):
    """Rows: a method, the share of its map on the object in either network, their difference; and the sentence."""
    x, scene, thing, _, _ = scenes(count, 0)
    nets = {"object": trained(x, thing, 4, 0, 8), "scene": trained(x, scene, 4, 0, 8)}
    x, scene, thing, mask, bare = scenes(400, 1)
    with torch.no_grad():
        right = {name: float((net(x).argmax(1) == y).float().mean()) for (name, net), y in
                 zip(nets.items(), (thing, scene), strict=True)}  # fmt: skip
        # the intervention: the object is taken away
        moved = {name: (net(x).softmax(1) - net(bare).softmax(1)).abs().amax(1) for name, net in nets.items()}
    quiet, stirred = float((moved["scene"] < 0.02).float().mean()), float((moved["object"] > 0.2).float().mean())
    valid = quiet >= 0.95 and stirred >= 0.6 and min(right.values()) >= 0.95
    on = {name: shares(net, x[:shown], mask[:shown]) for name, net in nets.items()}
    rows = []
    for method in MAPS:
        a, b = on["object"][method], on["scene"][method]
        both = ~np.isnan(a + b)
        rows.append([method, spread(a[both]), spread(b[both]), spread((a - b)[both])])
    area = float(mask[:shown].float().mean())
    says = (
        f"{'Valid' if valid else 'INVALID'}: accuracy {right['object']:.1%} (object) and {right['scene']:.1%} (scene) "
        f"on 400 new pictures; with the object taken away the scene network moves by less than 0.02 in {quiet:.1%} of "
        f"them, the object network by more than 0.2 in {stirred:.1%}. The object covers {area:.1%} of a picture."
    )
    return rows, says


def shapes(count, seed, in_one, in_other):
    """Crosses and squares in noise; a mark in the corner of so many of either class."""
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
    with_mark = x.copy()
    with_mark[:, 0, :4, :4] = np.indices((4, 4)).sum(0) % 2
    x = np.where(marked[:, None, None, None], with_mark, x)
    return torch.from_numpy(x).float(), torch.from_numpy(y), torch.from_numpy(with_mark).float()


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
        x, y, _ = shapes(1200, seed, one, other)
        net = trained(x, y, 2, seed, 5, width=8)
        x, y, marked = shapes(300, 1000, 0, 0)  # the same pictures for all
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


def suppressors(count=10, shown=8):
    """Rows: a method, and the share of its map where no number knows anything of the class."""
    side = 8
    pattern = torch.zeros(side, side, dtype=torch.float64)
    pattern[2, 2:5] = pattern[3, 3] = 1.0  # a tetromino
    blank = (pattern == 0).double()
    found, weights_on = defaultdict(list), []
    for seed in range(count):
        draw = torch.Generator().manual_seed(seed)
        mix = torch.randn(side**2, side**2, generator=draw, dtype=torch.float64) * 0.15
        place = torch.arange(side).double()
        near = torch.exp(-((place[:, None] - place) ** 2) / 2)
        background = torch.kron(near, near) + mix @ mix.T + 0.05 * torch.eye(side**2, dtype=torch.float64)
        w = torch.linalg.solve(background, pattern.flatten())  # the best linear answer to x = ± pattern + background
        net = nn.Sequential(nn.Flatten(), nn.Linear(side**2, 1)).double()
        with torch.no_grad():
            net[1].weight.copy_(w[None])
            net[1].bias.zero_()
        root = torch.linalg.cholesky(background)
        y = torch.randint(2, (shown,), generator=draw) * 2.0 - 1
        x = y[:, None] * pattern.flatten() + torch.randn(shown, side**2, generator=draw, dtype=torch.float64) @ root.T
        x = x.view(-1, 1, side, side)
        for method in ("gradient", "input_x_gradient", "integrated_gradients", "occlusion", "kernel_shap"):
            each = {"segments": torch.arange(side**2).view(side, side), "samples": 256, "mask_value": 0}
            options = each if method == "kernel_shap" else {}
            options |= {"mask_size": 1, "stride": 1, "mask_value": 0} if method == "occlusion" else {}
            size = seewhy.explain(net, x, method, target=0, **options).values.abs()[:, 0, 0]
            found[method].append(float(((size * blank).sum((1, 2)) / size.sum((1, 2))).mean()))
        covariance = background + torch.outer(pattern.flatten(), pattern.flatten())
        shown_by = (covariance @ w).abs().view(side, side)
        found["covariance × weights (Haufe et al. 2014)"].append(float((shown_by * blank).sum() / shown_by.sum()))
        off_pattern = w.view(side, side)[pattern == 0].abs().max() / w.abs().max()
        weights_on.append(float(off_pattern))
    says = (
        f"The largest weight where nothing is known is {spread(weights_on)} of the largest of all: it takes away "
        "background that is shared with the pattern."
    )
    return [[m, spread(v)] for m, v in found.items()], says


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    began, parts = time.perf_counter(), []

    def add(title, text, heads, rows):
        parts.append(f"### {title}\n\n{text}\n\n{table(heads, rows)}")
        print(f"{time.perf_counter() - began:.0f} s: {title}", file=sys.stderr, flush=True)

    add(
        "Known answers",
        f"{len(CELLS)} questions whose answer is known in closed form. Right: to 1e-12 in double precision; where a "
        "method draws, within four standard errors (LIME: and 4 % of the largest). Captum is asked where it "
        "has the method, with settings under which "
        "it can be exact (for Shapley values: all orders, or orders drawn where features do not interact).",
        ["method", "seewhy", "captum, to 1e-12", "captum, to 1e-6", "captum's largest error"],
        known_answers(),
    )
    add(
        "Disconnected mosaics",
        "Four pictures in one, a head for each that sees no other (DiFull, Rao et al. 2022). What of a map lies "
        "outside the cell of the class, as a share; mean over six drawn networks with its 95 % interval. Maps with one "
        "weight a channel leak by definition, windows across the border, random masks by their standard error.",
        ["method", "outside"],
        mosaics(),
    )
    rows, says = pasted()
    add(
        "Pasted objects",
        f"One network names the object, one the scene behind it (after Yang and Kim 2019). {says} Share of the "
        "absolute map on the object, mean over 60 pictures with its 95 % interval; the difference (model contrast) is "
        "0 for a map that does not see the network.",
        ["method", "object network", "scene network", "difference"],
        rows,
    )
    rows, says = watermark()
    add(
        "A planted watermark",
        f"Six networks learnt a mark in the corner, six did not. {says} With six and six the intervals are wide.",
        ["method", "AUROC (95 %)", "alarms, poisoned", "false alarms, clean", "rank correlation with reliance"],
        rows,
    )
    rows, says = suppressors()
    add(
        "Suppressor variables: where being right does not help",
        f"A linear network that is the best possible (after Haufe et al. 2014). {says} All of these maps are right "
        "about the network, and so point at places that know nothing of the class: share of the absolute map there, "
        "mean over ten backgrounds with its 95 % interval. A map of the network is no map of the data.",
        ["method", "share where nothing is known"],
        rows,
    )
    RESULTS.mkdir(exist_ok=True)
    took = f"{time.perf_counter() - began:.0f} s"
    (RESULTS / "evidence.md").write_text(f"{setting(torch.get_num_threads())}; {took}\n\n" + "\n".join(parts))


if __name__ == "__main__":
    main()
