"""What contributes to a class, over many pictures: mean maps and strongest channels of ten digits.

A small network learns the digits of scikit-learn. Those that it has not seen pass by batch by batch, each is explained
for its true class, and only sums are kept, so that a set of any size will do. The figure has a column a digit: the mean
picture with how many there were; the mean map (red speaks for this digit and against the others, blue for another one;
it sums to the mean gain over an empty picture); and the channel of `relu_2` that contributes most, with what it adds
over no features at all, where it is active. Channels are explained as places are: what follows the layer is a network
of its own, whose input are features.

A mean over pictures says something only where the same place means the same in all of them. These digits are centred
and of one size; for photographs keep to the channels. Run it: `python examples/many_pictures.py [OUT_DIR]`.
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
from seewhy import pictures

HELD_OUT = 600
EPOCHS = 12
BATCH = 50
LAYER = "relu_2"
HIDDEN = 8  # places


class Sums(NamedTuple):
    """Of each class: how many pictures, and sums, or means, of them and of what places and channels contribute."""

    count: Tensor  # [10]
    picture: Tensor  # [10, 8, 8]
    places: Tensor  # [10, 8, 8]
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
    """Cross-entropy."""
    adam = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(50):
            loss = F.cross_entropy(net(x[rows]), y[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
    net.eval()


def summed(net: nn.Sequential, batches: DataLoader[Any]) -> Sums:
    """One pass over a data set of pairs (picture, class)."""
    behind = net[list(dict(net.named_children())).index(LAYER) + 1 :]
    asked = {"method": "integrated_gradients", "score": "margin", "steps": 32, "baseline": 0, "batch_size": BATCH}
    sums = Sums(*map(torch.zeros, (10, (10, 8, 8), (10, 8, 8), (10, 16), (10, 16, 8, 8), 10)))
    for e in seewhy.explain(net, batches, target="label", **asked):
        digit = e.targets[:, 0]
        features = seewhy.activations(net, e.input, LAYER).values
        by_feature = seewhy.explain(behind, features, target=digit, **asked)
        one = Sums(
            torch.ones(len(digit)),
            e.input[:, 0],
            e.values[:, 0, 0],
            by_feature.values[:, 0].sum((2, 3)),
            features,
            e.values.sum((1, 2, 3, 4)) - e.completeness[:, 0],  # score less score of the empty picture
        )
        for total, more in zip(sums, one, strict=True):
            total.index_add_(0, digit, more.to(total))
    return sums


def means(*parts: Sums) -> Sums:
    """Sums over parts of a data set as means over all of it."""
    count, *others = (sum(each) for each in zip(*parts, strict=True))
    return Sums(count, *(s / count.view(-1, *[1] * (s.ndim - 1)) for s in others))


def main(out: Path) -> dict[str, Any]:
    """Train, sum up maps of pictures not seen before, write many_pictures.png."""
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
        summed(net, DataLoader(TensorDataset(*half), batch_size=BATCH))
        for half in zip(x.chunk(2), y.chunk(2), strict=True)
    ]
    found = means(*halves)
    figure(found).savefig(out / "many_pictures.png", dpi=150)
    best = found.places.flatten(1).topk(HIDDEN).indices
    anywhere = torch.rand(10, 64).topk(HIDDEN).indices
    most_ink = found.picture.flatten(1).topk(HIDDEN).indices
    return {
        "figure": out / "many_pictures.png",
        "means": found,
        "net": net,
        "pictures": (x, y),
        "alike": torch.corrcoef(torch.cat([means(half).places.flatten(1) for half in halves]))[:10, 10:],
        "accuracy": {
            "as it is": accuracy(net, x, y),
            "most contributing places hidden": accuracy(net, without(x, y, best), y),
            "places with most ink hidden": accuracy(net, without(x, y, most_ink), y),
            "any places hidden": accuracy(net, without(x, y, anywhere), y),
        },
        "channels": found.channels.argmax(1).tolist(),
    }


def without(x: Tensor, y: Tensor, places: Tensor) -> Tensor:
    """Each picture with some places [10, k] of its class made empty."""
    return x.flatten(1).scatter(1, places[y], 0.0).view_as(x)


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of right answers."""
    with torch.no_grad():
        return float((net(x).argmax(1) == y).float().mean())


def figure(found: Sums) -> Figure:
    """A column a digit; maps share one scale with zero in the middle."""
    page = Figure(figsize=(13, 4.6), layout="constrained")
    axes = page.subplots(3, 10)
    end = float(found.places.abs().max())
    for digit in range(10):
        channel = int(found.channels[digit].argmax())
        axes[0, digit].imshow(found.picture[digit].numpy(), cmap="gray")
        axes[0, digit].set_title(f"{digit}: {int(found.count[digit])} pictures", fontsize=9)
        axes[1, digit].imshow(pictures.colour(found.places[digit], "blue_red", -end, end))
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
    for what, share in facts["accuracy"].items():
        print(f"{what}: {share:.3f} right")
    print(f"strongest channel of each digit: {facts['channels']}")
    print(facts["figure"])
