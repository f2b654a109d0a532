"""Perturbation methods compared with Captum, lime, shap and standard RISE, with equal samples and equal segments.

Requires `pip install lime shap` in addition to the packages that `make bench` installs.
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
from seewhy.engine.random_numbers import uniform_sampler
from seewhy.methods.perturbation.rise import _soft_masks

from .measure import RESULTS, environment, markdown_table, time_interleaved

SAMPLES = 120
BATCH_SIZES = (1, 8, 32)  # for libraries with such an option
SMALL_SIDE, REFERENCE_MASKS = 96, 16_000  # picture size and reference of the second table
RUNS, CELLS = 8, 7


def outputs_in_batches(net, points, size):
    """Outputs for many pictures, `size` per forward pass."""
    with torch.no_grad():
        return torch.cat([net(part) for part in points.split(size)])


def standard_rise(net, x, label, samples, size):
    """RISE as in the code of Petsiuk et al. 2018: randomly cropped, enlarged grids, and a sum of masks times scores."""
    generator = torch.Generator().manual_seed(0)
    side = x.shape[2]
    cell = -(-side // CELLS)
    masks = torch.empty(samples, 1, side, side)
    for n in range(samples):
        grid = (torch.rand(1, 1, CELLS, CELLS, generator=generator) < 0.5).float()
        large = torch.nn.functional.interpolate(grid, size=(CELLS + 1) * cell, mode="bilinear", align_corners=False)
        top, left = torch.randint(0, cell, (2,), generator=generator).tolist()
        masks[n] = large[0, :, top : top + side, left : left + side]
    scores = torch.cat([outputs_in_batches(net, x * part, size)[:, label] for part in masks.split(size)])
    return (scores @ masks.flatten(1)).view(side, side) / samples / 0.5


def calls(model, x, label, segments):
    """Method -> name of the library and batch size -> function to time."""
    net, mean = model.module, x.mean((2, 3), keepdim=True).expand_as(x).contiguous()
    count, mask = int(segments.max()) + 1, segments[None, None].repeat(1, 3, 1, 1)
    shared = {"target": label, "segments": segments}

    def each(name, call):
        return {f"{name} {size}": lambda size=size: call(size) for size in BATCH_SIZES}

    picture = np.ascontiguousarray(x[0].movedim(0, 2).numpy().astype("float64"))

    def lime(size):
        return LimeImageExplainer(random_state=0).explain_instance(
            picture,
            lambda points: outputs_in_batches(net, torch.from_numpy(points).movedim(3, 1).float(), size).numpy(),
            labels=(label,), top_labels=None, hide_color=0.0, num_features=count,
            num_samples=SAMPLES, batch_size=size, segmentation_fn=lambda _: segments.numpy(),
        )  # fmt: skip

    def shap(size):
        def of_masks(z):
            kept = torch.from_numpy(z).bool()
            points = (torch.where(k[segments][None], x[0], mean[0]) for k in kept)
            return torch.cat(
                [outputs_in_batches(net, part, size)[:, label] for part in in_batches(points, size)]
            ).numpy()

        explainer = KernelExplainer(of_masks, np.zeros((1, count)))
        return explainer.shap_values(np.ones((1, count)), nsamples=SAMPLES, l1_reg=False, silent=True)

    def captum(method, size, **options):
        with torch.no_grad():
            return method.attribute(x, target=label, baselines=mean, perturbations_per_eval=size, **options)

    ridge = attr.Lime(net, interpretable_model=SkLearnRidge(alpha=1.0))
    sampled = {"feature_mask": mask, "n_samples": SAMPLES}
    return {
        "occlusion": {"seewhy": lambda: seewhy.explain(model, x, "occlusion", target=label)}
        | each(
            "Captum", lambda s: captum(attr.Occlusion(net), s, sliding_window_shapes=(3, 45, 45), strides=(3, 22, 22))
        ),
        "feature_ablation": {"seewhy": lambda: seewhy.explain(model, x, "feature_ablation", **shared)}
        | each("Captum", lambda s: captum(attr.FeatureAblation(net), s, feature_mask=mask)),
        "lime, linear": {
            "seewhy": lambda: seewhy.explain(model, x, "lime", surrogate="linear", samples=SAMPLES, **shared)
        }
        | each("lime", lime)
        | each("Captum", lambda s: captum(ridge, s, **sampled)),
        "kernel_shap": {"seewhy": lambda: seewhy.explain(model, x, "kernel_shap", samples=SAMPLES, **shared)}
        | each("shap", shap)
        | each("Captum", lambda s: captum(attr.KernelShap(net), s, **sampled)),
        "rise": {"seewhy": lambda: seewhy.explain(model, x, "rise", target=label, samples=SAMPLES)}
        | each("standard RISE", lambda s: standard_rise(net, x, label, SAMPLES, s)),
    }


def in_batches(points, size):
    """Stack an iterable of tensors into batches."""
    batch = []
    for point in points:
        batch.append(point)
        if len(batch) == size:
            yield torch.stack(batch)
            batch = []
    if batch:
        yield torch.stack(batch)


def relative_times(model, x, label):
    """Rows of method and durations of other libraries relative to seewhy."""
    segments = seewhy.explain(model, x, "feature_ablation", target=label).extras["segments"][0]
    rows = []
    for method, libraries in calls(model, x, label, segments).items():
        times, results = time_interleaved(libraries, 3)
        ours, masks = times["seewhy"], results["seewhy"].evaluations.forward - 1
        peers = sorted({name.rsplit(" ", 1)[0] for name in times if name != "seewhy"}, reverse=True)
        for peer in peers:
            best = min((name for name in times if name.startswith(peer)), key=lambda name: times[name].median)
            by_size = ", ".join(f"{times[f'{peer} {size}'].median / ours.median:.2f}" for size in BATCH_SIZES)
            rows.append([
                method, str(masks), f"{ours.median:.2f}", peer, by_size, f"{times[best].median / ours.median:.2f}",
                f"{(ours.high - ours.low) / ours.median:.0%}",
            ])  # fmt: skip
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def rank_correlation(a, b):
    """Spearman's rank correlation of two maps."""
    return float(spearmanr(a.flatten(), b.flatten())[0])


