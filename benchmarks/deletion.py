"""Deletion beside Quantus: as either does it by default, and at equal evaluations.

`python -m benchmarks.deletion [defaults|equal]`. Needs `pip install --no-deps quantus` on top of what `make bench`
installs. The defaults take about five minutes, nearly all of them in Quantus' one loop.
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
from seewhy.evidence.curves import at_input, explained_scores, filling, order
from seewhy.models.zoo import load

from .measure import RESULTS, interleaved, setting, table

STEPS = 48
BATCHES = (8, 16)
FEWER = (6, 12, 24, 48, 96)


def flipped(net, e, **options):
    """[N, steps]: the probability after each of Quantus' steps."""
    metric = PixelFlipping(disable_warnings=True, **{k: v for k, v in options.items() if k != "batch"})
    found = metric(
        net, x_batch=e.input.numpy(), y_batch=e.targets[:, 0].numpy(), softmax=True, channel_first=True,
        a_batch=e.maps[:, :1].expand(-1, e.input.shape[1], -1, -1).numpy(), device="cpu",
        batch_size=options.get("batch", 64),
    )  # fmt: skip
    return np.array(found)


def quantus(net, e, steps, batch):
    """[N]: the mean probability over its steps, zero filled in."""
    per_step = e.input[0].numel() // steps
    given = {"perturb_baseline": 0.0, "normalise": False, "batch": batch}
    return flipped(net, e, features_in_step=per_step, **given).mean(1)


# --- as either does it by default


def small(model, side=40):
    """Sixteen parts of the demo's pictures, made small."""
    x = model.prepare(list(pictures().values()))
    parts = [x[n, :, i : i + 144, j : j + 144] for n in range(len(x)) for i in (0, 40, 80) for j in (0, 80)]
    return nn.functional.interpolate(torch.stack(parts)[:16], (side, side), mode="area")


def curve(model, e, fill, parts):
    """[parts + 1, N]: the probability with 0, 1, ... of so many parts hidden."""
    ranked = order(at_input(e)[:, 0], np.random.default_rng(0))
    scores, filled = explained_scores(model, e, 0, count=parts), filling(model, e.input, fill)
    return np.array([scores(filled(ranked < step / parts)).numpy() for step in range(parts + 1)])


def rules(whole, steps):
    """Rule -> [N]: the area under a curve from so many of its points."""
    at = np.arange(len(whole)) / (len(whole) - 1)
    read = lambda shares: np.array([np.interp(shares, at, one) for one in whole.T])  # noqa: E731
    ends, middles = np.arange(steps + 1) / steps, (np.arange(steps) + 0.5) / steps
    points = read(ends)
    return {
        "ends of the steps (as it is)": points[:, 1:].mean(1),
        "trapezoid": (points[:, 1:] + points[:, :-1]).mean(1) / 2,
        "middles": read(middles).mean(1),
        "middles of steps that grow as squares": (read(middles**2) * np.diff(ends**2)).sum(1),
    }


