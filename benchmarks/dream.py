"""Deep dream: channels in one call beside one call each, and each beside the bare forwards and backwards it needs."""

import sys
import warnings

import timm
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
        "pixels": lambda: dream(channels, parametrisation="pixels"),
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    networks = {
        "lite0": (seewhy.load("lite0"), ("classifier", "blocks.2")),
        "resnet50": (seewhy.wrap(timm.create_model("resnet50").eval()), ("fc",)),
    }
    rows = []
    for name, (model, layers) in networks.items():
        for weight in model.module.parameters():
            weight.requires_grad_(False)  # the bare passes need no gradient of theirs
        for layer in layers:
            for k in (1, 4, 8):
                channels = CLASSES[:k] if layer != "blocks.2" else list(range(k))
                calls = cases(model, layer, channels)
                time, last = interleaved(calls, 4)
                unit = time["bare"].median
                spread = (time["together"].high - time["together"].low) / time["together"].median
                apart = float((last["together"] - last["one by one"]).abs().mean())
                rows.append([
                    name, layer, str(k), f"{unit:.2f}",
                    *(f"{time[key].median / unit:.2f}" for key in ("together", "one by one", "pixels")),
                    f"{time['one by one'].median / time['together'].median:.2f}", f"{spread:.0%}",
                    f"{max(peak(calls['together']), 0):.0f}", f"{apart:.0e}",
                ])  # fmt: skip
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heads = ["network", "layer", "channels", "bare passes, s", "together", "one by one", "together, pixels",
             "one by one / together", "spread", "MB", "mean difference"]  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    text = table(heads, rows)
    (RESULTS / "dream.md").write_text(f"{setting(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
