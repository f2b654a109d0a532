"""Nothing is left on a borrowed network."""

import threading

import pytest
import torch
from torch import nn

from seewhy.models.borrow import _held, borrowed


def state(module):
    return [p.training for p in module.modules()], [w.requires_grad for w in module.parameters()]


@pytest.fixture
def net():
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)))
    net[2].eval()
    net[0].bias.requires_grad_(False)
    return net


def test_everything_is_as_before(net):
    before = state(net)
    with borrowed(net):
        assert not any(any(flags) for flags in state(net))
    assert state(net) == before
    assert not _held


def test_also_after_an_error(net):
    before = state(net)
    with pytest.raises(RuntimeError), borrowed(net):
        raise RuntimeError
    assert state(net) == before


def test_overlapping_calls_on_shared_parts(net):
    """The first one out must not switch training on for the other; the last one must."""
    before = state(net)
    outer, inner = borrowed(net), borrowed(net[2])
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert not any(state(net[2])[1])
    inner.__exit__(None, None, None)
    assert state(net) == before


def test_many_threads(net):
    before, wrong = state(net), []

    def use():
        for _ in range(200):
            with borrowed(net):
                if any(any(flags) for flags in state(net)):
                    wrong.append(1)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    assert state(net) == before
    assert torch.is_grad_enabled()
