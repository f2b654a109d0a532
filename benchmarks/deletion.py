"""Deletion beside Quantus: the same curve, the same steps, the same pictures.

Needs `pip install --no-deps quantus` on top of what `make bench` installs.
"""

import sys
import warnings

import numpy as np
import torch
from quantus import PixelFlipping
from sklearn.datasets import load_digits
from torch import nn

import seewhy
from seewhy.cli.demo import pictures
from seewhy.models.zoo import load

from .measure import RESULTS, interleaved, setting, table

STEPS = 16
BATCHES = (8, 16)


def quantus(net, e, steps, batch):
    """[N]: the mean probability over its steps."""
    positions = e.input[0].numel()
    per_step = -(-positions // steps)
    metric = PixelFlipping(
        features_in_step=per_step, perturb_baseline=0.0, abs=False, normalise=False, disable_warnings=True
    )
    channels = e.input.shape[1]
    found = metric(
        net, x_batch=e.input.numpy(), y_batch=e.targets[:, 0].numpy(), softmax=True, channel_first=True,
        a_batch=e.maps[:, :1].expand(-1, channels, -1, -1).numpy(), device="cpu", batch_size=batch,
    )  # fmt: skip
    return np.mean(found, 1)


def parity():
    """The largest difference on one channel, where both hide the same positions."""
    x = torch.from_numpy(load_digits().images[:16]).float()[:, None] / 16
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    e = seewhy.explain(net, x, "gradient", target=3)
    ours = seewhy.measure(net, e, "deletion", steps=STEPS, ties=1, fill=0.0).values[:, 0].numpy()
    return float(np.abs(ours - quantus(net, e, STEPS, 16)).max())


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    model = load("lite0")
    x = model.prepare(list(pictures().values()))
    x = torch.cat([x.roll(shift, 3) for shift in range(0, 96, 96 // (16 // len(x) + 1))])[:16]
    e = seewhy.explain(model, x, "gradient")
    calls = {"seewhy": lambda: seewhy.measure(model, e, "deletion", steps=STEPS, ties=1, fill=0.0)}
    calls |= {f"Quantus, {b} a pass": lambda b=b: quantus(model.module, e, STEPS, b) for b in BATCHES}
    seconds, given = interleaved(calls, 3)
    ours = seconds["seewhy"].median
    rows = [[name, f"{s.median:.2f}", f"{s.median / ours:.2f}"] for name, s in seconds.items()]
    far = max(abs(float(given["seewhy"].mean) - float(np.mean(g))) for n, g in given.items() if n != "seewhy")
    text = table(["deletion, 16 pictures, 16 steps", "s", "times ours"], rows)
    text += (
        f"\nOn one channel, where both hide the same positions, the curves agree to {parity():.0e}. On three channels "
        f"Quantus hides channels one by one; the means differ by {far:.2g}.\n"
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "deletion.md").write_text(f"{setting(torch.get_num_threads())}\n\n{text}")
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
