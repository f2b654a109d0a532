"""Grad-CAM of a 3-D network, slice by slice: where in a volume the evidence for its class lies.

Volumes of noise contain a ball, a hollow shell or nothing, at a random position, and a small 3-D convolutional network
learns which. The figure shows a held-out ball and shell, slice after slice: above the volume, below the same slices
under the map of the predicted class. A cross marks the true center.
Run it: `python examples/volume.py [OUT_DIR]`.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import seewhy

SIZE = (12, 24, 24)  # slices, rows, columns
RADIUS = 4  # of the shapes
KINDS = ("nothing", "ball", "shell")
STEPS = 120


class Volumes(NamedTuple):
    """Inputs and ground truth."""

    x: Tensor  # [N, 1, slices, rows, columns]
    kinds: Tensor  # [N]
    centers: Tensor  # [N, 3]


def volumes(count: int) -> Volumes:
    """Noise, with a ball or a shell in two volumes out of three."""
    kinds = torch.randint(len(KINDS), (count,))
    centers = RADIUS + torch.rand(count, 3) * (torch.tensor(SIZE) - 1 - 2 * RADIUS)
    places = torch.stack(torch.meshgrid(*[torch.arange(float(s)) for s in SIZE], indexing="ij"), -1)
    distance = (places - centers[:, None, None, None]).norm(dim=-1)
    shapes = torch.stack([distance < 0, distance < RADIUS - 1, (distance - RADIUS + 0.5).abs() < 0.7], 1).float()
    shape_mask = shapes[torch.arange(count), kinds]
    return Volumes((shape_mask + 0.6 * torch.randn(count, *SIZE))[:, None], kinds, centers)


def network() -> nn.Module:
    """Three convolutions; the map has half the volume's resolution."""
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(8, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(),
        nn.Conv3d(16, 32, 3, padding=1), nn.BatchNorm3d(32), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, len(KINDS)),
    )  # fmt: skip


def train(net: nn.Module) -> None:
    """Every step uses new random volumes."""
    adam = torch.optim.Adam(net.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, total_steps=STEPS)
    for _ in range(STEPS):
        x, kinds, _ = volumes(24)
        loss = F.cross_entropy(net(x), kinds)
        adam.zero_grad()
        loss.backward()
        adam.step()
        rate.step()
    net.eval()


def main(out: Path) -> dict[str, Any]:
    """Train, explain held-out volumes, write volume.png."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    net = network()
    train(net)
    held_out = volumes(90)
    e = seewhy.explain(seewhy.wrap(net, labels=KINDS), held_out.x, "gradcam")

    peaks = torch.stack(torch.unravel_index(e.maps[:, 0].flatten(1).argmax(1), SIZE), 1)
    found = (peaks - held_out.centers).abs().amax(1) <= RADIUS  # the peak lies inside the shape
    shown = [int((held_out.kinds == kind).nonzero()[0]) for kind in (1, 2)]
    figure(e, held_out, shown).savefig(out / "volume.png", dpi=150)
    return {
        "figure": out / "volume.png",
        "accuracy": float((e.targets[:, 0] == held_out.kinds).float().mean()),
        "found": {KINDS[kind]: float(found[held_out.kinds == kind].float().mean()) for kind in (1, 2)},
        "layer": e.layer_reason,
        "grid": tuple(e.values.shape[3:]),
        "shown": shown,
        "explanation": e,
    }


def figure(e: seewhy.Explanation, held_out: Volumes, shown: list[int]) -> Figure:
    """Two rows per volume: its slices, and its slices under the map."""
    page = Figure(figsize=(13, 4.9), layout="constrained")
    axes = page.subplots(2 * len(shown), SIZE[0])
    for (plain, under), n in zip(axes.reshape(len(shown), 2, -1), shown, strict=True):
        heat, middle = e.maps[n, 0].numpy(), held_out.centers[n]
        for z in range(SIZE[0]):
            for axis in (plain[z], under[z]):
                axis.imshow(held_out.x[n, 0, z].numpy(), cmap="gray", vmin=-1, vmax=2)
                axis.set(xticks=[], yticks=[])
            under[z].imshow(heat[z], cmap="jet", alpha=0.5, vmin=heat.min(), vmax=heat.max())  # one scale per volume
            plain[z].set_title(f"slice {z}", fontsize=9)
            if z == round(float(middle[0])):
                under[z].plot(middle[2], middle[1], "wx", markersize=9)
        plain[0].set_ylabel(f"a {KINDS[held_out.kinds[n]]}", fontsize=11)
        under[0].set_ylabel(f"{e.labels[n][0]} ({e.probabilities[n, 0]:.2f})", fontsize=11)
    page.suptitle("Grad-CAM, slice by slice; a cross marks the true center", fontsize=12)
    return page


if __name__ == "__main__":
    facts = main(Path(sys.argv[1] if len(sys.argv) > 1 else "seewhy-out"))
    print(f"layer {facts['layer']}")
    print(f"{facts['accuracy']:.0%} predicted correctly; the map's peak lies inside the shape: {facts['found']}")
    print(facts["figure"])
