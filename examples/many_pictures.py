"""A data set: mean maps and most contributing channels of ten digits.

A small network learns the digits of scikit-learn. Held-out digits are explained batch by batch, each for its true
class, and only sums are kept, so that the data set may have any size. The figure has one column per digit: the mean
picture with the number of pictures; the mean map (red: positive evidence for this digit, blue: negative evidence; it
sums to the mean gain over an empty picture); and the mean activation of the channel of `relu_2` that contributes most,
with its contribution relative to zero features. Contributions of channels are computed like those of pixels: the part
of the network after the layer is a network of its own, whose input is the features.

A mean over pictures is meaningful only where a position has the same meaning in all of them. These digits are centered
and of one size; for photographs use the channels. Run it: `python examples/many_pictures.py [OUT_DIR]`.
"""

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import seewhy
from seewhy import visualization

HELD_OUT = 600
EPOCHS = 12
BATCH = 50
LAYER = "relu_2"
MASKED = 8  # positions


class Sums(NamedTuple):
    """Per class: number of pictures, and sums or means of pictures, of contributions of positions and of channels."""

    count: Tensor  # [10]
    picture: Tensor  # [10, 8, 8]
    positions: Tensor  # [10, 8, 8]
    channels: Tensor  # [10, 16]
    active: Tensor  # [10, 16, 8, 8]
    gain: Tensor  # [10]


def network() -> nn.Sequential:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        OrderedDict(
            conv_1=nn.Conv2d(1, 16, 3, padding=1), relu_1=nn.ReLU(),
            conv_2=nn.Conv2d(16, 16, 3, padding=1), relu_2=nn.ReLU(),
            pool=nn.AvgPool2d(2), flatten=nn.Flatten(), fc=nn.Linear(16 * 4 * 4, 10),
        )
    )  # fmt: skip


def train(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """Minimize the cross-entropy."""
    adam = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(50):
            loss = F.cross_entropy(net(x[rows]), y[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
    net.eval()


def sum_over(net: nn.Sequential, batches: DataLoader[Any]) -> Sums:
    """Sums over a data set of pairs (picture, class)."""
    tail = net[list(dict(net.named_children())).index(LAYER) + 1 :]
    arguments = {"method": "integrated_gradients", "score": "margin", "steps": 32, "baseline": 0, "batch_size": BATCH}
    sums = Sums(*map(torch.zeros, (10, (10, 8, 8), (10, 8, 8), (10, 16), (10, 16, 8, 8), 10)))
    for e in seewhy.explain(net, batches, target="label", **arguments):
        digit = e.targets[:, 0]
        features = seewhy.activations(net, e.input, LAYER).values
        by_feature = seewhy.explain(tail, features, target=digit, **arguments)
        one = Sums(
            torch.ones(len(digit)),
            e.input[:, 0],
            e.values[:, 0, 0],
            by_feature.values[:, 0].sum((2, 3)),
            features,
            e.values.sum((1, 2, 3, 4)) - e.convergence_delta[:, 0],  # score minus score of the empty picture
        )
        for total, more in zip(sums, one, strict=True):
            total.index_add_(0, digit, more.to(total))
    return sums


def means(*parts: Sums) -> Sums:
    """Means over a data set from sums over its parts."""
    count, *others = (sum(each) for each in zip(*parts, strict=True))
    return Sums(count, *(s / count.view(-1, *[1] * (s.ndim - 1)) for s in others))


def main(out: Path) -> dict[str, Any]:
    """Train, sum maps over held-out pictures, write many_pictures.png."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(len(digits.images))
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[order, None]
    y = torch.tensor(digits.target)[order]
    net = network()
    train(net, x[HELD_OUT:], y[HELD_OUT:])

    x, y = x[:HELD_OUT], y[:HELD_OUT]
    halves = [
        sum_over(net, DataLoader(TensorDataset(*half), batch_size=BATCH))
        for half in zip(x.chunk(2), y.chunk(2), strict=True)
    ]
    found = means(*halves)
    figure(found).savefig(out / "many_pictures.png", dpi=150)
    best = found.positions.flatten(1).topk(MASKED).indices
    random = torch.rand(10, 64).topk(MASKED).indices
    most_ink = found.picture.flatten(1).topk(MASKED).indices
    return {
        "figure": out / "many_pictures.png",
        "means": found,
        "net": net,
        "pictures": (x, y),
        "similarity": torch.corrcoef(torch.cat([means(half).positions.flatten(1) for half in halves]))[:10, 10:],
        "accuracy": {
            "unmasked": accuracy(net, x, y),
            "most contributing positions masked": accuracy(net, without(x, y, best), y),
            "positions with most ink masked": accuracy(net, without(x, y, most_ink), y),
            "random positions masked": accuracy(net, without(x, y, random), y),
        },
        "channels": found.channels.argmax(1).tolist(),
    }


def without(x: Tensor, y: Tensor, positions: Tensor) -> Tensor:
    """Each picture with the positions [10, k] of its class set to zero."""
    return x.flatten(1).scatter(1, positions[y], 0.0).view_as(x)


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Fraction of correct predictions."""
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def figure(found: Sums) -> Figure:
    """One column per digit; maps share one scale with zero in the middle."""
    page = Figure(figsize=(13, 4.6), layout="constrained")
    axes = page.subplots(3, 10)
    end = float(found.positions.abs().max())
    for digit in range(10):
        channel = int(found.channels[digit].argmax())
        axes[0, digit].imshow(found.picture[digit].numpy(), cmap="gray")
        axes[0, digit].set_title(f"{digit}: {int(found.count[digit])} pictures", fontsize=9)
        axes[1, digit].imshow(visualization.apply_colormap(found.positions[digit], "blue_red", -end, end))
        axes[1, digit].set_title(f"gain {float(found.gain[digit]):.1f}", fontsize=9)
        axes[2, digit].imshow(found.active[digit, channel].numpy(), cmap="magma")
        axes[2, digit].set_title(f"channel {channel}: {float(found.channels[digit, channel]):+.1f}", fontsize=9)
    for row, name in enumerate(("mean picture", f"mean map, ±{end:.2g}", f"channel of {LAYER}")):
        axes[row, 0].set_ylabel(name, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return page


if __name__ == "__main__":
    facts = main(Path(sys.argv[1] if len(sys.argv) > 1 else "seewhy-out"))
    for condition, fraction in facts["accuracy"].items():
        print(f"{condition}: accuracy {fraction:.3f}")
    print(f"most contributing channel of each digit: {facts['channels']}")
    print(facts["figure"])
