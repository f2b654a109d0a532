"""`module_eval_mode` restores every flag of the module."""

import threading

import pytest
import torch
from torch import nn

from seewhy.models.eval_mode import _saved_flags, module_eval_mode


def flags_of(module):
    return [p.training for p in module.modules()], [w.requires_grad for w in module.parameters()]


@pytest.fixture
def net():
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)))
    net[2].eval()
    net[0].bias.requires_grad_(False)
    return net


def test_module_eval_mode_restores_flags(net):
    before = flags_of(net)
    with module_eval_mode(net):
        assert not any(any(flags) for flags in flags_of(net))
    assert flags_of(net) == before
    assert not _saved_flags


def test_module_eval_mode_restores_flags_after_error(net):
    before = flags_of(net)
    with pytest.raises(RuntimeError), module_eval_mode(net):
        raise RuntimeError
    assert flags_of(net) == before


def test_module_eval_mode_with_overlapping_calls(net):
    """The first exit must keep evaluation mode for the other call; the last exit restores the flags."""
    before = flags_of(net)
    outer, inner = module_eval_mode(net), module_eval_mode(net[2])
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert not any(flags_of(net[2])[1])
    inner.__exit__(None, None, None)
    assert flags_of(net) == before


def test_module_eval_mode_in_several_threads(net):
    before, failures = flags_of(net), []

    def use():
        for _ in range(200):
            with module_eval_mode(net):
                if any(any(flags) for flags in flags_of(net)):
                    failures.append(1)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert flags_of(net) == before
    assert torch.is_grad_enabled()
