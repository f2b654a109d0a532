"""Attention methods: durations relative to one forward and backward pass, and LeGrad compared with torchcam."""

import sys
import warnings

import timm
import torch
from torchcam.methods import LeGrad
from torchvision.models import vit_b_16

import seewhy

from .measure import RESULTS, environment, markdown_table, time_interleaved

METHODS = ("rollout", "attention_gradient", "legrad")
CLASS = 285


def calls(net, x, blocks):
    """Name -> function to time; `blocks` are those of a torchvision transformer, or None."""

    def plain():
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(net(leaf)[:, CLASS].sum(), leaf)[0]

    functions = {"plain": plain}
    functions |= {
        name: lambda name=name: seewhy.explain(net, x, name, target=CLASS).values[:, 0, 0] for name in METHODS
    }
    if blocks is not None:

        def torchcam():
            with LeGrad(net, list(blocks)) as cam:
                net(x)
                return cam.compute_cams([CLASS] * len(x), normalized=False)[0]

        functions["torchcam"] = torchcam
    return functions


def main(rounds=6, sizes=(1, 8)):
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    vit_b = vit_b_16()
    torch.nn.init.normal_(vit_b.heads.head.weight, std=0.02)  # its initial weights are zero
    networks = {
        "ViT-S/16, timm": (timm.create_model("vit_small_patch16_224"), None),
        "ViT-B/16, torchvision": (vit_b, vit_b.encoder.layers),
    }
    rows = []
    for title, (net, blocks) in networks.items():
        net.eval()
        for weight in net.parameters():
            weight.requires_grad_(False)
        for size in sizes:
            x = torch.randn(size, 3, 224, 224)
            times, results = time_interleaved(calls(net, x, blocks), rounds)
            unit = times["plain"].median
            ratios = [f"{times[name].median / unit:.2f}" if name in times else "" for name in (*METHODS, "torchcam")]
            difference = ""
            if blocks is not None:
                gap, scale = (results["legrad"] - results["torchcam"]).abs().max(), results["torchcam"].abs().max()
                difference = f"{float(gap / scale):.1g}"
            rows.append([title, str(size), f"{unit * 1000:.0f} ms", *ratios, difference])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    headers = [
        "network",
        "batch size",
        "forward and backward pass",
        *METHODS,
        "LeGrad of torchcam",
        "relative difference",
    ]
    RESULTS.mkdir(exist_ok=True)
    text = markdown_table(headers, rows)
    (RESULTS / "attention.md").write_text(f"{environment(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
