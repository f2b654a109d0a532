"""The gradient family beside Captum: multiples of one plain forward of the same batch, ratios, memory, agreement."""

import sys
import warnings

import timm
import torch
from captum import attr

import seewhy

from .measure import RESULTS, interleaved, peak, setting, table

CLASSES = [285, 281, 282, 287, 904]
STEPS = 50
INNER = 8  # Captum's best inner batch for integrated gradients here, of 1, 8 and 50


def cases(model, net, x):
    """name -> (ours, Captum's), both giving the raw maps."""
    c = CLASSES[0]

    def loop(method, **options):
        return torch.stack([method.attribute(x, target=k, **options) for k in CLASSES], 1)

    def ours(method, target=c, **options):
        return seewhy.explain(model, x, method, target=target, **options)

    saliency, guided, path = attr.Saliency(net), attr.GuidedBackprop(net), attr.IntegratedGradients(net)
    return {
        "gradient, K = 1": (
            lambda: ours("gradient").values[:, 0],
            lambda: saliency.attribute(x, target=c, abs=False),
        ),
        "gradient, K = 5": (
            lambda: ours("gradient", CLASSES).values,
            lambda: loop(saliency, abs=False),
        ),
        "guided backprop": (
            lambda: ours("guided_backprop").values[:, 0],
            lambda: guided.attribute(x, target=c),
        ),
        "gradient and guided": (
            lambda: torch.stack([e.values[:, 0] for e in ours(["gradient", "guided_backprop"])]),
            lambda: torch.stack([saliency.attribute(x, target=c, abs=False), guided.attribute(x, target=c)]),
        ),
        f"integrated gradients, {STEPS} steps": (
            lambda: ours("integrated_gradients", steps=STEPS, rule="gauss", baseline=0).values[:, 0],
            lambda: path.attribute(x, target=c, n_steps=STEPS, internal_batch_size=max(INNER, len(x))),
        ),
    }  # fmt: skip


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    lite0 = seewhy.load("lite0")
    networks = {"lite0": lite0, "resnet50": seewhy.wrap(timm.create_model("resnet50").eval())}
    rows = []
    for name, model in networks.items():
        for n in (1, 8):
            x = torch.randn(n, 3, 224, 224, generator=torch.Generator().manual_seed(n))

            def plain(net=model.module, x=x):
                with torch.no_grad():
                    return net(x)

            for case, (ours, theirs) in cases(model, model.module, x).items():
                long = "steps" in case
                rounds = (1 if n > 1 else 4) if long else (6 if n > 1 else 12)
                time, last = interleaved({"plain": plain, "ours": ours, "theirs": theirs}, rounds)
                a, b = last["ours"], last["theirs"].detach()
                difference = float((a - b).norm() / b.norm())
                unit = time["plain"].median
                memory = [peak(call) for call in (plain, ours, theirs)]
                spread = (time["ours"].high - time["ours"].low) / time["ours"].median
                rows.append([
                    name, str(n), case, f"{time['ours'].median / unit:.2f}", f"{time['theirs'].median / unit:.2f}",
                    f"{time['theirs'].median / time['ours'].median:.2f}", f"{spread:.0%}",
                    *(f"{max(m, 0):.0f}" for m in memory), f"{difference:.0e}",
                ])  # fmt: skip
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heads = ["network", "batch", "what", "seewhy, forwards", "Captum, forwards", "Captum / seewhy", "spread",
             "forward, MB", "seewhy, MB", "Captum, MB", "difference of the maps"]  # fmt: skip
    text = table(heads, rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "gradient.md").write_text(f"{setting(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
