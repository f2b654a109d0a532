"""The check beside the straightforward loop: every network, method and picture on its own, the same maps."""

import copy
import statistics
import sys
import time
import warnings
from pathlib import Path

import skimage
import sklearn.datasets
import torch
from torchvision.transforms.functional import gaussian_blur

import seewhy
from seewhy.cli.demo import pictures
from seewhy.evidence.check import CONTROLS, LEVELS
from seewhy.evidence.networks import KINDS
from seewhy.evidence.randomize import rows_of

from .measure import RESULTS, setting, table

METHODS = ["gradient", "guided_backprop", "gradcam"]
ROUNDS = 2


def files() -> list[str]:
    """What installed packages carry."""
    skimages, photos = Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"
    more = [skimages / "astronaut.png", skimages / "rocket.jpg", skimages / "motorcycle_left.png"]
    return [str(f) for f in (*pictures().values(), photos / "china.jpg", photos / "flower.jpg", *more)]


def deleted(net, x, order_by, label, steps):
    """The mean probability while one picture loses what a map puts first."""
    places = order_by.flatten().argsort(descending=True).argsort().view(x.shape[2:]) / order_by.numel()
    blurred, total = gaussian_blur(x, 61, 20.0), 0.0
    with torch.no_grad():
        for step in range(1, steps + 1):
            hidden = torch.where(places < (step / (steps + 1)) ** 1.5, blurred, x)
            total += float(net(hidden).softmax(1)[0, label])
    return total / steps


def loop(model, x):
    """As one would write it: copy, draw, explain; and deletion, map by map."""
    _, draws, steps = LEVELS["quick"]
    best = seewhy.predict(model, x).indices[:, 0]
    rows = [row for row in rows_of(model, x[:1]) if row[1]]
    parts = {"top": rows[-1:], "half": rows[len(rows) // 2 :], "all": rows, "bottom": rows[:-1]}
    everything = [*METHODS, *CONTROLS]
    nets = [model]
    for draw in range(draws):
        for kind in KINDS:
            net = copy.deepcopy(model.module)
            generator = torch.Generator().manual_seed(draw)
            weights = dict(net.named_parameters())
            with torch.no_grad():
                for name in (name for _, owned in parts[kind] for name in owned):
                    w = weights[name]
                    w.copy_(torch.randn(w.shape, generator=generator) * w.std())
            nets.append(seewhy.wrap(net))
    for net in nets:
        for method in everything:
            for n in range(len(x)):
                seewhy.explain(net, x[n : n + 1], method, target=best[n : n + 1, None], upsample="none")
    for n in range(len(x)):
        for k in range(1, 3):  # the maps of other classes
            other = (best[n : n + 1, None] + k) % 1000
            for method in everything:
                seewhy.explain(model, x[n : n + 1], method, target=other, upsample="none")
        for method in (*METHODS, "random"):
            e = seewhy.explain(model, x[n : n + 1], method, target=best[n : n + 1, None], upsample="none")
            whole = torch.nn.functional.interpolate(e.maps, size=x.shape[2:], mode="bilinear")[0, 0]
            shuffled = whole.flatten()[torch.randperm(whole.numel())].view_as(whole)
            for one in (shuffled, whole):
                deleted(model.module, x[n : n + 1], one, int(best[n]), steps)


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    model = seewhy.load("lite0")
    x = model.prepare(files())
    seconds = {"check": [], "loop": []}
    seewhy.explain(model, x[:1], METHODS)  # once to warm up
    for _ in range(ROUNDS):
        for name, call in (("check", lambda: seewhy.check(model, x, METHODS)), ("loop", lambda: loop(model, x))):
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
            print(name, f"{seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    middle = {name: statistics.median(s) for name, s in seconds.items()}
    ratio = [c / s for c, s in zip(seconds["check"], seconds["loop"], strict=True)]
    rows = [
        [str(len(x)), ", ".join(METHODS), f"{middle['check']:.1f}", f"{middle['loop']:.1f}",
         f"{statistics.median(ratio):.2f}", f"{min(ratio):.2f} to {max(ratio):.2f}"]
    ]  # fmt: skip
    text = table(["pictures", "methods", "check, s", "loop, s", "ratio", "ratios"], rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "check.md").write_text(f"{setting(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
