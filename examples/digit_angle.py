"""Which strokes tell how far a digit is turned: Grad-CAM of a regression, at layers given by name.

Digits of scikit-learn are turned by known angles from -45 to 45 degrees (anticlockwise is positive), and a small
convolutional network learns the angle. The figure shows a digit that it has not learned from, grey and under the map
in the colours of jet, with the true and the predicted angle. Read is the last rectifier `relu_4`, explained the
output of `fc`, which is the angle itself. Run it: `python examples/digit_angle.py [OUT_DIR]`.
"""

import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import seewhy

SIZE = 28
LARGEST = 45  # degrees
HELD_OUT = 400
EPOCHS = 10


def turned(digits: Tensor, angles: Tensor) -> Tensor:
    """[N, 1, 8, 8] -> [N, 1, 28, 28], each turned anticlockwise by its angle in degrees."""
    large = F.interpolate(digits, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)
    cos, sin, zero = angles.deg2rad().cos(), angles.deg2rad().sin(), torch.zeros_like(angles)
    back = torch.stack([cos, -sin, zero, sin, cos, zero], 1).reshape(-1, 2, 3)  # where each pixel comes from
    room = 1.3  # the digit is made smaller, so that no corner is cut off
    return F.grid_sample(large, F.affine_grid(room * back, list(large.shape), align_corners=False), align_corners=False)


def angles(count: int) -> Tensor:
    """Drawn evenly from -45 to 45 degrees."""
    return (torch.rand(count) * 2 - 1) * LARGEST


def network() -> nn.Module:
    """Four convolutions, each normalised and rectified, and one number at the end."""
    layers: dict[str, nn.Module] = {}
    channels = [1, 8, 16, 32, 32]
    for n in range(1, 5):
        layers[f"conv_{n}"] = nn.Conv2d(channels[n - 1], channels[n], 3, padding=1)
        layers[f"norm_{n}"] = nn.BatchNorm2d(channels[n])
        layers[f"relu_{n}"] = nn.ReLU()
        if n <= 2:
            layers[f"pool_{n}"] = nn.AvgPool2d(2)
    layers |= {"dropout": nn.Dropout(0.2), "flatten": nn.Flatten(), "fc": nn.Linear(32 * 7 * 7, 1)}
    return nn.Sequential(OrderedDict(layers))


def train(net: nn.Sequential, digits: Tensor) -> None:
    """Every digit is turned anew in every epoch."""
    batches = -(-len(digits) // 64)
    adam = torch.optim.Adam(net.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 5e-3, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(digits)).split(64):
            asked = angles(len(rows))
            loss = F.mse_loss(net(turned(digits[rows], asked))[:, 0], asked / LARGEST)
            adam.zero_grad()
            loss.backward()
            adam.step()
            rate.step()
    net.eval()
    with torch.no_grad():  # small numbers are learned faster; the answer is to be in degrees
        net.fc.weight *= LARGEST
        net.fc.bias *= LARGEST


def main(out: Path) -> dict[str, Any]:
    """Train, explain one held-out digit, write digit_angle.png."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    images = load_digits().images / 16
    digits = torch.tensor(images, dtype=torch.float32)[:, None][torch.randperm(len(images))]
    net = network()
    train(net, digits[HELD_OUT:])

    true = angles(HELD_OUT)
    x = turned(digits[:HELD_OUT], true)
    with torch.no_grad():
        predicted = net(x)[:, 0]
    one = int((true - 29).abs().argmin())

    e = seewhy.explain(
        net,
        x[one : one + 1],
        "gradcam",
        target=lambda output: output[:, 0],
        feature_layer="relu_4",
        reduction_layer="fc",
    )
    figure(e, float(true[one])).savefig(out / "digit_angle.png", dpi=150)
    return {
        "figure": out / "digit_angle.png",
        "error": float((predicted - true).abs().mean()),
        "naive_error": float((true.median() - true).abs().mean()),  # of always giving the same angle
        "true": float(true[one]),
        "predicted": float(e.scores),
        "layers": seewhy.layers(net, x[:1]),
        "read": e.feature_layer,
        "explained": e.reduction_layer,
        "map": e.maps[0, 0],
    }


def figure(e: seewhy.Explanation, true: float) -> Figure:
    """The digit, and the digit under its map."""
    page = Figure(figsize=(6.6, 3.2), layout="constrained")
    grey, jet = page.subplots(1, 2)
    for axis in (grey, jet):
        axis.imshow(e.input[0, 0].numpy(), cmap="gray")
        axis.axis("off")
    heat = jet.imshow(e.maps[0, 0].numpy(), cmap="jet", alpha=0.5)
    grey.set_title(f"true angle {true:.1f}°")
    jet.set_title(f"predicted angle {float(e.scores):.1f}°")
    page.colorbar(heat, cax=jet.inset_axes((1.04, 0, 0.05, 1)), label="Grad-CAM, degrees")
    return page


if __name__ == "__main__":
    facts = main(Path(sys.argv[1] if len(sys.argv) > 1 else "seewhy-out"))
    print(facts["layers"])
    print(f"mean error {facts['error']:.1f}° (always the same angle: {facts['naive_error']:.1f}°); {facts['figure']}")
