"""Guided backprop of four libraries, on rectifiers of every implementation, compared with the rule of the paper."""

import copy
import sys
import warnings
from importlib.metadata import version

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import seewhy

from .measure import RESULTS, markdown_table


class GuidedRectifier(torch.autograd.Function):
    """The rule: forward pass min(max(X, 0), upper bound), backward pass (0 < X < upper bound) · max(dL/dZ, 0)."""

    @staticmethod
    def forward(ctx, x, upper):
        ctx.save_for_backward((x > 0) & (x < upper))
        return x.clamp(0, upper)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.clamp(min=0) * ctx.saved_tensors[0], None


class TwoConvolutions(nn.Module):
    """Two convolutions, each followed by a rectifier; then a mean over positions and a linear layer."""

    def __init__(self, first, second):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.first, self.second, self.last = first, second, nn.Linear(6, 4)

    def forward(self, x):
        x = self.second(self.conv2(self.first(self.conv1(x))))
        return self.last(x.mean((2, 3)))


SHARED_RELU = nn.ReLU()
NETWORKS = {
    "nn.ReLU, one module per use": lambda: TwoConvolutions(nn.ReLU(), nn.ReLU()),
    "nn.ReLU(inplace=True)": lambda: TwoConvolutions(nn.ReLU(inplace=True), nn.ReLU(inplace=True)),
    "one nn.ReLU used twice": lambda: TwoConvolutions(SHARED_RELU, SHARED_RELU),
    "F.relu": lambda: TwoConvolutions(F.relu, F.relu),
    "x.relu_()": lambda: TwoConvolutions(torch.relu_, torch.relu_),
    "x.clamp(min=0)": lambda: TwoConvolutions(lambda x: x.clamp(min=0), lambda x: x.clamp(min=0)),
    "nn.ReLU6": lambda: TwoConvolutions(nn.ReLU6(), nn.ReLU6()),
    "F.hardtanh(x, 0, 6)": lambda: TwoConvolutions(
        lambda x: F.hardtanh(x, 0.0, 6.0), lambda x: F.hardtanh(x, 0.0, 6.0)
    ),
    "scripted, third call": lambda: _call_three_times(torch.jit.script(TwoConvolutions(nn.ReLU(), nn.ReLU()))),
    "compiled": lambda: torch.compile(TwoConvolutions(nn.ReLU(), nn.ReLU()), backend="aot_eager"),
    "GELU (the rule is not defined)": lambda: TwoConvolutions(nn.GELU(), nn.GELU()),
}
INPUT = torch.randn(1, 3, 7, 7, generator=torch.Generator().manual_seed(1))
CLASS = 2


def _call_three_times(net):
    for _ in range(3):
        net(INPUT.clone().requires_grad_())
    return net


def map_of_seewhy(net):
    return seewhy.explain(net, INPUT, "guided_backprop", target=CLASS).values[:, 0]


def map_of_captum(net):
    from captum.attr import GuidedBackprop

    return GuidedBackprop(net).attribute(INPUT.clone().requires_grad_(), target=CLASS).detach()


def map_of_grad_cam(net):
    from pytorch_grad_cam import GuidedBackpropReLUModel

    result = GuidedBackpropReLUModel(net, device="cpu")(INPUT.clone(), target_category=CLASS)
    return torch.from_numpy(np.ascontiguousarray(result)).permute(2, 0, 1)[None]


def map_of_zennit(net):
    from zennit.attribution import Gradient
    from zennit.composites import GuidedBackprop

    with Gradient(net, GuidedBackprop()) as attributor:
        return attributor(INPUT.clone(), torch.eye(4)[[CLASS]])[1].detach()


LIBRARIES = {"seewhy": map_of_seewhy, "captum": map_of_captum, "grad-cam": map_of_grad_cam, "zennit": map_of_zennit}


def compare_with_rule(library, make, expected):
    """The cell of a library and a network: whether its map equals that of the rule, or the plain gradient."""
    net = make()
    net = net if isinstance(net, torch.jit.ScriptModule) or hasattr(net, "_orig_mod") else copy.deepcopy(net)
    net.eval()
    leaf = INPUT.clone().requires_grad_()
    plain = torch.autograd.grad(make().eval()(leaf)[0, CLASS], leaf)[0]
    try:
        result = library(net)
    except Exception as error:
        return "refused" if isinstance(error, seewhy.SeewhyError) else f"{type(error).__name__}"
    if expected is not None and torch.allclose(result, expected, atol=1e-5 * float(expected.abs().max())):
        return "correct"
    if torch.allclose(result, plain, atol=1e-5 * float(plain.abs().max())):
        return "plain gradient, no error"
    return "other result, no error"


def main() -> None:
    warnings.filterwarnings("ignore")
    rows = []
    for name, make in NETWORKS.items():
        expected = None
        if "GELU" not in name:
            upper = 6.0 if "6" in name else float("inf")
            rule = lambda x, upper=upper: GuidedRectifier.apply(x, upper)  # noqa: E731
            reference, leaf = TwoConvolutions(rule, rule), INPUT.clone().requires_grad_()
            expected = torch.autograd.grad(reference(leaf)[0, CLASS], leaf)[0]
        rows.append([name, *(compare_with_rule(library, make, expected) for library in LIBRARIES.values())])
        print(" | ".join(rows[-1]), file=sys.stderr)
    text = markdown_table(["network", *(f"{name} {version(name)}" for name in LIBRARIES)], rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "conformance.md").write_text(f"torch {version('torch')}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
