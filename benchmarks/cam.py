"""The CAM family compared with pytorch-grad-cam and torchcam: durations and similarity of the maps."""

import sys
import warnings

import pytorch_grad_cam
import timm
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from skimage import data
from torchcam import methods as torchcam_methods

import seewhy

from .measure import RESULTS, environment, markdown_table, time_interleaved

# method -> (class of pytorch-grad-cam, class of torchcam)
PEER_CLASSES = {
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
BATCH_SIZE = 8  # masks per forward pass, the same for all libraries


def calls(model, name, layer, x):
    """Library -> function that computes the positive part of the map, resampled to [224, 224]."""
    grad_cam_class, torchcam_class = PEER_CLASSES[name]
    net = model.module

    def ours():
        e = seewhy.explain(model, x, name, target=CLASS, upsample="linear", batch_size=BATCH_SIZE)
        return e.maps[0, 0].clamp(min=0)

    functions = {"seewhy": ours, "default batch size": lambda: seewhy.explain(model, x, name, target=CLASS)}
    if grad_cam_class is not None:

        def gradcam():
            with getattr(pytorch_grad_cam, grad_cam_class)(net, [net.get_submodule(layer)]) as cam:
                cam.batch_size = BATCH_SIZE
                return torch.as_tensor(cam(x, [ClassifierOutputTarget(CLASS)]))[0]

        functions["grad-cam"] = gradcam
    if torchcam_class is not None:
        options = {"batch_size": BATCH_SIZE} if torchcam_class == "ScoreCAM" else {}

        def torchcam():
            with getattr(torchcam_methods, torchcam_class)(
                net, net.get_submodule(layer), enable_hooks=True, **options
            ) as cam:
                map_ = cam(CLASS, net(x))[0].detach()
                return torch.nn.functional.interpolate(map_[None], (224, 224), mode="bilinear")[0, 0]

        functions["torchcam"] = torchcam
    return functions


def pearson_correlation(a, b):
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

        for name in PEER_CLASSES:
            if name == "scorecam" and title == "lite0":
                continue  # 1280 forward passes per call and library
            times, results = time_interleaved(
                {"plain": plain} | calls(model, name, layer, x), 1 if name in {"scorecam", "ablationcam"} else 6
            )
            unit = times["plain"].median
            ratio = {lib: f"{t.median / unit:.1f}" for lib, t in times.items()}
            libraries = ("seewhy", "default batch size", "grad-cam", "torchcam")
            correlations = (
                f"{pearson_correlation(results['seewhy'], results[lib]):.4f}" if lib in results else ""
                for lib in libraries[2:]
            )
            rows.append([title, layer, name, *(ratio.get(lib, "") for lib in libraries), *correlations])
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    headers = ["network", "layer", "method", "seewhy", "seewhy, default batch size", "pytorch-grad-cam", "torchcam",
               "correlation with pytorch-grad-cam", "correlation with torchcam"]  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    text = markdown_table(headers, rows)
    (RESULTS / "cam.md").write_text(f"{environment(torch.get_num_threads())}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
