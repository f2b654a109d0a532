"""Occlusion maps compared with Captum at its best batch size: ratios of the duration of complete calls."""

import statistics
import sys
import time

import timm
import torch
from captum import attr
from torchvision.models import vgg16

import seewhy
from seewhy import incremental

from .measure import RESULTS, environment, markdown_table, time_interleaved

BATCH_SIZES = (1, 8, 32)
TARGET = 285


def window_starts(size, width, stride):
    """First row and column of each window, [M, 2]; windows across the border are shifted to end at the border."""
    ticks = [min(t, size - width) for t in range(0, size - width + stride, stride)]
    return torch.cartesian_prod(torch.tensor(ticks), torch.tensor(ticks))


def mean_change(change, starts, size, width):
    """Mean change of the score over the windows that cover a position, [H, W]."""
    total, count = torch.zeros(size, size), torch.zeros(size, size)
    for value, (a, b) in zip(change, starts.tolist(), strict=True):
        total[a : a + width, b : b + width] += value
        count[a : a + width, b : b + width] += 1
    return total / count


def occlusion_by_seewhy(model, x, width, stride):
    """The map by incremental inference."""
    prepared = incremental.prepare_network(model, x)
    starts = window_starts(x.shape[-1], width, stride)
    scores = prepared.masked_outputs(starts, torch.zeros(1, 3, width, width))[:, TARGET]
    clean = prepared.trace.reference_value(prepared.trace.output_id)[0, TARGET]
    return mean_change(clean - scores, starts, x.shape[-1], width)


def occlusion_by_whole_network(net, x, width, stride, batch=8):
    """The map by evaluating the whole network for every mask, in batches."""
    starts, scores = window_starts(x.shape[-1], width, stride), []
    with torch.no_grad():
        for part in starts.split(batch):
            masked = x.repeat(len(part), 1, 1, 1)
            for picture, (a, b) in zip(masked, part.tolist(), strict=True):
                picture[:, a : a + width, b : b + width] = 0
            scores.append(net(masked)[:, TARGET])
        return mean_change(net(x)[0, TARGET] - torch.cat(scores), starts, x.shape[-1], width)


def occlusion_by_captum(net, x, width, stride, batch):
    with torch.no_grad():
        return attr.Occlusion(net).attribute(
            x, (3, width, width), (3, stride, stride), target=TARGET, perturbations_per_eval=batch
        )[0, 0]  # fmt: skip


def seconds_of_call(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def time_wall_and_cpu(calls, rounds):
    """Wall time and CPU time of all threads, measured in turn; CPU time depends less on other load on the machine."""
    cpu_seconds = {name: [] for name in calls}

    def with_cpu_time(name, call):
        def run():
            start = time.process_time()
            result = call()
            cpu_seconds[name].append(time.process_time() - start)
            return result

        return run

    times, results = time_interleaved({name: with_cpu_time(name, call) for name, call in calls.items()}, rounds)
    return times, {name: statistics.median(s[1:]) for name, s in cpu_seconds.items()}, results


def relative_difference(a, b):
    """Largest difference of two maps relative to the range of the second, as text."""
    return f"{float((a - b).abs().max() / (b.max() - b.min())):.0e}"


def compare_with_captum(name, model, rounds):
    """The row of a network."""
    net, x = model.module, torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    width, stride = 32, 16
    with torch.no_grad():
        net(x)
    first = {b: seconds_of_call(lambda b=b: occlusion_by_captum(net, x, width, stride, b)) for b in BATCH_SIZES}
    best = min(first, key=first.get)
    calls = {
        "ours": lambda: occlusion_by_seewhy(model, x, width, stride),
        "whole network": lambda: occlusion_by_whole_network(net, x, width, stride),
        "captum": lambda: occlusion_by_captum(net, x, width, stride, best),
    }
    times, cpu, maps = time_wall_and_cpu(calls, rounds)
    ours = times["ours"]
    return [
        name, f"{times['captum'].median / ours.median:.1f} (batch size {best})", f"{cpu['captum'] / cpu['ours']:.1f}",
        *(f"{first[b] / ours.median:.1f}" for b in BATCH_SIZES), f"{times['whole network'].median / ours.median:.1f}",
        f"{(ours.high - ours.low) / ours.median:.0%}", relative_difference(maps["ours"], maps["captum"]),
    ]  # fmt: skip


def compare_settings(model, rounds):
    """Rows of the speedup over evaluating the whole network, by picture size, window and stride."""
    masks = [(224, 16, 8), (224, 32, 16), (224, 64, 32), (224, 32, 32), (224, 96, 32)]
    for size, width, stride in [*masks, (160, 32, 16), (320, 32, 32), (448, 32, 32)]:
        x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
        calls = {
            "ours": lambda x=x, w=width, s=stride: occlusion_by_seewhy(model, x, w, s),
            "whole network": lambda x=x, w=width, s=stride: occlusion_by_whole_network(model.module, x, w, s),
        }
        times, cpu, maps = time_wall_and_cpu(calls, rounds)
        count = str(len(window_starts(size, width, stride)))
        speedup = f"{times['whole network'].median / times['ours'].median:.1f}"
        cpu_speedup = f"{cpu['whole network'] / cpu['ours']:.1f}"
        difference = relative_difference(maps["ours"], maps["whole network"])
        yield [str(size), str(width), str(stride), count, speedup, cpu_speedup, difference]


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    lite0 = seewhy.load("lite0")
    networks = {
        "lite0": (lite0, 5),
        "resnet50": (seewhy.wrap(timm.create_model("resnet50").eval()), 2),
        "vgg16": (seewhy.wrap(vgg16(weights=None).eval()), 2),
    }
    selected = set(sys.argv[1:])
    rows, setting_rows = [], []
    for name, (model, rounds) in networks.items():
        if not selected or name in selected:
            rows.append(compare_with_captum(name, model, rounds))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    for row in compare_settings(lite0, 2) if not selected or "settings" in selected else ():
        setting_rows.append(row)
        print(" | ".join(row), file=sys.stderr, flush=True)
    headers = [
        "network",
        "Captum, best batch size",
        "CPU time",
        *(f"Captum, batch size {b}" for b in BATCH_SIZES),
        "whole network, batch size 8",
        "spread",
        "difference",
    ]
    text = (
        f"{environment(torch.get_num_threads())}\n\n"
        "Window 32, stride 16, picture size 224. Durations of complete calls, relative to a call of seewhy, which\n"
        "includes tracing the network, preparing its layers and comparing one mask with the network. Difference: the\n"
        "largest difference of the maps, relative to the range of the map (untrained ResNet-50 and VGG-16 hardly\n"
        "react to a mask, so that rounding errors are visible).\n\n"
        + markdown_table(headers, rows)
        + "\nSpeedup for lite0, compared with evaluating the whole network for every mask, in batches of 8:\n\n"
        + markdown_table(
            ["picture size", "window", "stride", "masks", "speedup", "speedup in CPU time", "difference"], setting_rows
        )
    )
    RESULTS.mkdir(exist_ok=True)
    if not selected:
        (RESULTS / "occlusion.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
