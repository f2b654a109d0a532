"""The CAM family beside pytorch-grad-cam and torchcam: multiples of one forward, and how alike the maps are."""

import sys
import warnings

import pytorch_grad_cam as theirs
import timm
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from skimage import data
from torchcam import methods as torchcams

import seewhy

from .measure import RESULTS, interleaved, setting, table

# ours, grad-cam's, torchcam's
FAMILY = {
    "gradcam": ("GradCAM", "GradCAM"),
    "gradcam++": ("GradCAMPlusPlus", "GradCAMpp"),
    "hirescam": ("HiResCAM", None),
    "layercam": ("LayerCAM", "LayerCAM"),
    "xgradcam": ("XGradCAM", "XGradCAM"),
    "eigencam": ("EigenCAM", None),
    "fullgrad": ("FullGrad", None),
    "ablationcam": ("AblationCAM", None),
    "scorecam": ("ScoreCAM", "ScoreCAM"),
    "recipro_cam": (None, None),
}
CLASS = 285
BATCH = 8  # masks a pass where a library asks for it, the same for all


def calls(model, name, layer, x):
    """Library -> a call that gives the map [224, 224], positive part, rescaled."""
    other, third = FAMILY[name]
    net = model.module

    def ours():
        e = seewhy.explain(model, x, name, target=CLASS, upsample="linear", batch_size=BATCH)
        return e.maps[0, 0].clamp(min=0)

    found = {"seewhy": ours, "seewhy, batch auto": lambda: seewhy.explain(model, x, name, target=CLASS)}
    if other is not None:

        def gradcam():
            with getattr(theirs, other)(net, [net.get_submodule(layer)]) as cam:
                cam.batch_size = BATCH
                return torch.as_tensor(cam(x, [ClassifierOutputTarget(CLASS)]))[0]

        found["grad-cam"] = gradcam
    if third is not None:
        more = {"batch_size": BATCH} if third == "ScoreCAM" else {}

        def torchcam():
            with getattr(torchcams, third)(net, net.get_submodule(layer), enable_hooks=True, **more) as cam:
                map_ = cam(CLASS, net(x))[0].detach()
                return torch.nn.functional.interpolate(map_[None], (224, 224), mode="bilinear")[0, 0]

        found["torchcam"] = torchcam
    return found


def alike(a, b):
    """Pearson correlation of two maps."""
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    lite0 = seewhy.load("lite0")
    networks = {"lite0": lite0, "resnet18": seewhy.wrap(timm.create_model("resnet18").eval())}
    x = lite0.prepare([data.chelsea()])
    rows = []
    for title, model in networks.items():
        layer = seewhy.explain(model, x, "gradcam").feature_layer

        def plain(net=model.module):
            with torch.no_grad():
                return net(x)

        for name in FAMILY:
            if name == "scorecam" and title == "lite0":
                continue  # 1280 forwards a call and library
            time, last = interleaved(
                {"plain": plain} | calls(model, name, layer, x), 1 if name in {"scorecam", "ablationcam"} else 6
            )
            unit = time["plain"].median
            ratio = {lib: f"{t.median / unit:.1f}" for lib, t in time.items()}
            libraries = ("seewhy", "seewhy, batch auto", "grad-cam", "torchcam")
            same = (f"{alike(last['seewhy'], last[lib]):.4f}" if lib in last else "" for lib in libraries[2:])
            rows.append([title, layer, name, *(ratio.get(lib, "") for lib in libraries), *same])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heads = ["network", "layer", "method", "seewhy", "seewhy, batch auto", "grad-cam", "torchcam",
             "correlation with grad-cam", "with torchcam"]  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    text = table(heads, rows)
    (RESULTS / "cam.md").write_text(f"{setting(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
