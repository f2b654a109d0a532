"""What the sources ask for that belongs to no one room."""

import io
import itertools

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import seewhy
from seewhy import pictures
from tests.networks import classifier, noise

FOUR = ["gradient", "guided_backprop", "zeiler_fergus", "integrated_gradients"]


@pytest.mark.row(1, 2)
@pytest.mark.filterwarnings("ignore")
def test_googlenet_by_its_name(monkeypatch):
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
def test_a_layer_before_the_last_is_explained(method):
    """The softmax at the end is left out by naming the layer before it."""
    net, x = classifier(), noise(2, 3, 8, 9)
    whole = nn.Sequential(*net, nn.Softmax(1))
    given = seewhy.explain(whole, x, method, target=2, reduction_layer="6").values
    torch.testing.assert_close(given, seewhy.explain(net, x, method, target=2).values, rtol=0, atol=0)
    assert (given - seewhy.explain(whole, x, method, target=2).values).abs().max() > 1e-3


@pytest.mark.row(10)
def test_an_input_says_which_axis_is_which():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = classifier().float()

        def forward(self, x):
            assert x.dtype == torch.float32
            return self.net(x.permute(3, 2, 0, 1))

    x = noise(2, 3, 8, 9)
    given = seewhy.explain(seewhy.wrap(Last(), layout="HWCN"), x.permute(2, 3, 1, 0), "gradient", target=1)
    plain = seewhy.explain(classifier().float(), x, "gradient", target=1)
    assert given.maps.shape == (2, 1, 8, 9)
    torch.testing.assert_close(given.values, plain.values)


@pytest.mark.row(33, 58)
def test_four_maps_of_one_picture_on_one_sheet():
    found = seewhy.compare(classifier(), noise(1, 3, 8, 9), FOUR, target=1)
    page = pictures.figure(found.maps)
    titles = [axis.get_title() for axis in page.axes if axis.get_title()]
    assert titles == ["Input", *(seewhy.METHODS[name].title for name in FOUR)]
    panels = [axis for axis in page.axes if axis.get_title()]
    page.savefig(io.BytesIO())  # lays it out
    assert len({round(axis.get_position().y0, 3) for axis in panels}) == 1
    places = [axis.get_position() for axis in panels]
    gaps = [b.x0 - a.x1 for a, b in itertools.pairwise(places)]
    assert all(0 <= gap < 0.2 * places[0].width for gap in gaps)
    assert page.get_suptitle() == f"1 ({float(found.maps[0].probabilities[0, 0]):.2f})"


@pytest.mark.row(34)
@pytest.mark.parametrize(("method", "word"), [
    ("gradient", "Noisy"), ("gradient", "most faithful"),
    ("guided_backprop", "edges more than what the network learnt"), ("integrated_gradients", "debated"),
])  # fmt: skip
def test_doubts_stand_beside_the_map(method, word, tmp_path):
    e = seewhy.explain(classifier(), noise(1, 3, 8, 9), method, target=1)
    assert word in e.about
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
@pytest.mark.parametrize("net", [classifier(), Branches().double(), formula])
def test_networks_of_any_shape_and_functions(net):
    x = noise(2, 3, 8, 9)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(leaf)[:, 1].sum(), leaf)
    for given in (net, seewhy.wrap(net)):
        torch.testing.assert_close(seewhy.explain(given, x, "gradient", target=1).values[:, 0], expected)


@pytest.mark.row(62)
def test_an_answer_that_is_not_the_networks_is_explained():
    net, x = classifier(), noise(1, 3, 8, 9)
    best = int(seewhy.predict(net, x).indices[0, 0])
    other = (best + 1) % 4
    e = seewhy.explain(net, x, "gradient", target=[other, best])
    assert e.targets.tolist() == [[other, best]]
    assert e.scores[0, 0] < e.scores[0, 1]
    assert (e.maps[0, 0] - e.maps[0, 1]).abs().max() > 1e-3


@pytest.mark.row(95)
def test_options_in_any_order():
    net, x = classifier(), noise(1, 3, 8, 9)
    options = {"target": 2, "steps": 4, "score": "margin", "rule": "gauss"}
    maps = [
        seewhy.explain(net, x, "integrated_gradients", **dict(order)).values
        for order in itertools.permutations(options.items())
    ]
    assert all(torch.equal(one, maps[0]) for one in maps)
