"""Kernels called directly, compiled, and by the engine return the same values."""

import subprocess
import sys

import pytest
import torch
from torch import nn

import seewhy

COMPILED = """
import torch
from seewhy.methods import METHODS
traced = []
def backend(graph, _):
    traced.append(graph)
    return graph.forward
kernel = METHODS["gradcam"].kernel
compiled = torch.compile(kernel, backend=backend, dynamic=True, fullgraph=True)
for batch in (2, 3, 7):
    activations, gradients = torch.randn(batch, 4, 5, 6), torch.randn(batch, 3, 4, 5, 6)
    assert torch.allclose(compiled(activations, gradients), kernel(activations, gradients), atol=1e-6)
print(len(traced))
"""


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(6)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 54, 3)).double()


@pytest.fixture(scope="module")
def x():
    return torch.randn(2, 3, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.row(141)
@pytest.mark.parametrize("name", ["gradient", "input_x_gradient", "gradcam", "hirescam", "layercam", "xgradcam"])
def test_kernel_called_directly_equals_explain(name, net, x):
    """The arguments of the kernel are computed here with torch alone."""
    leaf = x.clone().requires_grad_()
    activations = net[:2](leaf)
    scores = net[2:](activations)
    targets = [2, 0]
    arguments = {"x": x, "activations": activations.detach()}
    for key, tensor in (("gradient", leaf), ("gradients", activations)):
        by_target = [torch.autograd.grad(scores[:, k].sum(), tensor, retain_graph=True)[0] for k in targets]
        arguments[key] = torch.stack(by_target, 1)
    method = seewhy.METHODS[name]
    direct = method.kernel(*(arguments[key] for key in method.kernel_inputs))
    explanation = seewhy.explain(net, x, name, target=targets)
    assert (direct - explanation.values).abs().max() < 1e-6
    assert explanation.values.abs().max() > 1e-3


@pytest.mark.row(140)
def test_kernel_is_compiled_once_for_all_batch_sizes():
    output = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=True).stdout
    assert output == "1\n"


@pytest.mark.row(143)
def test_pictures_are_prepared_by_the_model(lite0, shipped):
    before = {name: (id(p), p.device) for name, p in lite0.module.named_parameters()}
    one = seewhy.explain(lite0, shipped["coffee"], "gradcam")
    other = seewhy.explain(lite0, lite0.prepare(shipped["coffee"]), "gradcam")
    assert torch.equal(one.maps, other.maps)
    assert torch.equal(one.input, lite0.prepare(shipped["coffee"]).cpu())
    assert {name: (id(p), p.device) for name, p in lite0.module.named_parameters()} == before
