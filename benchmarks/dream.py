"""Deep dream: several channels in one call or in one call each, relative to the forward and backward passes alone."""

import sys
import warnings

import torch

import seewhy

from .measure import RESULTS, environment, markdown_table, peak_memory, time_interleaved

CLASSES = [285, 967, 430, 949, 1, 2, 3, 4]
DREAM_OPTIONS = {"iterations": 5, "pyramid_levels": 2, "scaling": "none"}


def passes_only(net, layer, channels, side):
    """Run the forward and backward passes alone: one per channel and iteration, at the size of each pyramid level."""
    outputs = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _a, output: outputs.append(output))
    for channel in channels:
        for size in (round(side / 1.4), side):
            for _ in range(DREAM_OPTIONS["iterations"]):
                x = torch.zeros(1, 3, size, size, requires_grad=True)
                net(x)
                torch.autograd.grad(outputs.pop()[:, channel].mean(), x)
    handle.remove()


def cases(model, layer, channels):
    """Name -> function to time."""

    def dream(selected, **options):
        return seewhy.dream(model, layer, selected, size=224, **DREAM_OPTIONS, **options)

    return {
        "passes only": lambda: passes_only(model.module, layer, channels, 224),
        "one call": lambda: dream(channels),
        "one call per channel": lambda: torch.cat([dream(c) for c in channels]),
        "batch size 4": lambda: dream(channels, batch_size=4),
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    rows = []
    model = seewhy.load("lite0")
    for weight in model.module.parameters():
        weight.requires_grad_(False)  # the passes alone need no gradients of weights
    for layer in ("classifier", "blocks.2"):
        for k in (1, 4, 8):
            channels = CLASSES[:k] if layer != "blocks.2" else list(range(k))
            calls = cases(model, layer, channels)
            times, results = time_interleaved(calls, 3)
            unit = times["passes only"].median
            spread = (times["one call"].high - times["one call"].low) / times["one call"].median
            difference = float((results["one call"] - results["one call per channel"]).abs().max())
            rows.append([
                layer, str(k), f"{unit:.2f}",
                *(f"{times[key].median / unit:.2f}" for key in ("one call", "batch size 4", "one call per channel")),
                f"{times['one call per channel'].median / times['batch size 4'].median:.2f}", f"{spread:.0%}",
                *(f"{max(peak_memory(calls[key]), 0):.0f}" for key in ("one call", "batch size 4")),
                f"{difference:.0e}",
            ])  # fmt: skip
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    headers = ["layer", "channels", "passes only, s", "one call", "one call, batch size 4", "one call per channel",
               "one call per channel / batch size 4", "spread", "one call, MB", "batch size 4, MB",
               "largest difference"]  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    text = markdown_table(headers, rows)
    (RESULTS / "dream.md").write_text(f"{environment(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
