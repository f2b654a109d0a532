"""What a segmentation goes by: Grad-CAM for a class, and for the pixels of a class.

A small U-Net learns to tell circles and squares from the background. The figure shows a picture that it has not seen,
its prediction, and two maps for each class. The first answers a plain class index: the score is summed over all pixels,
also over those where the network sees the other shape. The second answers a mask, here the pixels which the network
gives to the class (outlined in white): the score is summed over them alone, and less of the other shape shines through.

Grad-CAM weighs channels and not places. Behind the last rectifier only a 1x1 convolution follows, and there a mask can
do no more than scale the map; so the rectifier before it is read.
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
COLOURS = ("0.85", "tab:orange", "tab:blue")
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
    """Two convolutions, each normalised and rectified."""
    return nn.Sequential(
        OrderedDict(
            conv_1=nn.Conv2d(before, after, 3, padding=1), norm_1=nn.BatchNorm2d(after), relu_1=nn.ReLU(),
            conv_2=nn.Conv2d(after, after, 3, padding=1), norm_2=nn.BatchNorm2d(after), relu_2=nn.ReLU(),
        )
    )  # fmt: skip


class UNet(nn.Module):
    """Down twice and up twice, with the features of each size handed across."""

    def __init__(self) -> None:
        super().__init__()
        self.down_1, self.down_2, self.bottom = block(1, 8), block(8, 16), block(16, 32)
        self.up_2, self.up_1 = block(32 + 16, 16), block(16 + 8, 8)
        self.classes = nn.Conv2d(8, len(CLASSES), 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, H, W] -> the classes' scores [N, 3, H, W]."""
        large = self.down_1(x)
        middle = self.down_2(F.max_pool2d(large, 2))
        small = self.bottom(F.max_pool2d(middle, 2))
        middle = self.up_2(torch.cat([F.interpolate(small, scale_factor=2), middle], 1))
        return self.classes(self.up_1(torch.cat([F.interpolate(middle, scale_factor=2), large], 1)))


def train(net: nn.Module, x: Tensor, truth: Tensor) -> None:
    """Cross-entropy of every pixel."""
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


def explained(net: nn.Module, x: Tensor, seen: Tensor, layer: str | None = LAYER) -> list[seewhy.Explanation]:
    """Both classes of one picture: by plain index, and by the mask of the pixels that were given to them."""
    masks = [seewhy.targets.region(kind, seen == kind) for kind in (1, 2)]
    return [seewhy.explain(net, x[None], "gradcam", target=asked, feature_layer=layer) for asked in ([1, 2], masks)]


def main(out: Path) -> dict[str, Any]:
    """Train, explain pictures not seen before, write segmentation.png."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    net = UNet()
    train(net, *pictures(600))
    x, truth = pictures(20)
    with torch.no_grad():
        seen = net(x).argmax(1)

    every = [explained(net, one, classes) for one, classes in zip(x, seen, strict=True)]
    shown = int((seen == 1).sum((1, 2)).argmax())  # the largest circle is the roundest
    figure(*every[shown], seen[shown]).savefig(out / "segmentation.png", dpi=150)
    return {
        "figure": out / "segmentation.png",
        "overlap": {CLASSES[k]: overlap(seen == k, truth == k) for k in (1, 2)},
        "shares": {
            "index": shares([index for index, _ in every], seen),
            "mask": shares([mask for _, mask in every], seen),
        },
        "area": float((seen > 0).float().mean()) / 2,
        "shown": every[shown],
        "behind": explained(net, x[shown], seen[shown], layer=None),  # at the last rectifier, the default
        "seen": seen[shown],
        "output": every[shown][0].output[0],
    }


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union."""
    return float((a & b).sum() / (a | b).sum())


def shares(found: list[seewhy.Explanation], seen: Tensor) -> dict[str, float]:
    """How much of a class's map lies on its own shape and on the other, the mean over classes and pictures."""
    maps = torch.cat([e.maps for e in found]).clamp(min=0)  # [N, 2, H, W]; cubic upsampling may undershoot
    shapes = torch.stack([seen == 1, seen == 2], 1)
    whole = maps.sum((2, 3)).clamp(min=1e-9)
    on = {"own": shapes, "other": shapes.flip(1)}
    return {name: float(((maps * pixels).sum((2, 3)) / whole).mean()) for name, pixels in on.items()}


def figure(index: seewhy.Explanation, mask: seewhy.Explanation, seen: Tensor) -> Figure:
    """Input and prediction on the left, then a row a class."""
    page = Figure(figsize=(8, 6.2), layout="constrained")
    axes = page.subplots(2, 3)
    axes[0, 0].imshow(index.input[0, 0].numpy(), cmap="gray")
    axes[0, 0].set_title("input")
    axes[1, 0].imshow(seen.numpy(), cmap=ListedColormap(COLOURS), vmin=0, vmax=2)
    axes[1, 0].set_title("prediction")
    patches = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, CLASSES, strict=True)]
    page.legend(handles=patches, loc="outside lower left", ncols=3, fontsize=9, frameon=False)
    for k, name in enumerate(CLASSES[1:]):
        for axis, e, pixels in (
            (axes[k, 1], index, "over all pixels"),
            (axes[k, 2], mask, f"over the {name}'s pixels"),
        ):
            axis.imshow(e.input[0, 0].numpy(), cmap="gray")
            axis.imshow(e.maps[0, k].numpy(), cmap="jet", alpha=0.5)
            axis.contour((seen == k + 1).numpy(), levels=[0.5], colors="white", linewidths=1)
            axis.set_title(f"score of “{name}”\n{pixels}", fontsize=10)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return page


if __name__ == "__main__":
    facts = main(Path(sys.argv[1] if len(sys.argv) > 1 else "seewhy-out"))
    print(f"intersection over union {facts['overlap']}")
    print(f"how much of a map lies on its own shape and on the other: {facts['shares']}")
    print(facts["figure"])
