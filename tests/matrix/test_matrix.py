"""A part of the matrix, and that all of it is on record. `make matrix` runs the whole."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

import seewhy
from seewhy.methods import Method
from tests.matrix.__main__ import read_results
from tests.matrix.cells import Cell, run_method, warm_up
from tests.matrix.networks import NETWORKS, build

# every network meets one method a way of feeding, a few networks meet all methods
PART_OF_METHODS = ("gradient", "guided_backprop", "gradcam", "attention_gradient", "legrad", "feature_ablation")
NETWORKS_WITH_ALL_METHODS = (
    "ResNet",
    "ViT, timm",
    "Swin",
    "1-D transformer",
    "3-D CNN",
    "U-Net",
    "Keras",
    "ONNX Runtime",
)
REQUIRED_PACKAGES = {"Keras": "keras", "ViT, Hugging Face": "transformers", "ONNX Runtime": "onnxruntime"}


@pytest.mark.filterwarnings("ignore")  # those of the networks' own making
@pytest.mark.parametrize("name", NETWORKS)
def test_a_part_of_the_matrix(name):
    if (
        name in REQUIRED_PACKAGES and find_spec(REQUIRED_PACKAGES[name]) is None
    ):  # an import could choose another backend
        pytest.skip(f"{REQUIRED_PACKAGES[name]} is not installed")
    network = NETWORKS[name]
    model, known = build(network), read_results()
    warm_up(model, network)
    for method in seewhy.METHODS if name in NETWORKS_WITH_ALL_METHODS else PART_OF_METHODS:
        cell = run_method(model, network, method)
        assert cell.outcome == known[name, method][1], (method, cell.detail)


def test_all_of_it_is_on_record_and_nothing_is_wrong():
    cells = read_results()
    assert len(NETWORKS) >= 24
    missing = {m for n in NETWORKS for m in seewhy.METHODS if (n, m) not in cells}
    assert not missing, f"run python -m tests.matrix {' '.join(missing)}, then python docs/generate.py"
    words = [word for _, word, _ in cells.values()]
    assert "wrong" not in words
    assert words.count("empty") <= 6, "a map of nothing is the exception"
    for kind in ("old CNN", "new CNN", "mixer", "transformer", "hybrid", "1-D", "3-D", "segmentation", "Keras", "ONNX"):
        assert kind in {found[0] for found in cells.values()}


def test_refusals_are_no_habit():
    """On an ordinary network only attention is refused; on a transformer of all to all nothing but rectifier rules."""
    cells = read_results()
    refused = {
        name: {m for m in seewhy.METHODS if cells[name, m][1] == "refused"}
        for name in ("ResNet", "ViT, timm", "ONNX Runtime")
    }
    assert refused["ResNet"] == {"rollout", "attention_gradient", "legrad"}
    assert refused["ViT, timm"] <= {"guided_backprop", "zeiler_fergus", "guided_gradcam", "layercam"}
    assert {"occlusion", "lime", "rise", "kernel_shap"}.isdisjoint(refused["ONNX Runtime"])


FAULTS = {
    "differs from the one alone": lambda gradient: gradient - gradient.mean(0),
    "not finite": lambda gradient: gradient / 0,
    "values are": lambda gradient: gradient[..., 1:],
    "RuntimeError": lambda gradient: gradient.view(7),
}


@pytest.mark.parametrize("words", FAULTS)
def test_the_cells_bite(words, monkeypatch):
    def planted(gradient):
        """A fault."""
        return FAULTS[words](gradient)

    monkeypatch.setitem(seewhy.METHODS, "planted", Method(planted, "input_gradient", "Planted", "nobody 2000"))
    network = NETWORKS["LeNet"]
    cell = run_method(build(network), network, "planted")
    assert cell.outcome == "wrong"
    assert words in cell.detail


def test_maps_of_nothing_are_marked(monkeypatch):
    def nothing(gradient):
        """Zero."""
        return gradient * 0

    monkeypatch.setitem(seewhy.METHODS, "nothing", Method(nothing, "input_gradient", "Nothing", "nobody 2000"))
    assert run_method(build(NETWORKS["LeNet"]), NETWORKS["LeNet"], "nothing") == Cell("empty")


def test_a_trace_is_found():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = NETWORKS["LeNet"].make()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            return self.inside(x)

    network = NETWORKS["LeNet"]
    assert run_method(Counting().double().eval(), network, "gradient") == Cell("wrong", "left a trace: tensors")
