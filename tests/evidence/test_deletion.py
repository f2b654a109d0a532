"""By how much deletion by a map beats deletion by its shuffled self."""

import pytest
import torch
from tests.networks import noise
from torch import nn

import seewhy
from seewhy.evidence.curves import filling, scorer
from seewhy.evidence.deletion import gain
from seewhy.trace.ready import ready


class Corner(nn.Module):
    """One class is for what stands in the upper left corner, the other for nothing."""

    def forward(self, x):
        bright = x[:, :, :7, :7].mean((1, 2, 3))
        return torch.stack([8 * bright - 4, torch.zeros_like(bright)], 1)


@pytest.fixture
def asked():
    x = torch.zeros(6, 1, 28, 28, dtype=torch.float64)
    x[:, :, :7, :7] = 1
    model, x = ready(seewhy.wrap(Corner()), x)
    target = torch.zeros(6, 1, dtype=torch.long)
    return scorer(model, x, target, count=8), filling(model, x, 0.0), x.shape[2:]


def test_a_map_of_the_place_gains_and_its_opposite_loses(asked):
    found = torch.zeros(6, 28, 28, dtype=torch.float64)
    found[:, :7, :7] = 1
    assert (gain(*asked[:2], found, asked[2], 8, 0) > 0.1).all()
    assert (gain(*asked[:2], -found, asked[2], 8, 0) < 0).all()


def test_noise_neither_gains_nor_loses(asked):
    assert abs(float(gain(*asked[:2], noise(6, 28, 28), asked[2], 8, 0).mean())) < 0.05
