"""Grad-CAM compared with Captum, pytorch-grad-cam and torchcam: durations in forward passes of the same batch."""

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

from .measure import RESULTS, environment, markdown_table, peak_memory, time_interleaved

CLASSES = [285, 281, 282, 287, 904, 1, 2, 3, 4, 5]
MAX_GRAD_CAM_MAPS = 10  # with more samples × classes pytorch-grad-cam takes minutes


def tokens_to_grid(features):
    """Tokens of a ViT [N, 1 + 196, C] as a feature map [N, C, 14, 14], which pytorch-grad-cam requires of its users."""
    return features[:, 1:].unflatten(1, (14, 14)).permute(0, 3, 1, 2)


def cases(model, name, x, classes, vit):
    """Library -> function that computes the maps of all classes at the layer's resolution."""
    net = model.module
    layer = net.get_submodule(name)
    captum = attr.LayerGradCam(net, layer)
    functions = {
        "seewhy": lambda: seewhy.explain(model, x, "gradcam", target=classes, upsample="none").values[:, :, 0],
    }
    if not vit:
        functions["captum"] = lambda: torch.stack(
            [captum.attribute(x, target=c, relu_attributions=True)[:, 0].detach() for c in classes], 1
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

        functions["torchcam"] = torchcam
    if len(x) * len(classes) > MAX_GRAD_CAM_MAPS:
        return functions
    cam = GradCAM(net, [layer], reshape_transform=tokens_to_grid if vit else None)
    functions["grad-cam"] = lambda: [cam(x, [ClassifierOutputTarget(c)] * len(x)) for c in classes]
    return functions


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
            layer = seewhy.explain(model, x, "gradcam").feature_layer

            def plain(net=model.module, x=x):
                with torch.no_grad():
                    return net(x)

            for k in (1, 5, 10):
                calls = {"plain": plain} | cases(model, layer, x, CLASSES[:k], name.startswith("vit"))
                times, results = time_interleaved(calls, 8 if n == 1 else 2)
                unit = times["plain"].median
                ratio = {lib: f"{t.median / unit:.2f}" for lib, t in times.items() if lib != "plain"}
                spread = (times["seewhy"].high - times["seewhy"].low) / times["seewhy"].median
                memory = [peak_memory(calls[lib]) for lib in ("plain", "seewhy")]
                difference = ""
                if "captum" in results:
                    difference = f"{float((results['seewhy'] - results['captum']).abs().max()):.0e}"
                rows.append([
                    name, layer, str(n), str(k),
                    *(ratio.get(lib, "") for lib in ("seewhy", "captum", "torchcam", "grad-cam")),
                    f"{spread:.0%}", *(f"{max(m, 0):.0f}" for m in memory), difference,
                ])  # fmt: skip
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    headers = ["network", "layer", "batch size", "classes", "seewhy", "Captum", "torchcam", "pytorch-grad-cam",
               "spread", "forward pass, MB", "seewhy, MB", "difference from Captum"]  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    text = markdown_table(headers, rows)
    (RESULTS / "gradcam.md").write_text(f"{environment(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
