"""The gradient family compared with Captum: durations in forward passes, memory, difference of the maps."""

import sys
import warnings

import timm
import torch
from captum import attr

import seewhy

from .measure import RESULTS, environment, markdown_table, peak_memory, time_interleaved

CLASSES = [285, 281, 282, 287, 904]
STEPS = 50
CAPTUM_BATCH_SIZE = 8  # for integrated gradients: the fastest of 1, 8 and 50


def cases(model, net, x):
    """Name -> (function of seewhy, function of Captum); both compute the raw maps."""
    c = CLASSES[0]

    def loop(method, **options):
        return torch.stack([method.attribute(x, target=k, **options) for k in CLASSES], 1)

    def ours(method, target=c, **options):
        return seewhy.explain(model, x, method, target=target, **options)

    saliency, guided, path = attr.Saliency(net), attr.GuidedBackprop(net), attr.IntegratedGradients(net)
    return {
        "gradient, 1 class": (
            lambda: ours("gradient").values[:, 0],
            lambda: saliency.attribute(x, target=c, abs=False),
        ),
        "gradient, 5 classes": (
            lambda: ours("gradient", CLASSES).values,
            lambda: loop(saliency, abs=False),
        ),
        "guided backprop": (
            lambda: ours("guided_backprop").values[:, 0],
            lambda: guided.attribute(x, target=c),
        ),
        "gradient and guided backprop": (
            lambda: torch.stack([e.values[:, 0] for e in ours(["gradient", "guided_backprop"])]),
            lambda: torch.stack([saliency.attribute(x, target=c, abs=False), guided.attribute(x, target=c)]),
        ),
        f"integrated gradients, {STEPS} steps": (
            lambda: ours("integrated_gradients", steps=STEPS, rule="gauss", baseline=0).values[:, 0],
            lambda: path.attribute(x, target=c, n_steps=STEPS, internal_batch_size=max(CAPTUM_BATCH_SIZE, len(x))),
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
                slow = "steps" in case
                rounds = (1 if n > 1 else 4) if slow else (6 if n > 1 else 12)
                times, results = time_interleaved({"plain": plain, "ours": ours, "theirs": theirs}, rounds)
                reference = results["theirs"].detach()
                difference = float((results["ours"] - reference).norm() / reference.norm())
                unit = times["plain"].median
                memory = [peak_memory(call) for call in (plain, ours, theirs)]
                spread = (times["ours"].high - times["ours"].low) / times["ours"].median
                rows.append([
                    name, str(n), case, f"{times['ours'].median / unit:.2f}", f"{times['theirs'].median / unit:.2f}",
                    f"{times['theirs'].median / times['ours'].median:.2f}", f"{spread:.0%}",
                    *(f"{max(m, 0):.0f}" for m in memory), f"{difference:.0e}",
                ])  # fmt: skip
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    headers = ["network", "batch size", "maps", "seewhy, forward passes", "Captum, forward passes", "Captum / seewhy",
               "spread", "forward pass, MB", "seewhy, MB", "Captum, MB", "difference of the maps"]  # fmt: skip
    text = markdown_table(headers, rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "gradient.md").write_text(f"{environment(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
