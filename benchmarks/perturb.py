"""Methods that hide parts, beside Captum, lime, shap and the textbook's RISE, at equal samples and equal segments.

Needs `pip install lime shap` on top of what `make bench` installs.
"""

import sys
import warnings

import numpy as np
import torch
from captum import attr
from captum._utils.models.linear_model import SkLearnRidge
from lime.lime_image import LimeImageExplainer
from scipy.stats import spearmanr
from shap import KernelExplainer

import seewhy
from seewhy.cli.demo import pictures
from seewhy.methods.draws import uniform
from seewhy.methods.perturb.rise import _masks

from .measure import RESULTS, interleaved, setting, table

SAMPLES = 120
EVALS = (1, 8, 32)  # pictures a pass, where a library lets its user choose
LOW, REFERENCE = 96, 16_000  # the side of the picture for the last table, and masks of its reference
POOLS, CELLS = 8, 7


def plainly(net, points, size):
    """The scores of many pictures, so many a pass."""
    with torch.no_grad():
        return torch.cat([net(part) for part in points.split(size)])


def textbook_rise(net, x, label, samples, size):
    """Petsiuk et al. 2018, as their code does it: grids enlarged and cut at random, and a weighted sum."""
    generator = torch.Generator().manual_seed(0)
    side = x.shape[2]
    cell = -(-side // CELLS)
    masks = torch.empty(samples, 1, side, side)
    for n in range(samples):
        grid = (torch.rand(1, 1, CELLS, CELLS, generator=generator) < 0.5).float()
        large = torch.nn.functional.interpolate(grid, size=(CELLS + 1) * cell, mode="bilinear", align_corners=False)
        top, left = torch.randint(0, cell, (2,), generator=generator).tolist()
        masks[n] = large[0, :, top : top + side, left : left + side]
    scores = torch.cat([plainly(net, x * part, size)[:, label] for part in masks.split(size)])
    return (scores @ masks.flatten(1)).view(side, side) / samples / 0.5


def calls(model, x, label, segments):
    """Method -> library -> a call. Libraries that take a batch size come once for each."""
    net, mean = model.module, x.mean((2, 3), keepdim=True).expand_as(x).contiguous()
    count, mask = int(segments.max()) + 1, segments[None, None].repeat(1, 3, 1, 1)
    same = {"target": label, "segments": segments}

    def each(name, call):
        return {f"{name} {size}": lambda size=size: call(size) for size in EVALS}

    picture = np.ascontiguousarray(x[0].movedim(0, 2).numpy().astype("float64"))

    def lime(size):
        return LimeImageExplainer(random_state=0).explain_instance(
            picture,
            lambda points: plainly(net, torch.from_numpy(points).movedim(3, 1).float(), size).numpy(),
            labels=(label,), top_labels=None, hide_color=0.0, num_features=count,
            num_samples=SAMPLES, batch_size=size, segmentation_fn=lambda _: segments.numpy(),
        )  # fmt: skip

    def shap(size):
        def of_masks(z):
            kept = torch.from_numpy(z).bool()
            points = (torch.where(k[segments][None], x[0], mean[0]) for k in kept)
            return torch.cat([plainly(net, part, size)[:, label] for part in batched(points, size)]).numpy()

        explainer = KernelExplainer(of_masks, np.zeros((1, count)))
        return explainer.shap_values(np.ones((1, count)), nsamples=SAMPLES, l1_reg=False, silent=True)

    def captum(method, size, **more):
        with torch.no_grad():
            return method.attribute(x, target=label, baselines=mean, perturbations_per_eval=size, **more)

    ridge = attr.Lime(net, interpretable_model=SkLearnRidge(alpha=1.0))
    drawn = {"feature_mask": mask, "n_samples": SAMPLES}
    return {
        "occlusion": {"seewhy": lambda: seewhy.explain(model, x, "occlusion", target=label)}
        | each(
            "Captum", lambda s: captum(attr.Occlusion(net), s, sliding_window_shapes=(3, 45, 45), strides=(3, 22, 22))
        ),
        "feature_ablation": {"seewhy": lambda: seewhy.explain(model, x, "feature_ablation", **same)}
        | each("Captum", lambda s: captum(attr.FeatureAblation(net), s, feature_mask=mask)),
        "lime, linear": {
            "seewhy": lambda: seewhy.explain(model, x, "lime", surrogate="linear", samples=SAMPLES, **same)
        }
        | each("lime", lime)
        | each("Captum", lambda s: captum(ridge, s, **drawn)),
        "kernel_shap": {"seewhy": lambda: seewhy.explain(model, x, "kernel_shap", samples=SAMPLES, **same)}
        | each("shap", shap)
        | each("Captum", lambda s: captum(attr.KernelShap(net), s, **drawn)),
        "rise": {"seewhy": lambda: seewhy.explain(model, x, "rise", target=label, samples=SAMPLES)}
        | each("textbook", lambda s: textbook_rise(net, x, label, SAMPLES, s)),
    }


def batched(points, size):
    """Tensors one by one as batches."""
    held = []
    for point in points:
        held.append(point)
        if len(held) == size:
            yield torch.stack(held)
            held = []
    if held:
        yield torch.stack(held)


def speed(model, x, label):
    """Rows: a method and how much longer the others take."""
    segments = seewhy.explain(model, x, "feature_ablation", target=label).extras["segments"][0]
    rows = []
    for method, libraries in calls(model, x, label, segments).items():
        time, last = interleaved(libraries, 3)
        ours, passes = time["seewhy"], last["seewhy"].evaluations.forward - 1
        peers = sorted({name.rsplit(" ", 1)[0] for name in time if name != "seewhy"}, reverse=True)
        for peer in peers:
            best = min((name for name in time if name.startswith(peer)), key=lambda name: time[name].median)
            by_size = ", ".join(f"{time[f'{peer} {size}'].median / ours.median:.2f}" for size in EVALS)
            rows.append([
                method, str(passes), f"{ours.median:.2f}", peer, by_size, f"{time[best].median / ours.median:.2f}",
                f"{(ours.high - ours.low) / ours.median:.0%}",
            ])  # fmt: skip
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def ranks(a, b):
    """Spearman's correlation of two maps."""
    return float(spearmanr(a.flatten(), b.flatten())[0])


def fewer(model, x, label):
    """Rows: masks of ours, and how many the textbook's sum needs for the same rank correlation with a long run."""
    x = torch.nn.functional.interpolate(x, size=LOW, mode="area")
    both = [lambda z: z[:, label], lambda z: z.softmax(1)[:, label]]

    def ours(samples, seed):
        e = seewhy.explain(
            model, x, "rise", target=both, samples=samples, seed=seed, cells=CELLS, batch_size=32, mask_value="mean"
        )
        return e.maps[0]

    reference = ours(REFERENCE, 999)
    # the same masks without their complements, and the same fill
    net, mean = model.module, x.mean((2, 3), keepdim=True)
    draw, answers, blocks = uniform(1234), [], []
    for start in range(0, REFERENCE, 500):
        masks = _masks(draw(start, start + 500, (CELLS + 1) ** 2 + 2), (LOW, LOW), CELLS).float()
        output = plainly(net, (mean + masks[:, None] * (x - mean)), 32)
        answers.append(torch.stack([output[:, label], output.softmax(1)[:, label]]))
        blocks.append(masks.flatten(1).half())
    y, masks = torch.cat(answers, 1), torch.cat(blocks)
    rows = []
    maps = {samples: [ours(samples, seed) for seed in range(POOLS)] for samples in (100, 200, 400, 800)}
    for k, score in enumerate(("logit", "probability")):

        def textbook(part, centre, k=k):
            values = y[k, part] - (y[k, part].mean() if centre else 0)
            return values @ masks[part].float() / len(values)

        sizes = [125, 250, 500, 1000, 2000, 4000, 8000, 16_000]
        curves = []
        for centre in (False, True):
            curve = []
            for size in sizes:
                starts = range(0, REFERENCE, max(size, REFERENCE // POOLS))
                curve.append(np.mean([ranks(textbook(slice(s, s + size), centre), reference[k]) for s in starts]))
            curves.append(np.maximum.accumulate(curve))
        for samples, found in maps.items():
            mean_rank = np.mean([ranks(one[k], reference[k]) for one in found])
            needed = []
            for curve in curves:
                if mean_rank > curve[-1]:
                    needed.append(f"> {sizes[-1] / samples:.0f}")
                else:
                    masks_needed = np.exp(np.interp(mean_rank, curve, np.log(sizes)))
                    needed.append(f"{masks_needed / samples:.1f}")
            rows.append([score, str(samples), f"{mean_rank:.3f}", *needed])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    model = seewhy.load("lite0")
    x, label = model.prepare(pictures()["chelsea"]), 285
    heads = ["method", "masks", "seewhy, s", "beside", f"its time over ours at {', '.join(map(str, EVALS))} a pass",
             "at its best", "spread"]  # fmt: skip
    text = table(heads, speed(model, x, label))
    heads = ["score", "masks of ours", "rank correlation with 16,000", "textbook needs, times as many",
             "with the mean subtracted"]  # fmt: skip
    text += f"\nRISE at {LOW} × {LOW}:\n\n" + table(heads, fewer(model, x, label))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "perturb.md").write_text(f"{setting(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
