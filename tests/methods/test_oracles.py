"""All methods of the table against their reference implementations (oracles)."""

import numpy as np
import pytest
import torch
from tests.oracles import ORACLES, Draws
from tests.oracles.attention import NumpyViT, TorchViT
from tests.oracles.network import NumpyNetwork, TorchNetwork

import seewhy
from seewhy.engine.families import FAMILIES
from seewhy.engine.random_numbers import normal_sampler, uniform_sampler

TARGETS = np.array([[3, 0, 2], [1, 2, 0]])
SEED = 4


def draws_of_seed():
    """The random numbers that the methods receive, for the oracles; those of the seed are 32-bit floats."""
    uniform, normal = uniform_sampler(SEED), normal_sampler(SEED, torch.zeros(1, 3, 6, 9, dtype=torch.float64))
    return Draws(lambda *where: uniform(*where).double().numpy(), lambda *where: normal(*where).numpy())


@pytest.fixture(scope="module")
def batch():
    """Two signed samples of three channels, 6 × 9."""
    return np.random.default_rng(7).normal(size=(2, 3, 6, 9)) * 2


def test_every_method_has_an_oracle():
    assert set(ORACLES) == set(seewhy.METHODS), "every method needs an oracle"


@pytest.mark.row(11, 13, 14, 23, 136)
@pytest.mark.parametrize("name", seewhy.METHODS)
def test_method_equals_its_oracle(name, batch):
    network, twin = (
        (NumpyViT(), TorchViT)
        if FAMILIES[seewhy.METHODS[name].family].uses_attention
        else (NumpyNetwork(), TorchNetwork)
    )
    oracle = ORACLES[name]
    expected = oracle.compute(network, batch, TARGETS, **oracle.arguments, **oracle.draw(draws_of_seed()))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        x = torch.tensor(batch, dtype=dtype)
        e = seewhy.explain(twin(network, dtype), x, name, target=torch.tensor(TARGETS), seed=SEED, **oracle.options)
        assert e.values.shape == expected.shape
        assert e.values.dtype == dtype
        scale = np.abs(expected).max()
        if seewhy.METHODS[name].family == "masked_scores":  # differences are only as exact as the scores
            scale = max(scale, float(e.scores.abs().max()))
        assert np.abs(e.values.numpy() - expected).max() <= tolerance * max(scale, 1)


@pytest.mark.row(19, 20)
def test_gradient_and_rectifier_rules_differ(batch):
    network = NumpyNetwork()
    x = torch.tensor(batch)
    values = [
        seewhy.explain(TorchNetwork(network), x, name, target=0).values
        for name in ("gradient", "guided_backprop", "zeiler_fergus")
    ]
    for a in range(3):
        for b in range(a):
            assert (values[a] - values[b]).abs().max() > 0.01
