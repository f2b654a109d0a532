"""Grad-CAM on sequences of unequal length: which time steps are evidence for the predicted speaker.

Nine men say two Japanese vowels; an utterance is a sequence of 12 coefficients at 7 to 29 time steps. A 1-D
convolutional network learns to name the speaker. The figure shows three held-out utterances: above, the 12
coefficients; below, the evidence of each step for the predicted speaker.

The three sequences have different lengths and are explained in one call. Data and
their source: examples/data and data/NOTICE.
Run it: `python examples/japanese_vowels.py [OUT_DIR]`.
"""

import gzip
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import seewhy

DATA = Path(__file__).parent / "data"
EPOCHS = 30


def read(part: str) -> tuple[list[Tensor], Tensor]:
    """The sequences [12, T] of "TRAIN" or "TEST", and their speakers from 0 to 8."""
    with gzip.open(DATA / f"JapaneseVowels_{part}.ts.gz", "rt") as file:
        lines = file.read().split("@data\n")[1].splitlines()
    rows = [line.split(":") for line in lines]
    sequences = [torch.tensor([[float(v) for v in channel.split(",")] for channel in row[:-1]]) for row in rows]
    return sequences, torch.tensor([int(row[-1]) - 1 for row in rows])


def network() -> nn.Module:
    """Two convolutions over time with ReLU and normalization, then the mean over time."""
    return nn.Sequential(
        OrderedDict(
            conv_1=nn.Conv1d(12, 32, 3, padding="same"),
            relu_1=nn.ReLU(),
            norm_1=nn.GroupNorm(1, 32),  # one group: layer normalization
            conv_2=nn.Conv1d(32, 64, 3, padding="same"),
            relu_2=nn.ReLU(),
            norm_2=nn.GroupNorm(1, 64),
            pool=nn.AdaptiveAvgPool1d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(64, 9),
        )
    )


def train(net: nn.Module, sequences: list[Tensor], speakers: Tensor) -> None:
    """A batch holds all utterances of one length, so that no padding is needed."""
    lengths = torch.tensor([s.shape[1] for s in sequences])
    batches = [(lengths == length).nonzero().flatten() for length in lengths.unique()]
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(EPOCHS):
        for number in torch.randperm(len(batches)):
            rows = batches[number]
            loss = F.cross_entropy(net(torch.stack([sequences[i] for i in rows])), speakers[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
    net.eval()


def main(out: Path) -> dict[str, Any]:
    """Train, explain three utterances, write japanese_vowels.png."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    net = network()
    train(net, *read("TRAIN"))
    sequences, speakers = read("TEST")
    with torch.no_grad():
        predicted = torch.tensor([int(net(s[None]).argmax()) for s in sequences])

    lengths = torch.tensor([s.shape[1] for s in sequences])
    shown = [int((lengths == length).nonzero()[0]) for length in (19, lengths.min(), lengths.max())]
    model = seewhy.wrap(net, labels=[f"speaker {n}" for n in range(1, 10)])
    found = seewhy.explain(model, [sequences[i] for i in shown], "gradcam")

    figure(found, speakers[shown].tolist()).savefig(out / "japanese_vowels.png", dpi=150)
    return {
        "figure": out / "japanese_vowels.png",
        "accuracy": float((predicted == speakers).float().mean()),
        "lengths": lengths[shown].tolist(),
        "speakers": speakers[shown].tolist(),
        "predicted": [int(e.targets) for e in found],
        "layer": found[0].layer_reason,
        "layers": seewhy.layers(net, sequences[0][None]),
        "maps": [e.maps[0, 0] for e in found],
    }


def figure(found: list[seewhy.Explanation], truth: list[int]) -> Figure:
    """One column per utterance: its 12 coefficients above the map."""
    page = Figure(figsize=(11, 5), layout="constrained")
    widths = [e.maps.shape[-1] - 1 for e in found]  # a step is equally wide everywhere
    axes = page.subplots(2, len(found), sharex="col", width_ratios=widths, squeeze=False)
    for (above, below), e, true in zip(axes.T, found, truth, strict=True):
        for n, line in enumerate(e.input[0]):
            above.plot(line, color=colormaps["tab20"](n), label=f"coefficient {n + 1}")
        above.sharey(axes[0, 0])
        above.set_title(f"speaker {true + 1},\npredicted {e.labels[0][0]}", fontsize=10)
        below.plot(e.maps[0, 0], color="black", marker="o", markersize=3)
        below.fill_between(range(e.maps.shape[-1]), e.maps[0, 0], color="0.85")
        below.set(xlim=(0, e.maps.shape[-1] - 1), ylim=(0, 1.1 * float(e.maps.max())), xlabel="step")
    axes[0, 0].set_ylabel("coefficients")
    axes[1, 0].set_ylabel("importance (Grad-CAM)")
    page.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    return page


if __name__ == "__main__":
    facts = main(Path(sys.argv[1] if len(sys.argv) > 1 else "seewhy-out"))
    print(facts["layers"])
    print(f"{facts['accuracy']:.1%} of the test utterances predicted correctly; {facts['figure']}")
