"""A part of the matrix, compared with the stored results; `make matrix` runs all of it."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

import seewhy
from seewhy.engine.families import FAMILIES
from seewhy.methods import Capability, Method
from tests.matrix.__main__ import read_results
from tests.matrix.cells import Cell, run_method, warm_up
from tests.matrix.networks import NETWORKS, build

# methods of several families on every network, all methods on a few networks
PART_OF_METHODS = ("gradient", "guided_backprop", "gradcam", "attention_gradient", "legrad", "feature_ablation")
NETWORKS_WITH_ALL_METHODS = ("ResNet", "ViT, timm", "Swin", "1-D transformer", "3-D CNN", "U-Net", "Keras",
                             "ONNX Runtime")  # fmt: skip
REQUIRED_PACKAGES = {"Keras": "keras", "ViT, Hugging Face": "transformers", "ONNX Runtime": "onnxruntime"}


@pytest.mark.filterwarnings("ignore")  # warnings of the networks
@pytest.mark.parametrize("name", NETWORKS)
def test_methods_on_network_equal_stored_outcomes(name):
    package = REQUIRED_PACKAGES.get(name)
    if package and find_spec(package) is None:  # importing Keras here could select another backend
        pytest.skip(f"{package} is not installed")
    network = NETWORKS[name]
    model, stored = build(network), read_results()
    warm_up(model, network)
    for method in seewhy.METHODS if name in NETWORKS_WITH_ALL_METHODS else PART_OF_METHODS:
        cell = run_method(model, network, method)
        assert cell.outcome == stored[name, method][1], (method, cell.detail)


def test_stored_results_are_complete_and_not_wrong():
    cells = read_results()
    assert len(NETWORKS) >= 24
    missing = {m for n in NETWORKS for m in seewhy.METHODS if (n, m) not in cells}
    assert not missing, f"no results of {', '.join(missing)}: run make generated"
    outcomes = [outcome for _, outcome, _ in cells.values()]
    assert "wrong" not in outcomes
    assert outcomes.count("empty") <= 6, "maps of zeros must be exceptions"
    for kind in ("old CNN", "new CNN", "mixer", "transformer", "hybrid", "1-D", "3-D", "segmentation", "Keras", "ONNX"):
        assert kind in {cell[0] for cell in cells.values()}


def test_refused_methods_are_exceptions():
    """A ResNet refuses attention methods, and CAM as its last layers have one position for this small input."""
    families = {name: FAMILIES[m.family] for name, m in seewhy.METHODS.items()}
    cells = read_results()
    refused = {
        name: {m for m in seewhy.METHODS if cells[name, m][1] == "refused"}
        for name in ("ResNet", "ViT, timm", "ONNX Runtime")
    }
    assert refused["ResNet"] == {n for n, f in families.items() if f.uses_attention or f.needs_pooled_head}
    # a plain ViT refuses at most rectifier rules, pooled heads and LayerCAM
    assert refused["ViT, timm"] <= {
        n for n, f in families.items() if f.needs_pooled_head or seewhy.METHODS[n].rules
    } | {"layercam"}
    assert {n for n, m in seewhy.METHODS.items() if m.requires is Capability.SCORES}.isdisjoint(refused["ONNX Runtime"])


FAULTS = {
    "differs from that of the input alone": lambda gradient: gradient - gradient.mean(0),
    "not finite": lambda gradient: gradient / 0,
    "values are": lambda gradient: gradient[..., 1:],
    "RuntimeError": lambda gradient: gradient.view(7),
}


@pytest.mark.parametrize("message", FAULTS)
def test_run_method_detects_fault(message, monkeypatch):
    def faulty(gradient):
        """A gradient with a fault."""
        return FAULTS[message](gradient)

    monkeypatch.setitem(seewhy.METHODS, "faulty", Method(faulty, "input_gradient", "Faulty", "nobody 2000"))
    network = NETWORKS["LeNet"]
    cell = run_method(build(network), network, "faulty")
    assert cell.outcome == "wrong"
    assert message in cell.detail


def test_run_method_reports_empty_maps(monkeypatch):
    def zero(gradient):
        """Zero for every input value."""
        return gradient * 0

    monkeypatch.setitem(seewhy.METHODS, "zero", Method(zero, "input_gradient", "Zero", "nobody 2000"))
    assert run_method(build(NETWORKS["LeNet"]), NETWORKS["LeNet"], "zero") == Cell("empty")


def test_run_method_detects_side_effect():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = NETWORKS["LeNet"].make()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            return self.net(x)

    network = NETWORKS["LeNet"]
    assert run_method(Counting().double().eval(), network, "gradient") == Cell("wrong", "side effects on tensors")
