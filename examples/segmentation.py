"""Grad-CAM of a segmentation network: for a class, and for the pixels of a class.

A small U-Net learns to segment circles and squares. The figure shows a held-out picture, its prediction, and two maps
per class. The first has a plain class index as target: the score is summed over all pixels, also over those that are
predicted as the other shape. The second has a mask as target, here the pixels that are predicted as the class (outlined
in white): the score is summed over these pixels only, and the map contains less of the other shape.

Grad-CAM weights channels, not positions. After the last rectifier there is only a 1x1 convolution, so a mask would only
scale the map; therefore the rectifier before it is the feature layer.
Run it: `python examples/segmentation.py [OUT_DIR]`.
"""

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor, nn
from torch.nn import functional as F

import seewhy

SIZE = 32
CLASSES = ("background", "circle", "square")
COLORS = ("0.85", "tab:orange", "tab:blue")
LAYER = "up_1.relu_1"
EPOCHS = 5


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """[N, 1, 32, 32] with a circle and a square, one left and one right, and the class of each pixel [N, 32, 32]."""
    places = torch.arange(float(SIZE))
    truth = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    x = 0.1 * torch.randn(count, 1, SIZE, SIZE)
    circle_left = torch.rand(count) < 0.5
    for kind in (1, 2):
        radius = 4 + 2.5 * torch.rand(count)
        row = radius + torch.rand(count) * (SIZE - 1 - 2 * radius)
        column = radius + torch.rand(count) * (SIZE / 2 - 1 - 2 * radius)
        column += SIZE / 2 * (circle_left != (kind == 1))
        down = (places - row[:, None]).abs()[:, :, None] / radius[:, None, None]
        across = (places - column[:, None]).abs()[:, None] / radius[:, None, None]
        inside = down**2 + across**2 < 1 if kind == 1 else torch.maximum(down, across) < 0.9
        truth[inside] = kind
        x[:, 0] += inside * (0.5 + 0.5 * torch.rand(count))[:, None, None]
    return x, truth


def block(before: int, after: int) -> nn.Module:
    """Two convolutions with batch normalization and ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv_1=nn.Conv2d(before, after, 3, padding=1), norm_1=nn.BatchNorm2d(after), relu_1=nn.ReLU(),
            conv_2=nn.Conv2d(after, after, 3, padding=1), norm_2=nn.BatchNorm2d(after), relu_2=nn.ReLU(),
        )
    )  # fmt: skip


class UNet(nn.Module):
    """U-Net with two down- and two upsampling steps and skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down_1, self.down_2, self.bottom = block(1, 8), block(8, 16), block(16, 32)
        self.up_2, self.up_1 = block(32 + 16, 16), block(16 + 8, 8)
        self.classes = nn.Conv2d(8, len(CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, H, W] -> class scores [N, 3, H, W]."""
        large = self.down_1(x)
        middle = self.down_2(F.max_pool2d(large, 2))
        small = self.bottom(F.max_pool2d(middle, 2))
        middle = self.up_2(torch.cat([F.interpolate(small, scale_factor=2), middle], 1))
        return self.classes(self.up_1(torch.cat([F.interpolate(middle, scale_factor=2), large], 1)))


def train(net: nn.Module, x: Tensor, truth: Tensor) -> None:
    """Minimize the pixelwise cross-entropy."""
    batches = -(-len(x) // 20)
    adam = torch.optim.Adam(net.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(20):
            loss = F.cross_entropy(net(x[rows]), truth[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            rate.step()
    net.eval()


def explain_both_targets(
    net: nn.Module, x: Tensor, predicted: Tensor, layer: str | None = LAYER
) -> list[seewhy.Explanation]:
    """Both classes of one picture: by class index, and by the mask of the pixels predicted as the class."""
    masks = [seewhy.targets.region(kind, predicted == kind) for kind in (1, 2)]
    targets: tuple[Any, ...] = ([1, 2], masks)
    return [seewhy.explain(net, x[None], "gradcam", target=target, feature_layer=layer) for target in targets]


def main(out: Path) -> dict[str, Any]:
    """Train, explain held-out pictures, write segmentation.png."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    net = UNet()
    train(net, *pictures(600))
    x, truth = pictures(20)
    with torch.no_grad():
        predicted = net(x).argmax(1)

    every = [explain_both_targets(net, one, classes) for one, classes in zip(x, predicted, strict=True)]
    shown = int((predicted == 1).sum((1, 2)).argmax())  # the largest circle is the roundest
    figure(*every[shown], predicted[shown]).savefig(out / "segmentation.png", dpi=150)
    return {
        "figure": out / "segmentation.png",
        "overlap": {CLASSES[k]: overlap(predicted == k, truth == k) for k in (1, 2)},
        "fractions": {
            "index": fractions([index for index, _ in every], predicted),
            "mask": fractions([mask for _, mask in every], predicted),
        },
        "area": float((predicted > 0).float().mean()) / 2,
        "shown": every[shown],
        "last_rectifier": explain_both_targets(net, x[shown], predicted[shown], layer=None),  # the default layer
        "predicted": predicted[shown],
        "output": every[shown][0].output[0],
    }


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


def fractions(found: list[seewhy.Explanation], predicted: Tensor) -> dict[str, float]:
    """Fraction of a class's map on its own shape and on the other, mean over classes and pictures."""
    maps = torch.cat([e.maps for e in found]).clamp(min=0)  # [N, 2, H, W]; cubic upsampling may undershoot
    shapes = torch.stack([predicted == 1, predicted == 2], 1)
    whole = maps.sum((2, 3)).clamp(min=1e-9)
    on = {"own": shapes, "other": shapes.flip(1)}
    return {name: float(((maps * pixels).sum((2, 3)) / whole).mean()) for name, pixels in on.items()}


def figure(index: seewhy.Explanation, mask: seewhy.Explanation, predicted: Tensor) -> Figure:
    """Input and prediction on the left, then one row per class."""
    page = Figure(figsize=(8, 6.2), layout="constrained")
    axes = page.subplots(2, 3)
    axes[0, 0].imshow(index.input[0, 0].numpy(), cmap="gray")
    axes[0, 0].set_title("input")
    axes[1, 0].imshow(predicted.numpy(), cmap=ListedColormap(COLORS), vmin=0, vmax=2)
    axes[1, 0].set_title("prediction")
    patches = [Patch(color=color, label=name) for color, name in zip(COLORS, CLASSES, strict=True)]
    page.legend(handles=patches, loc="outside lower left", ncols=3, fontsize=9, frameon=False)
    for k, name in enumerate(CLASSES[1:]):
        for axis, e, pixels in (
            (axes[k, 1], index, "over all pixels"),
            (axes[k, 2], mask, f"over the {name}'s pixels"),
        ):
            axis.imshow(e.input[0, 0].numpy(), cmap="gray")
            axis.imshow(e.maps[0, k].numpy(), cmap="jet", alpha=0.5)
            axis.contour((predicted == k + 1).numpy(), levels=[0.5], colors="white", linewidths=1)
            axis.set_title(f"score of “{name}”\n{pixels}", fontsize=10)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return page


if __name__ == "__main__":
    facts = main(Path(sys.argv[1] if len(sys.argv) > 1 else "seewhy-out"))
    print(f"intersection over union {facts['overlap']}")
    print(f"fraction of a map on its own shape and on the other: {facts['fractions']}")
    print(facts["figure"])
