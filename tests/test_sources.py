"""Requirements from the literature that concern several packages."""

import io
import itertools

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import seewhy
from seewhy import visualization
from tests.networks import random_input, small_classifier

FOUR = ["gradient", "guided_backprop", "zeiler_fergus", "integrated_gradients"]


@pytest.mark.row(1, 2)
@pytest.mark.filterwarnings("ignore")
def test_load_googlenet_by_name(monkeypatch):
    state = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
    model = seewhy.load("torchvision:googlenet", allow_download=True)
    assert model.preparation.size == (224, 224)
    assert len(model.labels) == 1000
    loaded = model.module.state_dict()
    assert loaded
    assert all(torch.equal(weight, state[name]) for name, weight in loaded.items())
    assert model.prepare(np.zeros((300, 400, 3), np.uint8)).shape == (1, 3, 224, 224)


@pytest.mark.row(8, 80)
@pytest.mark.parametrize("method", ["gradient", "guided_backprop"])
def test_reduction_layer_before_softmax(method):
    """`reduction_layer` excludes the softmax at the end, and score="probability" includes it."""
    net, x = small_classifier(), random_input(2, 3, 8, 9)
    whole = nn.Sequential(*net, nn.Softmax(1))
    given = seewhy.explain(whole, x, method, target=2, reduction_layer="6").values
    torch.testing.assert_close(given, seewhy.explain(net, x, method, target=2).values, rtol=0, atol=0)
    probability = seewhy.explain(whole, x, method, target=2, score="probability")
    assert (given - probability.values).abs().max() > 1e-3


@pytest.mark.row(10)
def test_explain_with_custom_layout():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = small_classifier().float()

        def forward(self, x):
            assert x.dtype == torch.float32
            return self.net(x.permute(3, 2, 0, 1))

    x = random_input(2, 3, 8, 9)
    given = seewhy.explain(seewhy.wrap(Last(), layout="HWCN"), x.permute(2, 3, 1, 0), "gradient", target=1)
    plain = seewhy.explain(small_classifier().float(), x, "gradient", target=1)
    assert given.maps.shape == (2, 1, 8, 9)
    torch.testing.assert_close(given.values, plain.values)


@pytest.mark.row(33, 58)
def test_sheet_with_four_methods():
    comparison = seewhy.compare(small_classifier(), random_input(1, 3, 8, 9), FOUR, target=1)
    sheet = visualization.figure(comparison.maps)
    titles = [axis.get_title() for axis in sheet.axes if axis.get_title()]
    assert titles == ["Input", *(seewhy.METHODS[name].title for name in FOUR)]
    panels = [axis for axis in sheet.axes if axis.get_title()]
    sheet.savefig(io.BytesIO())  # computes the layout
    assert len({round(axis.get_position().y0, 3) for axis in panels}) == 1
    boxes = [axis.get_position() for axis in panels]
    gaps = [b.x0 - a.x1 for a, b in itertools.pairwise(boxes)]
    assert all(0 <= gap < 0.2 * boxes[0].width for gap in gaps)
    assert sheet.get_suptitle() == f"1 ({float(comparison.maps[0].probabilities[0, 0]):.2f})"


@pytest.mark.row(34)
@pytest.mark.parametrize(("method", "word"), [
    ("gradient", "Noisy"), ("gradient", "most faithful"),
    ("guided_backprop", "edges more than what the network learned"), ("integrated_gradients", "debated"),
])  # fmt: skip
def test_report_contains_limitations_of_method(method, word, tmp_path):
    e = seewhy.explain(small_classifier(), random_input(1, 3, 8, 9), method, target=1)
    assert word in e.description
    e.save(tmp_path / "one.html")
    assert word in (tmp_path / "one.html").read_text(encoding="utf-8")


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x):
        return self.last((self.a(x).relu() + self.b(x).relu()).mean((2, 3)))


def formula(x):
    return torch.stack([x.sum((1, 2, 3)), (x**2).sum((1, 2, 3))], 1)


@pytest.mark.row(43)
@pytest.mark.parametrize("net", [small_classifier(), Branches().double(), formula])
def test_explain_branched_network_and_function(net):
    x = random_input(2, 3, 8, 9)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    for given in (net, seewhy.wrap(net)):
        torch.testing.assert_close(seewhy.explain(given, x, "gradient", target=1).values[:, 0], expected)


@pytest.mark.row(62)
def test_explain_class_that_is_not_predicted():
    net, x = small_classifier(), random_input(1, 3, 8, 9)
    best = int(seewhy.predict(net, x).indices[0, 0])
    other = (best + 1) % 4
    e = seewhy.explain(net, x, "gradient", target=[other, best])
    assert e.targets.tolist() == [[other, best]]
    assert e.scores[0, 0] < e.scores[0, 1]
    assert (e.maps[0, 0] - e.maps[0, 1]).abs().max() > 1e-3


@pytest.mark.row(95)
def test_explain_options_in_any_order():
    net, x = small_classifier(), random_input(1, 3, 8, 9)
    options = {"target": 2, "steps": 4, "score": "margin", "rule": "gauss"}
    maps = [
        seewhy.explain(net, x, "integrated_gradients", **dict(order)).values
        for order in itertools.permutations(options.items())
    ]
    assert all(torch.equal(one, maps[0]) for one in maps)
