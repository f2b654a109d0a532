"""Whole occlusion maps beside Captum's at its best batch: ratios of the time of one call, everything included."""

import statistics
import sys
import time

import timm
import torch
from captum import attr
from torchvision.models import vgg16

import seewhy
from seewhy.trace import reuse

from .measure import RESULTS, interleaved, setting, table

BATCHES = (1, 8, 32)
TARGET = 285


def grid(size, width, stride):
    """[M, 2] where windows begin; those that would hang over are shifted to end with the picture."""
    ticks = [min(t, size - width) for t in range(0, size - width + stride, stride)]
    return torch.cartesian_prod(torch.tensor(ticks), torch.tensor(ticks))


def spread(change, starts, size, width):
    """The mean change over the windows that hide a position. [H, W]."""
    total, count = torch.zeros(size, size), torch.zeros(size, size)
    for value, (a, b) in zip(change, starts.tolist(), strict=True):
        total[a : a + width, b : b + width] += value
        count[a : a + width, b : b + width] += 1
    return total / count


def ours(model, x, width, stride):
    prepared = reuse.prepare(model, x)
    starts = grid(x.shape[-1], width, stride)
    scores = prepared.run(starts, torch.zeros(1, 3, width, width))[:, TARGET]
    clean = prepared.tape.clean(prepared.tape.result)[0, TARGET]
    return spread(clean - scores, starts, x.shape[-1], width)


def plain(net, x, width, stride, batch=8):
    """The whole network for every mask, in batches."""
    starts, scores = grid(x.shape[-1], width, stride), []
    with torch.no_grad():
        for part in starts.split(batch):
            many = x.repeat(len(part), 1, 1, 1)
            for row, (a, b) in zip(many, part.tolist(), strict=True):
                row[:, a : a + width, b : b + width] = 0
            scores.append(net(many)[:, TARGET])
        return spread(net(x)[0, TARGET] - torch.cat(scores), starts, x.shape[-1], width)


def captum(net, x, width, stride, batch):
    with torch.no_grad():
        return attr.Occlusion(net).attribute(
            x, (3, width, width), (3, stride, stride), target=TARGET, perturbations_per_eval=batch
        )[0, 0]  # fmt: skip


def once(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def both(calls, rounds):
    """Interleaved wall time and processor time (of all threads; it feels other work on the machine less)."""
    spent = {name: [] for name in calls}

    def told(name, call):
        def run():
            began = time.process_time()
            given = call()
            spent[name].append(time.process_time() - began)
            return given

        return run

    times, given = interleaved({name: told(name, call) for name, call in calls.items()}, rounds)
    return times, {name: statistics.median(s[1:]) for name, s in spent.items()}, given


def difference(a, b):
    return f"{float((a - b).abs().max() / (b.max() - b.min())):.0e}"


def beside_captum(name, model, rounds):
    net, x = model.module, torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    width, stride = 32, 16
    with torch.no_grad():
        net(x)
    first = {b: once(lambda b=b: captum(net, x, width, stride, b)) for b in BATCHES}
    best = min(first, key=first.get)
    calls = {
        "ours": lambda: ours(model, x, width, stride),
        "plain": lambda: plain(net, x, width, stride),
        "captum": lambda: captum(net, x, width, stride, best),
    }
    time_, work, maps = both(calls, rounds)
    unit, middle = time_["ours"], time_["ours"].median
    return [
        name, f"{time_['captum'].median / middle:.1f} (batches of {best})", f"{work['captum'] / work['ours']:.1f}",
        *(f"{first[b] / middle:.1f}" for b in BATCHES), f"{time_['plain'].median / middle:.1f}",
        f"{(unit.high - unit.low) / middle:.0%}", difference(maps["ours"], maps["captum"]),
    ]  # fmt: skip


def over_settings(model, rounds):
    """How the gain over the plain way hangs on mask, stride and picture."""
    masks = [(224, 16, 8), (224, 32, 16), (224, 64, 32), (224, 32, 32), (224, 96, 32)]
    for size, width, stride in [*masks, (160, 32, 16), (320, 32, 32), (448, 32, 32)]:
        x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
        calls = {
            "ours": lambda x=x, w=width, s=stride: ours(model, x, w, s),
            "plain": lambda x=x, w=width, s=stride: plain(model.module, x, w, s),
        }
        time_, work, maps = both(calls, rounds)
        count = str(len(grid(size, width, stride)))
        gain = f"{time_['plain'].median / time_['ours'].median:.1f}"
        ratio = f"{work['plain'] / work['ours']:.1f}"
        yield [str(size), str(width), str(stride), count, gain, ratio, difference(maps["ours"], maps["plain"])]


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    lite0 = seewhy.load("lite0")
    networks = {
        "lite0": (lite0, 5),
        "resnet50": (seewhy.wrap(timm.create_model("resnet50").eval()), 2),
        "vgg16": (seewhy.wrap(vgg16(weights=None).eval()), 2),
    }
    only = set(sys.argv[1:])
    rows, others = [], []
    for name, (model, rounds) in networks.items():
        if not only or name in only:
            rows.append(beside_captum(name, model, rounds))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    for row in over_settings(lite0, 2) if not only or "settings" in only else ():
        others.append(row)
        print(" | ".join(row), file=sys.stderr, flush=True)
    head = [
        "network",
        "Captum at its best",
        "in processor time",
        *(f"Captum, {b}" for b in BATCHES),
        "plain, 8",
        "spread",
        "difference",
    ]
    text = (
        f"{setting(torch.get_num_threads())}\n\n"
        "Window 32, stride 16, picture 224. How many times as long as seewhy's call another takes; seewhy's records\n"
        "the network, keeps its layers and checks one mask each time. Difference: the largest, as a share of the\n"
        "map's range (an untrained ResNet-50 or VGG-16 hardly feels a mask; there it is rounding).\n\n"
        + table(head, rows)
        + "\nThe same with lite0, against the plain way in batches of 8.\n\n"
        + table(["picture", "window", "stride", "masks", "gain", "in processor time", "difference"], others)
    )
    RESULTS.mkdir(exist_ok=True)
    if not only:
        (RESULTS / "occlusion.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
