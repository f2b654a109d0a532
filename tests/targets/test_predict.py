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


def test_predict_adds_no_softmax_to_probabilities():
    p = seewhy.predict(lambda x: x.softmax(1), SCORES)
    assert torch.allclose(p.probabilities[:, 0], SCORES.softmax(1).amax(1))
    assert p.notes


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
