"""Deep dream: channels in one call beside one call each, and each beside the bare forwards and backwards it needs."""

import sys
import warnings

import torch

import seewhy

from .measure import RESULTS, interleaved, peak, setting, table

CLASSES = [285, 967, 430, 949, 1, 2, 3, 4]
HOW = {"iterations": 5, "pyramid_levels": 2, "scaling": "none"}


def bare(net, layer, channels, side):
    """The passes alone, one a channel and step, at the sizes of the levels."""
    kept = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _a, output: kept.append(output))
    for channel in channels:
        for size in (round(side / 1.4), side):
            for _ in range(HOW["iterations"]):
                x = torch.zeros(1, 3, size, size, requires_grad=True)
                net(x)
                torch.autograd.grad(kept.pop()[:, channel].mean(), x)
    handle.remove()


def cases(model, layer, channels):
    """What is timed."""

    def dream(which, **more):
        return seewhy.dream(model, layer, which, size=224, **HOW, **more)

    return {
        "bare": lambda: bare(model.module, layer, channels, 224),
        "together": lambda: dream(channels),
        "one by one": lambda: torch.cat([dream(c) for c in channels]),
        "passes of 4": lambda: dream(channels, batch_size=4),
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    rows = []
    model = seewhy.load("lite0")
    for weight in model.module.parameters():
        weight.requires_grad_(False)  # the bare passes need no gradient of theirs
    for layer in ("classifier", "blocks.2"):
        for k in (1, 4, 8):
            channels = CLASSES[:k] if layer != "blocks.2" else list(range(k))
            calls = cases(model, layer, channels)
            time, last = interleaved(calls, 3)
            unit = time["bare"].median
            spread = (time["together"].high - time["together"].low) / time["together"].median
            apart = float((last["together"] - last["one by one"]).abs().max())
            rows.append([
                layer, str(k), f"{unit:.2f}",
                *(f"{time[key].median / unit:.2f}" for key in ("together", "passes of 4", "one by one")),
                f"{time['one by one'].median / time['passes of 4'].median:.2f}", f"{spread:.0%}",
                *(f"{max(peak(calls[key]), 0):.0f}" for key in ("together", "passes of 4")), f"{apart:.0e}",
            ])  # fmt: skip
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heads = ["layer", "channels", "bare passes, s", "together", "passes of 4", "one by one",
             "one by one / passes of 4", "spread", "together, MB", "passes of 4, MB", "difference"]  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    text = table(heads, rows)
    (RESULTS / "dream.md").write_text(f"{setting(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
