"""Guided backprop on networks of every make, by several libraries, against the rule written out by hand."""

import copy
import sys
import warnings
from importlib.metadata import version

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import seewhy

from .measure import RESULTS, table


class Rule(torch.autograd.Function):
    """The rule itself: forward min(max(X, 0), top), backward (0 < X < top) · (dL/dZ > 0) · dL/dZ."""

    @staticmethod
    def forward(ctx, x, top):
        ctx.save_for_backward((x > 0) & (x < top))
        return x.clamp(0, top)

    @staticmethod
    def backward(ctx, arriving):
        return arriving.clamp(min=0) * ctx.saved_tensors[0], None


class Net(nn.Module):
    """Two convolutions, each followed by a rectifier of some make."""

    def __init__(self, first, second):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.first, self.second, self.last = first, second, nn.Linear(6, 4)

    def forward(self, x):
        x = self.second(self.conv2(self.first(self.conv1(x))))
        return self.last(x.mean((2, 3)))


ONE = nn.ReLU()
NETWORKS = {
    "nn.ReLU, a module each": lambda: Net(nn.ReLU(), nn.ReLU()),
    "nn.ReLU(inplace=True)": lambda: Net(nn.ReLU(inplace=True), nn.ReLU(inplace=True)),
    "one nn.ReLU used twice": lambda: Net(ONE, ONE),
    "F.relu": lambda: Net(F.relu, F.relu),
    "x.relu_()": lambda: Net(torch.relu_, torch.relu_),
    "x.clamp(min=0)": lambda: Net(lambda x: x.clamp(min=0), lambda x: x.clamp(min=0)),
    "nn.ReLU6": lambda: Net(nn.ReLU6(), nn.ReLU6()),
    "F.hardtanh(x, 0, 6)": lambda: Net(lambda x: F.hardtanh(x, 0.0, 6.0), lambda x: F.hardtanh(x, 0.0, 6.0)),
    "scripted, third call": lambda: _warm(torch.jit.script(Net(nn.ReLU(), nn.ReLU()))),
    "compiled": lambda: torch.compile(Net(nn.ReLU(), nn.ReLU()), backend="aot_eager"),
    "GELU (the rule is not defined)": lambda: Net(nn.GELU(), nn.GELU()),
}
X = torch.randn(1, 3, 7, 7, generator=torch.Generator().manual_seed(1))
CLASS = 2


def _warm(net):
    for _ in range(3):
        net(X.clone().requires_grad_())
    return net


def ours(net):
    return seewhy.explain(net, X, "guided_backprop", target=CLASS).values[:, 0]


def captum(net):
    from captum.attr import GuidedBackprop

    return GuidedBackprop(net).attribute(X.clone().requires_grad_(), target=CLASS).detach()


def grad_cam(net):
    from pytorch_grad_cam import GuidedBackpropReLUModel

    found = GuidedBackpropReLUModel(net, device="cpu")(X.clone(), target_category=CLASS)
    return torch.from_numpy(np.ascontiguousarray(found)).permute(2, 0, 1)[None]


def zennit(net):
    from zennit.attribution import Gradient
    from zennit.composites import GuidedBackprop

    with Gradient(net, GuidedBackprop()) as attributor:
        return attributor(X.clone(), torch.eye(4)[[CLASS]])[1].detach()


PEERS = {"seewhy": ours, "captum": captum, "grad-cam": grad_cam, "zennit": zennit}


def verdict(peer, make, expected):
    net = make()
    net = net if isinstance(net, torch.jit.ScriptModule) or hasattr(net, "_orig_mod") else copy.deepcopy(net)
    net.eval()
    leaf = X.clone().requires_grad_()
    plain = torch.autograd.grad(make().eval()(leaf)[0, CLASS], leaf)[0]
    try:
        found = peer(net)
    except Exception as error:
        return "refused" if isinstance(error, seewhy.SeewhyError) else f"{type(error).__name__}"
    if expected is not None and torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max())):
        return "right"
    if torch.allclose(found, plain, atol=1e-5 * float(plain.abs().max())):
        return "plain gradient, silently"
    return "something else, silently"


def main() -> None:
    warnings.filterwarnings("ignore")
    rows = []
    for name, make in NETWORKS.items():
        expected = None
        if "GELU" not in name:
            top = 6.0 if "6" in name else float("inf")
            reference, leaf = Net(lambda x, t=top: Rule.apply(x, t), lambda x, t=top: Rule.apply(x, t)), X.clone()
            expected = torch.autograd.grad(reference(leaf.requires_grad_())[0, CLASS], leaf)[0]
        rows.append([name, *(verdict(peer, make, expected) for peer in PEERS.values())])
        print(" | ".join(rows[-1]), file=sys.stderr)
    text = table(["network", *(f"{peer} {version(peer)}" for peer in PEERS)], rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "conformance.md").write_text(f"torch {version('torch')}\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
