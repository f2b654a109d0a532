"""T4: does a map change when the network is trained on shuffled labels?"""

import numpy as np
import pytest
import torch
from tests.evaluation.digits import edge_method, load_digit_images, train_classifier
from torch import nn

import seewhy
from seewhy import OptionError
from seewhy.evaluation.sanity_checks.verdict import Similarities, decide_verdict

EPOCHS = 150


def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(400, 256), nn.ReLU(), nn.Linear(256, 10))


@pytest.fixture(scope="module")
def trained():
    """A trained network, its training data, a training function, and the labels of each call of it."""
    x, y = load_digit_images()
    x, y = x[:160], y[:160]
    label_sets = []

    def train(inputs, labels):
        label_sets.append(labels)
        return train_classifier(classifier(), inputs, labels, EPOCHS)

    return train_classifier(classifier(), x, y, EPOCHS), (x, y), train, label_sets


def test_label_randomization_gradient_and_edges(trained):
    net, (x, y), train, label_sets = trained
    evidence = seewhy.check(net, x[:12], ["gradient", edge_method(1)], train=train, data=(x, y))
    assert evidence["gradient"].tests["T4"].verdict == "PASS"
    assert evidence["edge_filter_1"].tests["T4"].verdict == "FAIL"
    assert evidence.controls["edges"].tests["T4"].verdict == "FAIL"
    assert set(evidence["gradient"].similarity) == {"top", "half", "all", "bottom", "data"}
    assert len(label_sets) == evidence.settings["draws"]
    for labels in label_sets:  # a different permutation of the labels in each call
        assert labels.bincount().tolist() == y.bincount().tolist()
        assert float((labels == y).double().mean()) < 0.3
    assert len({tuple(labels.tolist()) for labels in label_sets}) == len(label_sets)
    assert "T4 data" in str(evidence)
    again = seewhy.check(net, x[:12], "gradient")
    assert "T4" not in again["gradient"].tests
    assert again["gradient"].similarity["all"] == evidence["gradient"].similarity["all"]


def test_label_randomization_inconclusive_without_training(trained):
    net, data, _, _ = trained

    def train(x, y):
        return train_classifier(classifier(), x, y, 1)

    evidence = seewhy.check(net, data[0][:6], "gradient", train=train, data=data)
    one = evidence["gradient"].tests["T4"]
    assert one.verdict == "INCONCLUSIVE"
    assert "at least 95% is required" in one.reason


@pytest.mark.parametrize(("change", "why"), [
    ({"data": None}, "required together"),
    ({"train": None}, "required together"),
    ({"train": 3}, "required together"),
    ({"data": (torch.zeros(4, 1, 20, 20), torch.zeros(3, dtype=torch.long))}, "4 integers"),
    ({"data": (torch.zeros(4, 1, 20, 20), torch.zeros(4))}, "4 integers"),
    ({"data": (torch.zeros(4, 1, 20, 20), torch.zeros(4, dtype=torch.long))}, "at least two different labels"),
    ({"train": lambda x, y: None}, "train returned a NoneType"),
])  # fmt: skip
def test_check_rejects_invalid_training_data(trained, change, why):
    net, data, train, _ = trained
    with pytest.raises(OptionError, match=why):
        seewhy.check(net, data[0][:5], "gradient", **({"train": train, "data": data} | change))


def test_check_rejects_train_that_returns_the_same_network(trained):
    net, data, _, _ = trained
    with pytest.raises(OptionError, match="new torch module"):
        seewhy.check(net, data[0][:5], "gradient", train=lambda x, y: net, data=data)


@pytest.mark.parametrize(("same", "expected"), [(0.9, "FAIL"), (0.75, "INCONCLUSIVE"), (0.5, "PASS")])
def test_label_randomization_verdict(same, expected):
    n, draws = 12, 4
    noise = np.random.default_rng(0).normal(size=(n, draws)) * 0.05
    kinds = ("top", "half", "all", "bottom", "data")
    values = {k: (same if k == "data" else 0.1) + noise - noise.mean() for k in kinds}
    similarities = Similarities(
        same_input=values, different_inputs={k: np.zeros((n, n, draws)) for k in kinds}, partial=values,
        self_similarity=np.ones(n), other_class=np.full((n, 2), 0.1), other_class_partial=None,
        deletion_gain=np.full(n, 0.2),
    )  # fmt: skip
    one = decide_verdict(similarities, comparisons=1, recommended_inputs=64)
    assert one.tests["T4"].verdict == expected
    assert one.verdict == expected
