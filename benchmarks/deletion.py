"""Deletion compared with Quantus: with the defaults of each, and with equal numbers of evaluations.

`python -m benchmarks.deletion [defaults|equal]`. Requires `pip install --no-deps quantus` in addition to the packages
that `make bench` installs. The defaults take about five minutes, most of them in Quantus.
"""

import sys
import time
import warnings

import numpy as np
import torch
from quantus import PixelFlipping
from sklearn.datasets import load_digits
from torch import nn

import seewhy
from seewhy.cli.demo import pictures
from seewhy.evaluation.metrics.perturbation_curves import (
    descending_ranks,
    explained_score_function,
    fill_function,
    maps_at_input_size,
)
from seewhy.models.zoo import load

from .measure import RESULTS, environment, markdown_table, time_interleaved

STEPS = 48
BATCH_SIZES = (8, 16)
STEP_COUNTS = (6, 12, 24, 48, 96)


def quantus_curve(net, e, **options):
    """Probability after each of Quantus' steps, [N, steps]."""
    metric = PixelFlipping(disable_warnings=True, **{k: v for k, v in options.items() if k != "batch"})
    scores = metric(
        net, x_batch=e.input.numpy(), y_batch=e.targets[:, 0].numpy(), softmax=True, channel_first=True,
        a_batch=e.maps[:, :1].expand(-1, e.input.shape[1], -1, -1).numpy(), device="cpu",
        batch_size=options.get("batch", 64),
    )  # fmt: skip
    return np.array(scores)


def quantus_area(net, e, steps, batch):
    """Mean probability over Quantus' steps with masked values of 0, [N]."""
    per_step = e.input[0].numel() // steps
    options = {"perturb_baseline": 0.0, "normalise": False, "batch": batch}
    return quantus_curve(net, e, features_in_step=per_step, **options).mean(1)


# --- with the defaults


def small_images(model, side=40):
    """Sixteen downsampled crops of the demo images."""
    x = model.prepare(list(pictures().values()))
    parts = [x[n, :, i : i + 144, j : j + 144] for n in range(len(x)) for i in (0, 40, 80) for j in (0, 80)]
    return nn.functional.interpolate(torch.stack(parts)[:16], (side, side), mode="area")


def deletion_curve(model, e, fill, steps):
    """Probability with 0, 1/steps, ..., all positions masked, [steps + 1, N]."""
    ranks = descending_ranks(maps_at_input_size(e)[:, 0], np.random.default_rng(0))
    score_fn, fill_fn = explained_score_function(model, e, 0, expected_calls=steps), fill_function(model, e.input, fill)
    return np.array([score_fn(fill_fn(ranks < step / steps)).numpy() for step in range(steps + 1)])


def quadrature_rules(curve, steps):
    """Area under a curve [points, N] from `steps` of its points: name of the rule -> [N]."""
    fractions = np.arange(len(curve)) / (len(curve) - 1)
    at = lambda points: np.array([np.interp(points, fractions, one) for one in curve.T])  # noqa: E731
    ends, middles = np.arange(steps + 1) / steps, (np.arange(steps) + 0.5) / steps
    values = at(ends)
    return {
        "right end points (used)": values[:, 1:].mean(1),
        "trapezoidal rule": (values[:, 1:] + values[:, :-1]).mean(1) / 2,
        "midpoints": at(middles).mean(1),
        "midpoints of quadratically growing steps": (at(middles**2) * np.diff(ends**2)).sum(1),
    }