def defaults():
    """The table of times and areas, and what fewer steps cost."""
    model = load("lite0")
    x = small(model)
    black = x.flatten(1).amin(1).view(-1, 1, 1, 1).expand_as(x)  # what Quantus fills in
    e = seewhy.explain(model, x, "gradient")
    ours = {
        "seewhy, its defaults": lambda: seewhy.measure(model, e, "deletion"),
        "seewhy, filled as Quantus fills": lambda: seewhy.measure(model, e, "deletion", fill=black),
    }
    theirs, seconds = [], {name: [] for name in ours}

    def once():
        for name, call in ours.items():
            began = time.perf_counter()
            given[name] = call()
            seconds[name].append(time.perf_counter() - began)

    given = {}
    for call in ours.values():
        call()  # to warm up
    flipped(model.module, e, features_in_step=x[0, 0].numel())
    once()
    began = time.perf_counter()
    theirs = flipped(model.module, e)
    loop = time.perf_counter() - began
    once()
    once()
    full = theirs.mean(1)
    rows = []
    for name, m in given.items():
        took, area = float(np.median(seconds[name])), m.values[:, 0].numpy()
        rows.append([name, "16", f"{took:.2f}", f"{loop / took:.0f} times as fast", f"{area.mean():.3f}",
                     f"{abs(area - full).mean():.3f} (at most {abs(area - full).max():.3f})"])  # fmt: skip
    rows.append(["Quantus, its defaults", str(theirs.shape[1]), f"{loop:.1f}", "1", f"{full.mean():.3f}", "–"])
    side, channels = x.shape[-1], x.shape[1]
    text = table(
        [f"16 pictures of {channels} × {side} × {side}", "steps", "s", "", "mean area", "from Quantus, a picture"], rows
    )
    near, reported = given["seewhy, filled as Quantus fills"], given["seewhy, its defaults"].stderr
    near = near.values[:, 0].numpy()
    follows = np.corrcoef(near, full)[0, 1]
    text += (
        f"\nThe areas of the pictures spread by {full.std(ddof=1):.3f} (standard deviation), and seewhy's follow "
        f"Quantus' to a correlation of {follows:.2f} where the same is filled in. The error that seewhy reports is "
        f"{float(reported.max()):.2g}: it is that of the order of equal values, of which these maps have none, and "
        "knows nothing of the steps. What those cost:\n\n"
    )
    positions = x[0, 0].numel()
    whole = curve(model, e, black, positions)
    known = whole[1:].mean(0)
    off = lambda found, true: f"{abs(found - true).mean():.4f}"  # noqa: E731
    rows = []
    for steps in FEWER:
        some = seewhy.measure(model, e, "deletion", fill=black, steps=steps).values[:, 0].numpy()
        few = flipped(model.module, e, features_in_step=x[0].numel() // steps).mean(1)
        rows.append([str(steps), off(some, known), off(few, full)])
    text += table(["steps", "seewhy: error of an area", "Quantus: error of an area"], rows)
    text += (
        f"\nMean over the pictures of the distance to the own full curve (seewhy: {positions} steps, mean area "
        f"{known.mean():.4f}; Quantus: {theirs.shape[1]}, {full.mean():.4f}). Both take the score at the end of each "
        "step, which is too low where the score falls.\n\nThe same points, read otherwise, or others, as many:\n\n"
    )
    curves = {
        "gradient, black": whole,
        "gradient, blurred": curve(model, e, "blur", positions // 4),
        "Grad-CAM, blurred": curve(model, seewhy.explain(model, x, "gradcam"), "blur", positions // 4),
    }
    rows = []
    for rule in rules(whole, 16):
        cells = []
        for one in curves.values():
            true = (one[1:] + one[:-1]).mean(0) / 2
            cells += [off(rules(one, steps)[rule], true) for steps in (16, 48)]
        rows.append([rule, *cells])
    text += table(["rule", *(f"{name}, {steps} steps" for name in curves for steps in (16, 48))], rows)
    write("deletion_defaults", text)


# --- at equal evaluations


def parity():
    """The largest difference on one channel, where both hide the same positions."""
    x = torch.from_numpy(load_digits().images[:16]).float()[:, None] / 16
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    e = seewhy.explain(net, x, "gradient", target=3)
    ours = seewhy.measure(net, e, "deletion", steps=16, ties=1, fill=0.0).values[:, 0].numpy()
    return float(np.abs(ours - quantus(net, e, 16, 16)).max())


def equal():
    """The table of times where both ask the network equally often."""
    model = load("lite0")
    x = model.prepare(list(pictures().values()))
    x = torch.cat([x.roll(shift, 3) for shift in range(0, 96, 96 // (16 // len(x) + 1))])[:16]
    e = seewhy.explain(model, x, "gradient")
    calls = {"seewhy": lambda: seewhy.measure(model, e, "deletion", steps=STEPS, ties=1, fill=0.0)}
    calls |= {f"Quantus, {b} a pass": lambda b=b: quantus(model.module, e, STEPS, b) for b in BATCHES}
    seconds, given = interleaved(calls, 2)
    ours = seconds["seewhy"].median
    rows = [[name, f"{s.median:.2f}", f"{s.median / ours:.2f}"] for name, s in seconds.items()]
    far = max(abs(float(given["seewhy"].mean) - float(np.mean(g))) for n, g in given.items() if n != "seewhy")
    text = table([f"16 pictures of 3 × 224 × 224, {STEPS} steps each", "s", "times ours"], rows)
    text += (
        f"\nOn one channel, where both hide the same positions, the curves agree to {parity():.0e}. On three channels "
        f"Quantus hides channels one by one; the means differ by {far:.2g}.\n"
    )
    write("deletion", text)


def write(name, text):
    """The record."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(f"{setting(torch.get_num_threads())}\n\n{text}")
    print(text, file=sys.stderr)


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    for name, part in (("defaults", defaults), ("equal", equal)):
        if sys.argv[1:] in ([], [name]):
            part()


if __name__ == "__main__":
    main()
