"""Grad-CAM of a regression: which strokes determine the predicted rotation of a digit, at layers given by name.

Digits of scikit-learn are rotated by known angles from -45 to 45 degrees (anticlockwise is positive), and a small
convolutional network learns the angle. The figure shows a held-out digit in gray and under its map in colormap jet,
with the true and the predicted angle. The feature layer is the last rectifier `relu_4`, the reduction layer is `fc`,
whose output is the angle. Run it: `python examples/digit_angle.py [OUT_DIR]`.
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
MAX_ANGLE = 45  # degrees
HELD_OUT = 400
EPOCHS = 10


def rotated(digits: Tensor, angles: Tensor) -> Tensor:
    """[N, 1, 8, 8] -> [N, 1, 28, 28], each rotated anticlockwise by its angle in degrees."""
    large = F.interpolate(digits, size=(SIZE, SIZE), mode="bicubic").clamp(0, 1)
    cos, sin, zero = angles.deg2rad().cos(), angles.deg2rad().sin(), torch.zeros_like(angles)
    inverse = torch.stack([cos, -sin, zero, sin, cos, zero], 1).reshape(-1, 2, 3)  # source position of each pixel
    scale = 1.3  # the digit is made smaller, so that no corner is cut off
    return F.grid_sample(
        large, F.affine_grid(scale * inverse, list(large.shape), align_corners=False), align_corners=False
    )


def angles(count: int) -> Tensor:
    """Uniform random angles from -45 to 45 degrees."""
    return (torch.rand(count) * 2 - 1) * MAX_ANGLE


def network() -> nn.Module:
    """Four convolutions with batch normalization and ReLU, and one output."""
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
    """Each epoch rotates every digit by a new random angle."""
    batches = -(-len(digits) // 64)
    adam = torch.optim.Adam(net.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, 5e-3, total_steps=EPOCHS * batches)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(digits)).split(64):
            target = angles(len(rows))
            loss = F.mse_loss(net(rotated(digits[rows], target))[:, 0], target / MAX_ANGLE)
            adam.zero_grad()
            loss.backward()
            adam.step()
            rate.step()
    net.eval()
    with torch.no_grad():  # training uses angles scaled to [-1, 1]; the output is in degrees
        net.fc.weight *= MAX_ANGLE
        net.fc.bias *= MAX_ANGLE


def main(out: Path) -> dict[str, Any]:
    """Train, explain one held-out digit, write digit_angle.png."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    images = load_digits().images / 16
    digits = torch.tensor(images, dtype=torch.float32)[:, None][torch.randperm(len(images))]
    net = network()
    train(net, digits[HELD_OUT:])

    true = angles(HELD_OUT)
    x = rotated(digits[:HELD_OUT], true)
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
        "naive_error": float((true.median() - true).abs().mean()),  # of a constant prediction
        "true": float(true[one]),
        "predicted": float(e.scores),
        "layers": seewhy.layers(net, x[:1]),
        "feature_layer": e.feature_layer,
        "reduction_layer": e.reduction_layer,
        "map": e.maps[0, 0],
    }


def figure(e: seewhy.Explanation, true: float) -> Figure:
    """The digit, and the digit under its map."""
    page = Figure(figsize=(6.6, 3.2), layout="constrained")
    gray, jet = page.subplots(1, 2)
    for axis in (gray, jet):
        axis.imshow(e.input[0, 0].numpy(), cmap="gray")
        axis.axis("off")
    heat = jet.imshow(e.maps[0, 0].numpy(), cmap="jet", alpha=0.5)
    gray.set_title(f"true angle {true:.1f}°")
    jet.set_title(f"predicted angle {float(e.scores):.1f}°")
    page.colorbar(heat, cax=jet.inset_axes((1.04, 0, 0.05, 1)), label="Grad-CAM, degrees")
    return page


if __name__ == "__main__":
    facts = main(Path(sys.argv[1] if len(sys.argv) > 1 else "seewhy-out"))
    print(facts["layers"])
    print(f"mean error {facts['error']:.1f}° (constant prediction: {facts['naive_error']:.1f}°); {facts['figure']}")
