"""Grad-CAM beside Captum, pytorch-grad-cam and torchcam: multiples of one plain forward of the same batch."""

import sys
import warnings

import timm
import torch
from captum import attr
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchcam.methods import GradCAM as TorchCAM
from torchvision.models import vgg16

import seewhy

from .measure import RESULTS, interleaved, peak, setting, table

CLASSES = [285, 281, 282, 287, 904, 1, 2, 3, 4, 5]


MANY = 10  # grad-cam takes minutes beyond: it grows with samples times classes


def tokens(features):
    """Of a ViT: [N, 1 + 196, C] -> [N, C, 14, 14], as pytorch-grad-cam asks its users to do."""
    return features[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)


def cases(model, name, x, classes, vit):
    """Library -> a call that gives the raw maps of each class at the layer's resolution."""
    net = model.module
    layer = net.get_submodule(name)
    theirs = attr.LayerGradCam(net, layer)
    both = {
        "seewhy": lambda: seewhy.explain(model, x, "gradcam", target=classes, upsample="none").values[:, :, 0],
    }
    if not vit:
        both["captum"] = lambda: torch.stack(
            [theirs.attribute(x, target=c, relu_attributions=True)[:, 0].detach() for c in classes], 1
        )

        def torchcam():
            with TorchCAM(net, layer, enable_hooks=True) as cam:
                scores = net(x)
                last = len(classes) - 1
                return torch.stack(
                    [
                        cam(c, scores, normalized=False, retain_graph=k < last)[0].detach()
                        for k, c in enumerate(classes)
                    ],
                    1,
                )

        both["torchcam"] = torchcam
    if len(x) * len(classes) > MANY:
        return both
    cam = GradCAM(net, [layer], reshape_transform=tokens if vit else None)
    both["grad-cam"] = lambda: [cam(x, [ClassifierOutputTarget(c)] * len(x)) for c in classes]
    return both


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    networks = {
        "lite0": seewhy.load("lite0"),
        "resnet50": seewhy.wrap(timm.create_model("resnet50").eval()),
        "vgg16": seewhy.wrap(vgg16(weights=None).eval()),
        "vit_small": seewhy.wrap(timm.create_model("vit_small_patch16_224").eval()),
    }
    rows = []
    for name, model in networks.items():
        for n in (1, 8):
            x = torch.randn(n, 3, 224, 224, generator=torch.Generator().manual_seed(n))
            chosen = seewhy.explain(model, x, "gradcam").feature_layer

            def plain(net=model.module, x=x):
                with torch.no_grad():
                    return net(x)

            for k in (1, 5, 10):
                calls = {"plain": plain} | cases(model, chosen, x, CLASSES[:k], name.startswith("vit"))
                time, last = interleaved(calls, 8 if n == 1 else 2)
                unit = time["plain"].median
                ratio = {lib: f"{t.median / unit:.2f}" for lib, t in time.items() if lib != "plain"}
                spread = (time["seewhy"].high - time["seewhy"].low) / time["seewhy"].median
                memory = [peak(calls[lib]) for lib in ("plain", "seewhy")]
                same = "" if "captum" not in last else f"{float((last['seewhy'] - last['captum']).abs().max()):.0e}"
                rows.append([
                    name, chosen, str(n), str(k),
                    *(ratio.get(lib, "") for lib in ("seewhy", "captum", "torchcam", "grad-cam")),
                    f"{spread:.0%}", *(f"{max(m, 0):.0f}" for m in memory), same,
                ])  # fmt: skip
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heads = ["network", "layer", "batch", "K", "seewhy", "Captum", "torchcam", "grad-cam", "spread",
             "forward, MB", "seewhy, MB", "difference to Captum"]  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    text = table(heads, rows)
    (RESULTS / "gradcam.md").write_text(f"{setting(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
