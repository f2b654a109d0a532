"""Duration of `seewhy.check` compared with a simple loop over networks, methods and images."""

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
from seewhy.evaluation.sanity_checks.check import CONTROLS, LEVELS
from seewhy.evaluation.sanity_checks.randomize import parameters_by_row
from seewhy.evaluation.sanity_checks.randomized_networks import NETWORK_KINDS

from .measure import RESULTS, environment, markdown_table

METHODS = ["gradient", "guided_backprop", "gradcam"]
ROUNDS = 2


def files() -> list[str]:
    """Paths of eight photographs that are part of installed packages."""
    skimage_data, photos = Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"
    more = [skimage_data / "astronaut.png", skimage_data / "rocket.jpg", skimage_data / "motorcycle_left.png"]
    return [str(f) for f in (*pictures().values(), photos / "china.jpg", photos / "flower.jpg", *more)]


def mean_deletion_score(net, x, heatmap, label, steps):
    """Mean probability of the class while positions of one image are masked in the order of a map."""
    ranks = heatmap.flatten().argsort(descending=True).argsort().view(x.shape[2:]) / heatmap.numel()
    blurred, total = gaussian_blur(x, 61, 20.0), 0.0
    with torch.no_grad():
        for step in range(1, steps + 1):
            masked = torch.where(ranks < (step / (steps + 1)) ** 1.5, blurred, x)
            total += float(net(masked).softmax(1)[0, label])
    return total / steps


def simple_loop(model, x):
    """The same maps and deletion curves, one network, method and image at a time."""
    _, draws, steps = LEVELS["quick"]
    best = seewhy.predict(model, x).indices[:, 0]
    rows = [row for row in parameters_by_row(model, x[:1]) if row[1]]
    parts = {"top": rows[-1:], "half": rows[len(rows) // 2 :], "all": rows, "bottom": rows[:-1]}
    methods = [*METHODS, *CONTROLS]
    networks = [model]
    for draw in range(draws):
        for kind in NETWORK_KINDS:
            net = copy.deepcopy(model.module)
            generator = torch.Generator().manual_seed(draw)
            weights = dict(net.named_parameters())
            with torch.no_grad():
                for name in (name for _, names in parts[kind] for name in names):
                    w = weights[name]
                    w.copy_(torch.randn(w.shape, generator=generator) * w.std())
            networks.append(seewhy.wrap(net))
    for net in networks:
        for method in methods:
            for n in range(len(x)):
                seewhy.explain(net, x[n : n + 1], method, target=best[n : n + 1, None], upsample="none")
    for n in range(len(x)):
        for k in range(1, 3):  # the maps of other classes
            other = (best[n : n + 1, None] + k) % 1000
            for method in methods:
                seewhy.explain(model, x[n : n + 1], method, target=other, upsample="none")
        for method in (*METHODS, "random"):
            e = seewhy.explain(model, x[n : n + 1], method, target=best[n : n + 1, None], upsample="none")
            heatmap = torch.nn.functional.interpolate(e.maps, size=x.shape[2:], mode="bilinear")[0, 0]
            shuffled = heatmap.flatten()[torch.randperm(heatmap.numel())].view_as(heatmap)
            for guide in (shuffled, heatmap):
                mean_deletion_score(model.module, x[n : n + 1], guide, int(best[n]), steps)


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    model = seewhy.load("lite0")
    x = model.prepare(files())
    seconds = {"check": [], "loop": []}
    seewhy.explain(model, x[:1], METHODS)  # warm-up
    for _ in range(ROUNDS):
        for name, call in (("check", lambda: seewhy.check(model, x, METHODS)), ("loop", lambda: simple_loop(model, x))):
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
            print(name, f"{seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    ratio = [c / s for c, s in zip(seconds["check"], seconds["loop"], strict=True)]
    rows = [
        [str(len(x)), ", ".join(METHODS), f"{medians['check']:.1f}", f"{medians['loop']:.1f}",
         f"{statistics.median(ratio):.2f}", f"{min(ratio):.2f} to {max(ratio):.2f}"]
    ]  # fmt: skip
    text = markdown_table(["images", "methods", "check, s", "loop, s", "ratio", "ratios"], rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "check.md").write_text(f"{environment(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
