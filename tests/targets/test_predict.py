"""Class predictions."""

import pytest
import torch
from torch import nn

import seewhy

SCORES = torch.tensor([[0.0, 3.0, 2.0, -1.0], [5.0, 1.0, 0.0, 2.0]])


@pytest.mark.row(5, 6, 64)
def test_predict_orders_classes_by_probability():
    model = seewhy.wrap(lambda x: x, labels=list("abcd"))
    p = seewhy.predict(model, SCORES, top=2)
    assert p.indices.tolist() == [[1, 2], [0, 3]]
    assert torch.allclose(p.probabilities, SCORES.softmax(1).gather(1, p.indices))
    assert p.labels == (("b", "c"), ("a", "d"))
    assert [label for label, _, _ in next(iter(p))] == ["b", "c"]
    assert "0.69639" in str(p)


@pytest.mark.parametrize(("network", "note"), [
    (lambda x: x.softmax(1), "those of the softmax at the end"), (lambda x: x.detach().softmax(1).numpy(), "already"),
    (lambda x: x.log_softmax(1), "those of the softmax at the end")])  # fmt: skip
def test_predict_adds_no_softmax_to_probabilities(network, note):
    p = seewhy.predict(network, SCORES)
    assert torch.allclose(p.probabilities[:, 0], SCORES.softmax(1).amax(1))
    assert note in p.notes[0]


def test_predict_uses_the_probability_of_each_sigmoid():
    model = seewhy.wrap(nn.Sigmoid(), labels=list("abcd"))
    p = seewhy.predict(model, SCORES, top=4)
    assert torch.equal(p.probabilities, SCORES.sigmoid().sort(1, descending=True).values)
    assert torch.equal(p.output, SCORES.sigmoid())
    assert "need not sum to 1" in p.notes[0]
    single = seewhy.predict(seewhy.wrap(nn.Sigmoid(), labels=["healthy", "ill"]), SCORES[:, :1])
    assert torch.equal(single.probabilities, SCORES[:, :1].sigmoid())
    assert single.labels == (("ill",), ("ill",))


def test_predict_ranks_at_most_all_classes():
    """Two classes, and classes at a single position, have a prediction by default."""
    p = seewhy.predict(lambda x: x, SCORES[:, :2])
    assert p.indices.tolist() == [[1, 0], [0, 1]]
    assert torch.equal(seewhy.predict(lambda x: x[:, :, None, None], SCORES).indices, SCORES.topk(3).indices)
    assert torch.equal(seewhy.predict(seewhy.wrap(lambda x: x[:, None, None], layout="NC"), SCORES).indices,
                       SCORES.topk(3).indices)  # fmt: skip


@pytest.mark.parametrize("labels", [["a", "b"], list("abcde")])
def test_predict_counts_labels_and_scores(labels):
    with pytest.raises(seewhy.OptionError, match=rf"has {len(labels)} labels but returns 4 scores: give one label"):
        seewhy.predict(seewhy.wrap(lambda x: x, labels=labels), SCORES)


def test_predict_rejects_invalid_top_and_outputs():
    with pytest.raises(seewhy.OptionError, match="top=5"):
        seewhy.predict(lambda x: x, SCORES, top=5)
    with pytest.raises(seewhy.ModelError, match="no classes to rank"):
        seewhy.predict(lambda x: x[:, 0], SCORES)
    with pytest.raises(seewhy.ModelError, match="at \\[6, 9\\] positions"):
        seewhy.predict(nn.Conv2d(3, 4, 3, padding=1), torch.ones(1, 3, 6, 9))


def test_predict_disables_dropout():
    net = nn.Dropout(0.9)
    assert torch.equal(seewhy.predict(net, SCORES).output, SCORES)
    assert net.training