def masks_needed(model, x, label):
    """Rows of score and number of masks, and how many masks standard RISE needs for the same rank correlation.

    The rank correlation is that with a map of many masks.
    """
    x = torch.nn.functional.interpolate(x, size=SMALL_SIDE, mode="area")
    targets = [lambda z: z[:, label], lambda z: z.softmax(1)[:, label]]

    def ours(samples, seed):
        e = seewhy.explain(
            model, x, "rise", target=targets, samples=samples, seed=seed, cells=CELLS, batch_size=32, mask_value="mean"
        )
        return e.maps[0]

    reference = ours(REFERENCE_MASKS, 999)
    # standard RISE: the same masks without their complements, and the same masked values
    net, mean = model.module, x.mean((2, 3), keepdim=True)
    draw, scores, blocks = uniform_sampler(1234), [], []
    for start in range(0, REFERENCE_MASKS, 500):
        masks = _soft_masks(draw(start, start + 500, (CELLS + 1) ** 2 + 2), (SMALL_SIDE, SMALL_SIDE), CELLS).float()
        output = outputs_in_batches(net, (mean + masks[:, None] * (x - mean)), 32)
        scores.append(torch.stack([output[:, label], output.softmax(1)[:, label]]))
        blocks.append(masks.flatten(1).half())
    y, masks = torch.cat(scores, 1), torch.cat(blocks)
    rows = []
    maps = {samples: [ours(samples, seed) for seed in range(RUNS)] for samples in (100, 200, 400, 800)}
    for k, score in enumerate(("logit", "probability")):

        def standard_map(part, centered, k=k):
            values = y[k, part] - (y[k, part].mean() if centered else 0)
            return values @ masks[part].float() / len(values)

        sizes = [125, 250, 500, 1000, 2000, 4000, 8000, 16_000]
        curves = []
        for centered in (False, True):
            curve = []
            for size in sizes:
                starts = range(0, REFERENCE_MASKS, max(size, REFERENCE_MASKS // RUNS))
                curve.append(
                    np.mean(
                        [rank_correlation(standard_map(slice(s, s + size), centered), reference[k]) for s in starts]
                    )
                )
            curves.append(np.maximum.accumulate(curve))
        for samples, runs in maps.items():
            mean_rank = np.mean([rank_correlation(map_[k], reference[k]) for map_ in runs])
            needed = []
            for curve in curves:
                if mean_rank > curve[-1]:
                    needed.append(f"> {sizes[-1] / samples:.0f}")
                else:
                    needed.append(f"{np.exp(np.interp(mean_rank, curve, np.log(sizes))) / samples:.1f}")
            rows.append([score, str(samples), f"{mean_rank:.3f}", *needed])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    model = seewhy.load("lite0")
    x, label = model.prepare(pictures()["chelsea"]), 285
    sizes = ", ".join(map(str, BATCH_SIZES))
    headers = ["method", "masks", "seewhy, s", "compared with", f"relative duration, batch sizes {sizes}",
               "smallest relative duration", "spread"]  # fmt: skip
    text = markdown_table(headers, relative_times(model, x, label))
    headers = ["score", "masks, seewhy", "rank correlation with 16,000 masks", "masks, standard RISE / seewhy",
               "with the mean score subtracted"]  # fmt: skip
    text += f"\nRISE at {SMALL_SIDE} × {SMALL_SIDE}:\n\n" + markdown_table(headers, masks_needed(model, x, label))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "perturb.md").write_text(f"{environment(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
