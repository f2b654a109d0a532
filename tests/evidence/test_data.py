"""T4: does a map change when the labels that a network learnt meant nothing?"""

import numpy as np
import pytest
import torch
from tests.evidence.digits import digits, slopes, taught
from torch import nn

import seewhy
from seewhy import OptionError
from seewhy.evidence.verdict import Similarities, judge

EPOCHS = 150


def plain():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(400, 256), nn.ReLU(), nn.Linear(256, 10))


@pytest.fixture(scope="module")
def learnt():
    """A network, the digits it learnt, and how others learn them with other labels."""
    x, y = digits()
    x, y = x[:160], y[:160]
    asked = []

    def train(inputs, labels):
        asked.append(labels)
        return taught(plain(), inputs, labels, EPOCHS)

    return taught(plain(), x, y, EPOCHS), (x, y), train, asked


def test_maps_that_read_the_labels_change_and_edges_stay(learnt):
    net, (x, y), train, asked = learnt
    found = seewhy.check(net, x[:12], ["gradient", slopes(1)], train=train, data=(x, y))
    assert found["gradient"].tests["T4"].verdict == "PASS"
    assert found["slopes_1"].tests["T4"].verdict == "FAIL"
    assert found.controls["edges"].tests["T4"].verdict == "FAIL"
    assert set(found["gradient"].similarity) == {"top", "half", "all", "bottom", "data"}
    assert len(asked) == found.settings["draws"]
    for labels in asked:  # the same labels, at other places, each time others
        assert labels.bincount().tolist() == y.bincount().tolist()
        assert float((labels == y).double().mean()) < 0.3
    assert len({tuple(labels.tolist()) for labels in asked}) == len(asked)
    assert "T4 data" in str(found)
    again = seewhy.check(net, x[:12], "gradient")
    assert "T4" not in again["gradient"].tests
    assert again["gradient"].similarity["all"] == found["gradient"].similarity["all"]


def test_a_network_that_did_not_learn_them_says_nothing(learnt):
    net, data, _, _ = learnt
    found = seewhy.check(net, data[0][:6], "gradient", train=lambda x, y: taught(plain(), x, y, 1), data=data)
    one = found["gradient"].tests["T4"]
    assert one.verdict == "INCONCLUSIVE"
    assert "95% are needed" in one.reason


@pytest.mark.parametrize(("change", "why"), [
    ({"data": None}, "go together"),
    ({"train": None}, "go together"),
    ({"train": 3}, "go together"),
    ({"data": (torch.zeros(4, 1, 20, 20), torch.zeros(3, dtype=torch.long))}, "4 whole numbers"),
    ({"data": (torch.zeros(4, 1, 20, 20), torch.zeros(4))}, "4 whole numbers"),
    ({"data": (torch.zeros(4, 1, 20, 20), torch.zeros(4, dtype=torch.long))}, "one label only"),
    ({"train": lambda x, y: None}, "train gave a NoneType"),
])  # fmt: skip
def test_what_is_refused(learnt, change, why):
    net, data, train, _ = learnt
    with pytest.raises(OptionError, match=why):
        seewhy.check(net, data[0][:5], "gradient", **({"train": train, "data": data} | change))


def test_the_trained_network_itself_is_no_answer(learnt):
    net, data, _, _ = learnt
    with pytest.raises(OptionError, match="new torch module"):
        seewhy.check(net, data[0][:5], "gradient", train=lambda x, y: net, data=data)


@pytest.mark.parametrize(("same", "expected"), [(0.9, "FAIL"), (0.75, "INCONCLUSIVE"), (0.5, "PASS")])
def test_its_word(same, expected):
    n, draws = 12, 4
    noise = np.random.default_rng(0).normal(size=(n, draws)) * 0.05
    kinds = ("top", "half", "all", "bottom", "data")
    values = {k: (same if k == "data" else 0.1) + noise - noise.mean() for k in kinds}
    found = Similarities(
        same=values, cross={k: np.zeros((n, n, draws)) for k in kinds}, partial=values, self=np.ones(n),
        other=np.full((n, 2), 0.1), other_partial=None, gain=np.full(n, 0.2),
    )  # fmt: skip
    one = judge(found, several=1, needed=64)
    assert one.tests["T4"].verdict == expected
    assert one.verdict == expected