def defaults():
    """Write the table of durations and areas, and the errors with fewer steps."""
    model = load("lite0")
    x = small_images(model)
    black = x.flatten(1).amin(1).view(-1, 1, 1, 1).expand_as(x)  # Quantus' default fill value
    e = seewhy.explain(model, x, "gradient")
    calls = {
        "seewhy, defaults": lambda: seewhy.measure(model, e, "deletion"),
        "seewhy, Quantus' fill value": lambda: seewhy.measure(model, e, "deletion", fill=black),
    }
    seconds = {name: [] for name in calls}

    def time_seewhy():
        for name, call in calls.items():
            began = time.perf_counter()
            measurements[name] = call()
            seconds[name].append(time.perf_counter() - began)

    measurements = {}
    for call in calls.values():
        call()  # warm-up
    quantus_curve(model.module, e, features_in_step=x[0, 0].numel())
    time_seewhy()
    began = time.perf_counter()
    quantus_scores = quantus_curve(model.module, e)
    quantus_seconds = time.perf_counter() - began
    time_seewhy()
    time_seewhy()
    quantus_areas = quantus_scores.mean(1)
    rows = []
    for name, m in measurements.items():
        median, area = float(np.median(seconds[name])), m.values[:, 0].numpy()
        difference = abs(area - quantus_areas)
        rows.append([name, "16", f"{median:.2f}", f"{quantus_seconds / median:.0f} times as fast", f"{area.mean():.3f}",
                     f"{difference.mean():.3f} (at most {difference.max():.3f})"])  # fmt: skip
    rows.append(["Quantus, defaults", str(quantus_scores.shape[1]), f"{quantus_seconds:.1f}", "1",
                 f"{quantus_areas.mean():.3f}", "–"])  # fmt: skip
    side, channels = x.shape[-1], x.shape[1]
    headers = [f"16 images of {channels} × {side} × {side}", "steps", "s", "", "mean area"]
    text = markdown_table([*headers, "difference from Quantus per image"], rows)
    same_fill, reported = measurements["seewhy, Quantus' fill value"], measurements["seewhy, defaults"].stderr
    correlation = np.corrcoef(same_fill.values[:, 0].numpy(), quantus_areas)[0, 1]
    text += (
        f"\nThe standard deviation of the areas over the images is {quantus_areas.std(ddof=1):.3f}; with the same "
        f"fill value, the areas of seewhy and Quantus have a correlation of {correlation:.2f}. The standard error that "
        f"seewhy reports is {float(reported.max()):.2g}: it is that over the random orders of equal values, of which "
        "these maps have none, and does not include the error of few steps:\n\n"
    )
    positions = x[0, 0].numel()
    full_curve = deletion_curve(model, e, black, positions)
    full_area = full_curve[1:].mean(0)
    error = lambda area, expected: f"{abs(area - expected).mean():.4f}"  # noqa: E731
    rows = []
    for steps in STEP_COUNTS:
        area = seewhy.measure(model, e, "deletion", fill=black, steps=steps).values[:, 0].numpy()
        quantus_few = quantus_curve(model.module, e, features_in_step=x[0].numel() // steps).mean(1)
        rows.append([str(steps), error(area, full_area), error(quantus_few, quantus_areas)])
    text += markdown_table(["steps", "seewhy: error of the area", "Quantus: error of the area"], rows)
    text += (
        "\nMean over the images of the absolute difference from the full curve of the same library (seewhy: "
        f"{positions} steps, mean area {full_area.mean():.4f}; Quantus: {quantus_scores.shape[1]}, "
        f"{quantus_areas.mean():.4f}). Both use the score at the end of each step, which is too low where the score "
        "falls.\n\n"
        "The error of the area with other quadrature rules:\n\n"
    )
    curves = {
        "gradient, black": full_curve,
        "gradient, blurred": deletion_curve(model, e, "blur", positions // 4),
        "Grad-CAM, blurred": deletion_curve(model, seewhy.explain(model, x, "gradcam"), "blur", positions // 4),
    }
    rows = []
    for rule in quadrature_rules(full_curve, 16):
        cells = []
        for curve in curves.values():
            expected = (curve[1:] + curve[:-1]).mean(0) / 2
            cells += [error(quadrature_rules(curve, steps)[rule], expected) for steps in (16, 48)]
        rows.append([rule, *cells])
    text += markdown_table(["rule", *(f"{name}, {steps} steps" for name in curves for steps in (16, 48))], rows)
    write("deletion_defaults", text)


# --- with equal numbers of evaluations


def largest_difference():
    """Largest difference between the areas on images of one channel, where both mask the same positions."""
    x = torch.from_numpy(load_digits().images[:16]).float()[:, None] / 16
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    e = seewhy.explain(net, x, "gradient", target=3)
    areas = seewhy.measure(net, e, "deletion", steps=16, ties=1, fill=0.0).values[:, 0].numpy()
    return float(np.abs(areas - quantus_area(net, e, 16, 16)).max())


def equal():
    """Write the table of durations with equal numbers of evaluations."""
    model = load("lite0")
    x = model.prepare(list(pictures().values()))
    x = torch.cat([x.roll(shift, 3) for shift in range(0, 96, 96 // (16 // len(x) + 1))])[:16]
    e = seewhy.explain(model, x, "gradient")
    calls = {"seewhy": lambda: seewhy.measure(model, e, "deletion", steps=STEPS, ties=1, fill=0.0)}
    calls |= {f"Quantus, batch size {b}": lambda b=b: quantus_area(model.module, e, STEPS, b) for b in BATCH_SIZES}
    seconds, results = time_interleaved(calls, 2)
    reference = seconds["seewhy"].median
    rows = [[name, f"{s.median:.2f}", f"{s.median / reference:.2f}"] for name, s in seconds.items()]
    mean = float(results["seewhy"].mean)
    difference = max(abs(mean - float(np.mean(r))) for name, r in results.items() if name != "seewhy")
    text = markdown_table([f"16 images of 3 × 224 × 224, {STEPS} steps each", "s", "relative to seewhy"], rows)
    text += (
        f"\nOn images of one channel, where both mask the same positions, the areas differ by at most "
        f"{largest_difference():.0e}. On three channels Quantus masks the channels one by one; the means differ by "
        f"{difference:.2g}.\n"
    )
    write("deletion", text)


def write(name, text):
    """Write a file of results."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(f"{environment(torch.get_num_threads())}\n\n{text}")
    print(text, file=sys.stderr)


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    for name, part in (("defaults", defaults), ("equal", equal)):
        if sys.argv[1:] in ([], [name]):
            part()


if __name__ == "__main__":
    main()
