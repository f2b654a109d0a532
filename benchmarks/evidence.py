"""Do explanations find what is known to be there? `python -m benchmarks.evidence`.

Known answers, disconnected mosaics, pasted objects, four pictures in one, planted marks, and suppressor variables.
"""

import sys
import time
import warnings
from collections import defaultdict

import numpy as np
import torch
from captum import attr
from tests.known import CELLS, FUNCTIONS, NETS, PICTURE, PLANTED, SIZE, TURNS, Apart, Attending, Mosaic, ask, leaks, off
from tests.networks import drawn
from torch import nn

import seewhy

from .marks import unknown, watermark
from .measure import RESULTS, setting, table
from .objects import grids, pasted, relied, taught
from .taught import READERS, spread

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
    elif cell.function not in FUNCTIONS:
        return None
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
    """Rows: a method, and what of its map lies outside the only cell that the class can see, in either mosaic."""
    exact = ["gradient", "input_x_gradient", "guided_backprop", "zeiler_fergus", "integrated_gradients", "smoothgrad",
             "vargrad", "expected_gradients", "hirescam", "layercam", "guided_gradcam", "fullgrad"]  # fmt: skip
    pooled = ["gradcam", "gradcam++", "xgradcam", "ablationcam", "recipro_cam", "scorecam", "eigencam"]
    tokens = ["attention_gradient", "rollout", "legrad"]
    hiding = ["occlusion", "feature_ablation", "rise", "lime", "kernel_shap"]
    shared, own = defaultdict(list), defaultdict(list)
    for seed in range(count):
        apart, attending = drawn(Apart().double(), seed), drawn(Attending().double(), seed)
        for method in (*exact, *pooled, *hiding, *tokens):
            net = drawn(Mosaic(kernel=1 if method == "fullgrad" else 3).double(), seed)
            options = {"feature_layer": "two", "upsample": "none"} if method in READERS else {}
            options |= {"feature_layer": "two"} if method == "guided_gradcam" else {}
            options |= {"samples": 8} if method in ("smoothgrad", "vargrad", "expected_gradients") else {}
            options |= {"mask_value": 0} if method in hiding else {}
            options |= {"segments": "grid", "features": 16} if method in hiding[1:] and method != "rise" else {}
            options |= {"surrogate": "linear"} if method == "lime" else {}
            options |= {"upsample": "none"} if method in tokens else {}
            turns = TURNS[:1] if method in hiding else TURNS
            own[method].append(np.nanmean(leaks(attending if method in tokens else apart, method, turns, **options)))
            if method not in tokens:
                shared[method].append(np.nanmean(leaks(net, method, turns, **options)))
        for name, faulty in PLANTED.items():
            own[name].append(np.nanmean(leaks(apart, faulty, feature_layer="two", upsample="none")))
    return [[m, _leak(shared[m]) if shared[m] else "–", _leak(v)] for m, v in own.items()]


def _leak(v):
    return "exactly 0" if max(v) == 0 else "0 to rounding" if max(v) < 1e-12 else spread(v, 2 if max(v) > 0.05 else 4)


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
        "outside the cell of the class, as a share; mean over six drawn networks, four samples (one where parts are "
        "hidden) and all four cells, asked in one call, with its 95 % interval over networks. With shared channels "
        "the cells run through the same layers, and a map with one weight a channel leaks by definition. With own "
        "channels each cell has some to itself, which are zero elsewhere (for attention methods: tokens that attend "
        "to their own cell only), so that right white-box methods have exactly 0. Three cannot: EigenCAM knows no "
        "class, Score-CAM's softmax gives weight to channels that do not count, LeGrad reads the mean of all "
        "tokens. Windows leak across the border, random masks by their standard error. The last rows are faults "
        "that were planted, to show that the test can tell; it does not see a mix-up within the cell.",
        ["method", "outside, shared channels", "outside, own channels"],
        mosaics(),
    )
    nets = taught()
    rows, says = pasted(nets)
    add(
        "Pasted objects",
        f"One network names the object, one the scene behind it (after Yang and Kim 2019). {says} Share of the "
        "absolute map on the object, mean over 60 pictures with its 95 % interval; the difference (model contrast) is "
        "0 for a map that does not see the network.",
        ["method", "object network", "scene network", "difference"],
        rows,
    )
    rows, says = relied(nets)
    add(
        "Pasted objects: does the map follow what counts",
        "Input dependence (scene network): in how many pictures the place of the object has a smaller share of the map "
        "than the bare scene has there; the object does not count, so right is all of them. Input independence (scene "
        "network): in how many a square of noise that changes no score changes its share by less than 10 %. The score "
        f"is the same there, the gradient need not be. {says} A map that ignores the picture has none of the first and "
        "all of the second: both count. Object network: whether the largest value is on the object or within 3 "
        "positions of it (pointing), and of as many largest values as the object has places, the share on it (rank "
        "accuracy). 60 pictures, 95 % intervals.",
        ["method", "input dependence", "input independence", "pointing", "rank accuracy"],
        rows,
    )
    rows, says = grids()
    add(
        "Four pictures in one",
        "The pointing game on a grid (GridPG, Rao et al. 2022): what share of the positive part of the map of a "
        "class (of products with the input: of its sum over channels) lies in the cell with its object, and in what "
        "share of the cells its largest value does; chance is 25 %. Mean over 24 mosaics of all four objects with "
        f"its 95 % interval. The network is one with mean pooling that says yes or no to each object. {says}",
        ["method", "in the right cell", "largest value in it"],
        rows,
    )
    rows, says = watermark()
    add(
        "A planted watermark",
        f"Six networks learnt a mark in the corner, six did not. {says} With six and six the intervals are wide.",
        ["method", "AUROC (95 %)", "alarms, poisoned", "false alarms, clean", "rank correlation with reliance"],
        rows,
    )
    rows, says = unknown()
    add(
        "A mark that nobody knows of",
        "Half of the pictures of a class carry a mark, nobody says which or where. Maps are put into two clusters, "
        "and the place where the clusters differ most is named (after Lapuschkin et al. 2019): whether it is the "
        "mark's (chance is 1 of 25), and how well the clusters tell marked pictures from others (balanced accuracy, "
        "whichever cluster is called marked, so that chance is about 0.55). Six poisoned networks, six that saw the "
        "mark as often in either class. The other mark is a slight blur of the whole picture (Adebayo et al. 2022). "
        f"There failure is the expected result, since a map can only point to places: poisoned as clean. {says}",
        [
            "method",
            "place named, poisoned",
            "place named, clean",
            "clusters, poisoned",
            "clusters, clean",
            "blur: clusters, poisoned",
            "blur: clusters, clean",
        ],
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
