"""Attention methods: multiples of one forward and backward, and LeGrad beside torchcam's."""

import sys
import warnings

import timm
import torch
from torchcam.methods import LeGrad
from torchvision.models import vit_b_16

import seewhy

from .measure import RESULTS, interleaved, setting, table

METHODS = ("rollout", "attention_gradient", "legrad")
CLASS = 285


def calls(net, x, blocks):
    """Name -> a call; `blocks` of a torchvision transformer, or None."""

    def plain():
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(net(leaf)[:, CLASS].sum(), leaf)[0]

    found = {"plain": plain}
    found |= {name: lambda name=name: seewhy.explain(net, x, name, target=CLASS).values[:, 0, 0] for name in METHODS}
    if blocks is not None:

        def torchcam():
            with LeGrad(net, list(blocks)) as cam:
                net(x)
                return cam.compute_cams([CLASS] * len(x), normalized=False)[0]

        found["torchcam"] = torchcam
    return found


def main(rounds=6, sizes=(1, 8)):
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    big = vit_b_16()
    torch.nn.init.normal_(big.heads.head.weight, std=0.02)  # a fresh head is zero
    networks = {
        "ViT-S/16, timm": (timm.create_model("vit_small_patch16_224"), None),
        "ViT-B/16, torchvision": (big, big.encoder.layers),
    }
    rows = []
    for title, (net, blocks) in networks.items():
        net.eval()
        for weight in net.parameters():
            weight.requires_grad_(False)
        for size in sizes:
            x = torch.randn(size, 3, 224, 224)
            time, last = interleaved(calls(net, x, blocks), rounds)
            unit = time["plain"].median
            ratios = [f"{time[name].median / unit:.2f}" if name in time else "" for name in (*METHODS, "torchcam")]
            apart = ""
            if blocks is not None:
                apart = f"{float((last['legrad'] - last['torchcam']).abs().max() / last['torchcam'].abs().max()):.1g}"
            rows.append([title, str(size), f"{unit * 1000:.0f} ms", *ratios, apart])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heads = ["network", "pictures", "one forward and backward", *METHODS, "torchcam's LeGrad", "apart by"]
    RESULTS.mkdir(exist_ok=True)
    text = table(heads, rows)
    (RESULTS / "attention.md").write_text(f"{setting(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
